"""The command line as a whole: program name, version, help, unknown names, and an import without torch."""

import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.version import Version

from tal_conformance.commands import COMMANDS, main, program
from tal_conformance.commands.program import program_name

ROOT = Path(__file__).parents[3]
SLOW_PACKAGES = {"torch", "ultralytics", "hypothesis", "numpy", "scipy", "pytest"}
VERSION = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]


@pytest.mark.parametrize(
    ("script", "folder", "name"),
    [
        ("/somewhere/bin/tal-conformance", "elsewhere", "tal-conformance"),
        ("tal-conformance.exe", "elsewhere", "tal-conformance"),
        ("/somewhere/tal_conformance/__main__.py", "clone", "python -m conformance"),
        ("/somewhere/tal_conformance/__main__.py", "elsewhere", "python -m tal_conformance"),
        ("/somewhere/tal_conformance/__main__.py", "other", "python -m tal_conformance"),
    ],
)
def test_the_program_name_starts_the_program(
    script: str, folder: str, name: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    (tmp_path / "other" / "conformance").mkdir(parents=True)
    (tmp_path / "other" / "conformance" / "__main__.py").touch()
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.setattr(sys, "argv", [script])
    monkeypatch.chdir(ROOT if folder == "clone" else tmp_path / folder)
    assert program_name() == name


def test_version_and_help(capsys: pytest.CaptureFixture[str]):
    for option, text in (
        ("--version", f"tal-conformance {VERSION}\n"),
        ("--help", "find the release at which"),
    ):
        with pytest.raises(SystemExit) as end:
            main([option])
        assert end.value.code == 0
        assert text in capsys.readouterr().out


def test_the_version_of_an_installed_copy_is_that_of_its_metadata(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
):
    """A pyproject.toml of another project beside the package is not read."""
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "other"\nversion = "7"\n')
    monkeypatch.setattr(program, "PACKAGE", tmp_path / "tal_conformance")
    monkeypatch.setattr(program.metadata, "version", lambda name: f"that of {name}")
    assert program.version() == "that of tal-conformance"


def test_no_deprecated_name_outlives_its_release():
    """Names that stop working in a release say so; none of them is of this release or an older one."""
    sources = [
        path
        for folder in ("conformance", "reference", "reports", "src")
        for path in (ROOT / folder).glob("**/*.py")
    ]
    texts = [
        path.read_text(encoding="utf-8")
        for path in [*sources, *(ROOT / "changelog.d").glob("*deprecated.md")]
    ]
    ends = {
        end for text in texts for end in re.findall(r"(?:until|removed in|stops working in) (\d+\.\d+)", text)
    }
    assert ends
    assert all(Version(end) > Version(VERSION) for end in ends)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main([command, "--help"])
    assert end.value.code == 0
    output = " ".join(capsys.readouterr().out.split())
    assert f"{COMMANDS[command].summary[1:]}." in output
    statuses = COMMANDS[command].statuses
    assert {0, 2} <= set(statuses)
    for status, meaning in statuses.items():
        assert f"{status}: {meaning}" in output


@pytest.mark.parametrize(
    "words",
    [
        ["--version"],
        ["--help"],
        ["evas"],
        [],
        *([command, "--help"] for command in COMMANDS),
        ["replay", "--bad"],
    ],
    ids=" ".join,
)
def test_version_help_and_usage_errors_import_no_slow_package(words: list[str]):
    """Each takes about 0.1 s; torch alone takes 1 s."""
    code = (
        "import contextlib\nimport tal_conformance.commands as c\n"
        f"with contextlib.suppress(SystemExit): c.main({words})\n"
        f"import sys\nassert not (slow := {SLOW_PACKAGES} & set(sys.modules)), slow"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT / "src"
    )
    assert done.returncode == 0, done.stderr


def test_an_unknown_command(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as end:
        main(["evas"])
    assert end.value.code == 2
    assert "unknown command 'evas'; did you mean 'eras'? Known commands: init, " in capsys.readouterr().err


def test_an_unknown_implementation_is_one_line(capsys: pytest.CaptureFixture[str]):
    assert main(["diff", "nobody", "reference"]) == 2
    assert main(["identify", "nobody"]) == 2
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 2
    assert lines[1].startswith("python -m conformance identify: ")
    assert all("'nobody'" in line for line in lines)


def test_an_interrupt_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    from tal_conformance.commands import clause

    def interrupted(options: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(clause, "run", interrupted)
    assert main(["clause", "TAL-CAND-1"]) == 130
    assert capsys.readouterr().err.strip() == f"{program_name()} clause: interrupted"
