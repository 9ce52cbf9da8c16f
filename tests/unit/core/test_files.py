"""Only regular files of limited size are opened.

A pipe could block the suite, and a huge file could exhaust the memory.
"""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.files import LARGEST_FILE, check_regular
from tal_conformance.implementations import outcome_file
from tal_conformance.known_issues.ledger import InvalidLedger, read_ledger
from tal_reports import LogError, read_log
from tal_reports.analysis.history import read_history


def sparse(path: Path) -> None:
    with path.open("wb") as file:
        file.truncate(64 * 2**30)


MAKERS: dict[str, Callable[[Path], None]] = {
    "a pipe": os.mkfifo,
    "a device": lambda path: path.symlink_to("/dev/zero"),
    "a directory": Path.mkdir,
    f"68,719,476,736 bytes, expected at most {LARGEST_FILE:,}": sparse,
}


@pytest.fixture(params=MAKERS)
def unusual(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Path]:
    path = tmp_path / "log.jsonl"
    MAKERS[request.param](path)
    return request.param, path


def test_unusual_files_are_refused_unopened(unusual: tuple[str, Path]):
    what, path = unusual
    with pytest.raises(OSError, match=what):
        check_regular(path)


def test_every_reader_refuses_them(unusual: tuple[str, Path]):
    _, path = unusual
    with pytest.raises(OSError, match="expected"):
        Batch.load(path)
    with pytest.raises(OSError, match="expected"):
        outcome_file.load(path, Recipe().build())
    with pytest.raises(InvalidLedger, match="expected"):
        read_ledger(path)
    with pytest.raises(LogError):
        read_log(path)
    assert read_history(path) == []


def test_a_regular_file_and_a_link_to_one_are_read(tmp_path: Path):
    path, link = tmp_path / "x", tmp_path / "link"
    path.write_bytes(b"1")
    link.symlink_to(path)
    check_regular(path)
    check_regular(link)
