"""Content and size of the distributions, and the use of the wheel in a user's repository with an adapter."""

import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from dataclasses import dataclass
from email.message import Message
from email.parser import Parser
from pathlib import Path
from types import ModuleType

import pytest
import yaml

ROOT = Path(__file__).parents[2]
FOLDERS = {"tal_reference": "reference", "tal_conformance": "conformance", "tal_reports": "reports"}
"""Names of the packages with their folders in the repository."""
PACKAGES = tuple(FOLDERS)

pytestmark = pytest.mark.slow


@dataclass(frozen=True)
class Consumer:
    """A user's repository with its own environment, in which the wheel is installed."""

    folder: Path
    python: Path

    def files(self) -> set[Path]:
        """Return the relative paths of all files in the folder, except caches of Python and Hypothesis."""
        caches = {"__pycache__", ".hypothesis"}
        return {
            path.relative_to(self.folder)
            for path in self.folder.rglob("*")
            if path.is_file() and not caches & set(path.parts)
        }

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run the environment's Python without the working directory on its path (-P)."""
        ours = ("PYTEST", "PYTHON", "COV", "HYPOTHESIS")
        environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)}
        return subprocess.run(
            [self.python, "-P", *arguments],
            check=False,
            cwd=self.folder,
            env=environment | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=600,
        )


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build a wheel and a source distribution, from a repository with files of a run; return the wheel's path."""
    copy = tmp_path_factory.mktemp("source") / "tal"
    leavings = shutil.ignore_patterns("__pycache__", "runs", "latest")
    for name in (*FOLDERS.values(), "src", "tests"):
        shutil.copytree(ROOT / name, copy / name, ignore=leavings, symlinks=True)
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    run = copy / "reports" / "runs" / "20260101-000000"
    (run / "cases").mkdir(parents=True)
    for name in ("report.html", "summary.json", "cases/0123456789ab.safetensors", "__init__.py"):
        (run / name).write_text("left by a run")
    out = copy / "dist"
    subprocess.run(
        [sys.executable, "-m", "build", "--no-isolation", "--outdir", out, copy],
        check=True,
        capture_output=True,
        timeout=300,
    )
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="session")
def contents(wheel: Path) -> set[str]:
    with zipfile.ZipFile(wheel) as archive:
        return set(archive.namelist())


@pytest.fixture(scope="session")
def metadata(wheel: Path) -> Message:
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        return Parser().parsestr(archive.read(name).decode())


@pytest.fixture(scope="session")
def consumer(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Consumer:
    """Return a user's repository whose environment has the wheel, and uses this environment's torch."""
    folder = tmp_path_factory.mktemp("consumer")
    venv.create(folder / ".venv", with_pip=False)
    python = folder / ".venv" / "bin" / "python"
    site = Path(sysconfig.get_path("purelib", vars={"base": str(folder / ".venv")}))
    lent = dict.fromkeys(sysconfig.get_path(name) for name in ("purelib", "platlib"))
    # Python ignores .pth files in these folders, so that an editable install of this project is not found.
    (site / "lent.pth").write_text("\n".join(lent))
    subprocess.run(
        [sys.executable, "-m", "pip", "--python", python, "install", "--no-deps", "--no-index", wheel],
        check=True,
        capture_output=True,
        timeout=300,
    )
    package = folder / "my_pkg"
    package.mkdir()
    (package / "__init__.py").touch()
    return Consumer(folder, python)


def test_every_file_of_the_packages_is_in_it(contents: set[str]):
    expected = {
        f"{package}/{path.relative_to(ROOT / folder).as_posix()}"
        for package, folder in FOLDERS.items()
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and not {"__pycache__", "runs"} & set(path.parts)
    }
    pictures = {"tal_reports/example-report.png", "tal_reports/example-anchor.png"}  # pictures of the README
    assert expected - pictures <= contents
    assert {f"{package}/py.typed" for package in PACKAGES} <= expected


def test_nothing_else_is_in_it(contents: set[str]):
    tops = {re.sub(r"-[\d.]+\d", "", name.split("/")[0]) for name in contents}
    assert tops == {*PACKAGES, "tal_folder_names.py", "tal_text.py", "tal_conformance.dist-info"}
    assert not [name for name in contents if "runs/" in name]


def release_check() -> ModuleType:
    """Return the module `.ci/release.py`."""
    spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_distributions_pass_the_check_of_a_release(wheel: Path):
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    check = release_check()
    assert check.problems(wheel.parent, version, f"v{version}") == []
    assert wheel.stat().st_size < check.LARGEST_WHEEL == 1_500_000


def test_the_check_of_a_release_finds_what_is_wrong(tmp_path: Path):
    check = release_check()
    (tmp_path / "tal_conformance-1.0-py3-none-any.whl").write_bytes(bytes(check.LARGEST_WHEEL + 1))
    problems = check.problems(tmp_path, "1.0", "v1.1")
    assert [problem.split(":")[0].split(" has ")[0] for problem in problems] == [
        "the tag is v1.1, but pyproject.toml",
        str(tmp_path),
        "tal_conformance-1.0-py3-none-any.whl",
    ]


def test_the_check_of_a_release_wants_a_section_of_the_changelog():
    check = release_check()
    assert check.changelog_problems("0.2.0", "# Changelog\n\n## [0.2.0] - 2026-11-30\n") == []
    (problem,) = check.changelog_problems("0.3.0", "# Changelog\n\n## [0.2.0] - 2026-11-30\n")
    assert problem.startswith("CHANGELOG.md has no section for version 0.3.0")


def test_the_source_distribution_has_the_packages_and_no_run(wheel: Path):
    (source,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(source) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "README.md", "LICENSE"} <= names
    assert {f"src/{package}/py.typed" for package in PACKAGES} <= names
    assert not [name for name in names if "/runs/" in name]


def test_the_citation_names_the_version_and_the_licence():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert (citation["version"], citation["license"]) == (project["version"], project["license"])


@pytest.mark.parametrize(
    "path", sorted((ROOT / ".github" / "ISSUE_TEMPLATE").glob("*-*.yml")), ids=lambda p: p.stem
)
def test_an_issue_about_a_verdict_needs_the_case(path: Path):
    body = yaml.safe_load(path.read_text(encoding="utf-8"))["body"]
    assert len({field["id"] for field in body}) == len(body)
    (case,) = (field for field in body if field["id"] == "case")
    assert case["validations"]["required"]


def test_its_metadata(metadata: Message, contents: set[str]):
    assert metadata["Name"] == "tal-conformance"
    assert metadata["License-Expression"] == "Apache-2.0"
    assert metadata["Requires-Python"] == ">=3.11"
    assert any(name.endswith(".dist-info/licenses/LICENSE") for name in contents)


def test_its_requirements_leave_an_installed_torch_alone(metadata: Message):
    required = [line for line in metadata.get_all("Requires-Dist") or [] if "extra ==" not in line]
    assert [line for line in required if re.match(r"torch\b", line)]
    assert not [line for line in required if re.search(r"[<=~!]=|<|@", line.replace(">=", ""))]


def test_the_installed_modules_are_the_wheels_own(consumer: Consumer):
    names = ", ".join(PACKAGES)
    done = consumer.run("-c", f"import {names}; print(*(p.__file__ for p in ({names})), sep='\\n')")
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(consumer.folder) for line in done.stdout.split())


def test_options_are_not_added_to_other_peoples_pytest_runs(consumer: Consumer):
    (consumer.folder / "test_own.py").write_text("def test_own(): pass\n")
    done = consumer.run("-m", "pytest", "test_own.py", "--help")
    assert done.returncode == 0, done.stderr
    assert "--conformance-profile" not in done.stdout


def test_an_adapter_in_another_repository_is_tested_there(consumer: Consumer, readme_assigner: str):
    (consumer.folder / "my_pkg" / "adapter.py").write_text(readme_assigner + "\n\ntal = MyAssigner()\n")
    before = consumer.files()
    done = consumer.run(
        *("-m", "pytest", "--pyargs", "tal_conformance", "--implementation", "my_pkg.adapter:tal"),
        *("--examples", "3", "-p", "no:cacheprovider", "--benchmark-skip"),
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "tal-conformance-reports" in done.stdout
    assert {path.parts[0] for path in consumer.files() - before} == {"tal-conformance-reports"}
    report = consumer.folder / "tal-conformance-reports" / "latest" / "report.html"
    assert report.stat().st_size > 0
    summary = json.loads(report.with_name("summary.json").read_text(encoding="utf-8"))
    assert [implementation["name"] for implementation in summary["implementations"]] == ["my-assigner"]
    assert summary["implementations"][0]["batches"] > 0
    assert summary["exit"] == 0


@pytest.fixture
def namesake(consumer: Consumer, tmp_path: Path) -> Consumer:
    """Return a user's repository whose own packages are named conformance, reference and reports."""
    for name in FOLDERS.values():
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(f"OWNER = 'somebody else: {name}'\n")
        (tmp_path / name / f"test_{name}.py").write_text(
            f"import {name}\n\n\ndef test_own():\n    assert {name}.OWNER == 'somebody else: {name}'\n"
        )
    return Consumer(tmp_path, consumer.python)


def test_a_repository_with_packages_of_all_three_names_runs_its_own_tests(namesake: Consumer):
    done = namesake.run("-m", "pytest", "-p", "no:cacheprovider", *FOLDERS.values())
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    assert "3 passed" in done.stdout


@pytest.mark.long
def test_a_repository_with_packages_of_all_three_names_runs_the_suite(
    namesake: Consumer, readme_assigner: str
):
    adapter = "import conformance, reference, reports\n\n"
    adapter += (
        "assert all('somebody' in own.OWNER for own in (conformance, reference, reports))\n\n"
        + readme_assigner
    )
    (namesake.folder / "my_adapter.py").write_text(adapter)
    done = namesake.run(
        *("-m", "pytest", "--pyargs", "tal_conformance", "--implementation", "my_adapter.py:MyAssigner"),
        *("--examples", "2", "-p", "no:cacheprovider", "--benchmark-skip", "-k", "topk or metric"),
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
    report = namesake.folder / "tal-conformance-reports" / "latest" / "summary.json"
    (mine,) = json.loads(report.read_text(encoding="utf-8"))["implementations"]
    assert mine["batches"] > 0


def test_the_console_script_says_its_version(consumer: Consumer):
    script = consumer.python.with_name("tal-conformance")
    done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert re.search(r"\d+\.\d+", done.stdout)


@pytest.mark.long
def test_assert_conforms_runs_beside_packages_of_all_three_names(namesake: Consumer, readme_assigner: str):
    (namesake.folder / "my_adapter.py").write_text(readme_assigner)
    (namesake.folder / "test_mine.py").write_text(
        "import conformance, reference, reports\n\n"
        "from my_adapter import MyAssigner\n"
        "from tal_conformance import assert_conforms\n\n\n"
        "def test_mine(conforms):\n"
        "    assert 'somebody' in conformance.OWNER + reference.OWNER + reports.OWNER\n"
        "    options = ['--examples', '2', '-k', 'topk']\n"
        "    assert assert_conforms(MyAssigner, 'dev', options=options).conforms\n"
        "    assert conforms(MyAssigner(), 'dev', options=options).counts['exact'] > 0\n"
    )
    done = namesake.run("-m", "pytest", "-p", "no:cacheprovider", "test_mine.py")
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-5000:]
