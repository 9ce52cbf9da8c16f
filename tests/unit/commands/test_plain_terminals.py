"""Every command works on streams that can encode ASCII only, and without standard streams."""

import io
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.common import run_logs as factory

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import COMMANDS, main
from tal_reports.__main__ import main as reports
from tal_text import prepare_streams, say

Program = Callable[[list[str]], int]
REPORTS = ("render", "summary", "badge", "compare", "merge", "markdown", "issue")
STRANGE = "näme-→-\u202e-\U0001f600"
"""A name whose characters ASCII does not have, one of which controls the direction of text."""


class Streams:
    """Standard output and standard error that can encode ASCII only, or that do not exist.

    They are made within a test: pytest replaces the streams between a test's fixtures and the test.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch, exist: bool) -> None:
        self._bytes: list[io.BytesIO] = []
        for name in ("stdout", "stderr"):
            self._bytes.append(io.BytesIO())
            stream = io.TextIOWrapper(self._bytes[-1], encoding="ascii") if exist else None
            monkeypatch.setattr(sys, name, stream)

    def text(self) -> str:
        """Return all text that was written."""
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        return "".join(content.getvalue().decode("ascii") for content in self._bytes)


both = pytest.mark.parametrize("exist", [True, False], ids=["ascii", "closed"])


@both
@pytest.mark.parametrize(
    ("program", "command"),
    [*((main, command) for command in COMMANDS), *((reports, command) for command in REPORTS)],
    ids=[*COMMANDS, *REPORTS],
)
def test_every_command_prints_help(
    program: Program, command: str, exist: bool, monkeypatch: pytest.MonkeyPatch
):
    streams = Streams(monkeypatch, exist)
    with pytest.raises(SystemExit) as end:
        program([command, "--help"])
    assert end.value.code == 0
    assert "Traceback" not in streams.text()


USES: dict[str, tuple[list[str], int]] = {
    "init": (["--from", f"{STRANGE}.py:x"], 2),
    "replay": (["{folder}/case.safetensors", "--implementation", "reference"], 0),
    "explain": (["{folder}/case.safetensors"], 0),
    "doctor": (["{folder}/case.safetensors"], 0),
    "diff": (["reference", STRANGE], 2),
    "bisect": ([STRANGE], 2),
    "identify": ([STRANGE], 2),
    "clause": (["TAL"], 0),
    "findings": ([], 0),
    "eras": (["--releases", STRANGE], 2),
    "record": (["{folder}/" + STRANGE], 2),
    "overhead": (["--steps", STRANGE], 2),
    "measure": (["--examples", "1", "--implementation", STRANGE], 2),
    "power": ([STRANGE], 2),
    "export": ([f"{{folder}}/{STRANGE}", "--profile", STRANGE], 2),
    "judge": (["{folder}/" + STRANGE], 2),
}
"""A short use of each command, and its exit status: commands that take long are called with strange words."""


def status_of(program: Program, words: list[str]) -> int:
    """Return the exit status of a program, also if argparse ends it."""
    try:
        return program(words)
    except SystemExit as end:
        return int(end.code or 0)


@both
@pytest.mark.parametrize(
    "command",
    [pytest.param(command, marks=pytest.mark.slow if command == "replay" else ()) for command in COMMANDS],
)
def test_commands_work(command: str, exist: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    streams = Streams(monkeypatch, exist)
    Recipe(images=((Truth("ordinary"),),), classes=2).build().save(tmp_path / "case.safetensors")
    words, status = USES[command]
    assert status_of(main, [command, *(word.format(folder=tmp_path) for word in words)]) == status
    assert "Traceback" not in streams.text()


@both
@pytest.mark.parametrize("command", REPORTS)
def test_reports_work(command: str, exist: bool, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    streams = Streams(monkeypatch, exist)
    runs = [str(factory.write(tmp_path / name, factory.failing())) for name in ("before", STRANGE)]
    words = {"compare": runs, "merge": [runs[1], "--into", f"{tmp_path}/merged"]}.get(command, runs[1:])
    assert status_of(reports, [command, *words]) in (0, 1)
    assert "Traceback" not in streams.text()


def test_a_reader_that_ends_early_ends_nothing(monkeypatch: pytest.MonkeyPatch):
    class Closed(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

        def fileno(self) -> int:
            return file.fileno()

    with (Path("/dev/null")).open("w", encoding="utf-8") as file:
        monkeypatch.setattr(sys, "stdout", Closed())
        say("never read")
    monkeypatch.setattr(sys, "stdout", io.StringIO())
    say("read")
    assert sys.stdout.getvalue() == "read\n"


def test_streams_that_exist_stay(monkeypatch: pytest.MonkeyPatch):
    before = sys.stdout, sys.stderr
    prepare_streams()
    assert (sys.stdout, sys.stderr) == before
