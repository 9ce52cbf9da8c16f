"""The page of answered reports quotes what the commands print."""

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tal_conformance.commands import main

PAGE = (Path(__file__).parents[2] / "docs" / "public-reports.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"```(\w+)\n(.*?)```", re.DOTALL)
RUN_HERE = ("doctor", "explain", "replay")
"""Commands of the page whose quoted output is compared; `record` needs a training."""


def quoted() -> Iterator[tuple[list[str], list[str]]]:
    """Yield the commands of each block with those lines of its output that the page quotes."""
    commands: list[str] = []
    for language, text in BLOCK.findall(PAGE):
        if language == "bash":
            commands = text.splitlines()
        elif language == "text":
            yield commands, text.splitlines()


@pytest.fixture
def folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder in which the page's script was run."""
    monkeypatch.chdir(tmp_path)
    ((_, script),) = [block for block in BLOCK.findall(PAGE) if block[0] == "python"]
    exec(compile(script, "reports.py", "exec"), {})
    return tmp_path


def test_the_quoted_output_is_printed(folders: Path, capsys: pytest.CaptureFixture[str]):
    blocks = list(quoted())
    assert len(blocks) == 8
    for commands, lines in blocks:
        printed = ""
        for command in commands:
            _, name, *arguments = command.split()
            if name in RUN_HERE:
                files = [str(next(folders.glob(word))) if "*" in word else word for word in arguments]
                main([name, *files])
                printed += capsys.readouterr().out
        missing = [line for line in lines if line not in printed.splitlines()]
        assert not missing, printed
