"""The page of answered reports quotes what the commands print."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from tal_conformance.commands import diff, main
from tal_conformance.dialects import comparison
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics_losses import parsed
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_reference.eras_of_tasks import dialect_in

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


ROW = re.compile(r"^\| (.*?) \| `tal-conformance diff (\S+) (\S+) --task (\w+)` \| (.*?) \|$", re.MULTILINE)
"""A row of the table of reports about two releases: report, releases, task and answer."""
CLAUSE = re.compile(r"\b(?:[A-Z0-9]+-)+\d\b")


@pytest.mark.parametrize("row", ROW.findall(PAGE), ids=lambda row: row[0][:5])
def test_a_comparison_of_releases_has_the_answer_of_the_page(
    row: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """The command names exactly the clauses of the answer; the reference in each release's dialect stands for it."""
    _, before, after, task, answer = row

    def find(name: str) -> Implementation:
        dialect = dialect_in(parsed(name), task)
        assert dialect is not None
        return replace(implementation_from(ReferenceAdapter(dialect), name), dialects={task: dialect})

    monkeypatch.setattr(diff, "find", find)
    monkeypatch.setattr(comparison, "violations", lambda *_: iter(()))
    monkeypatch.setattr(comparison, "ORDINARY_BATCHES", 2)
    assert main(["diff", before, after, "--task", task, "--html", str(tmp_path / "page.html")]) == 1
    printed = re.findall(r"^  (\S+): before, ", capsys.readouterr().out, re.MULTILINE)
    assert set(printed) == set(CLAUSE.findall(answer))
    assert "<svg" in (tmp_path / "page.html").read_text(encoding="utf-8")


def test_the_table_has_the_reports_about_two_releases():
    assert [row[0].partition(":")[0] for row in ROW.findall(PAGE)][:4] == ["24205", "24577", "24920", "24638"]
