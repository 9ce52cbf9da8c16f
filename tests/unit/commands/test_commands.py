"""The command line as a whole: program name, version, help, unknown names, and an import without torch."""

import subprocess
import sys
from pathlib import Path

import pytest

from tal_conformance.commands import COMMANDS, main
from tal_conformance.commands.program import program_name

ROOT = Path(__file__).parents[3]


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
    for option, text in (("--version", "tal-conformance 0."), ("--help", "find the release at which")):
        with pytest.raises(SystemExit) as end:
            main([option])
        assert end.value.code == 0
        assert text in capsys.readouterr().out


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
    "call", ["c.main(['--version'])", "c.main(['--help'])", "c.main(['evas'])", "c.main([])"]
)
def test_no_torch_for_version_help_and_usage_errors(call: str):
    code = f"import contextlib\nimport tal_conformance.commands as c\nwith contextlib.suppress(SystemExit): {call}\n"
    code += "import sys\nassert 'torch' not in sys.modules, 'torch was imported'"
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
