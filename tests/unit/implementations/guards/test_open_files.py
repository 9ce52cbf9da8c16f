"""Files of the suite that a call closed or redirected are found and repaired, or named if they cannot be repaired."""

import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tal_conformance.core.supervision import Damaged
from tal_conformance.implementations.guards import process_state
from tal_conformance.implementations.guards.descriptors import open_descriptors
from tal_conformance.implementations.guards.open_files import OpenFiles, identity, is_open
from tal_conformance.implementations.guards.process_state import watched

Log = tuple[int, Path]


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Return the descriptor and the path of an open file, which stands for the log of a run."""
    path = tmp_path / "log.jsonl"
    number = os.open(path, os.O_CREAT | os.O_WRONLY | os.O_APPEND)
    yield number, path
    os.close(number)


@pytest.fixture
def files(log: Log, monkeypatch: pytest.MonkeyPatch) -> Iterator[OpenFiles]:
    """Return a record that protects all open files, and which `watched` uses."""
    record = OpenFiles()
    record.protect()
    monkeypatch.setattr(process_state, "open_files", record)
    yield record
    record.release()


def redirect(number: int) -> None:
    """Redirect a file to the null device."""
    null = os.open(os.devnull, os.O_WRONLY)
    os.dup2(null, number)
    os.close(null)


@pytest.mark.parametrize("attack", [os.close, redirect])
def test_the_log_is_repaired(attack: Callable[[int], None], log: Log, files: OpenFiles):
    number, path = log
    _, changed = watched(lambda: attack(number))
    assert changed == [f"the open files (descriptor {number})"]
    os.write(number, b"written")
    assert path.read_bytes() == b"written"
    assert watched(lambda: None)[1] == []


@pytest.mark.parametrize(("number", "name"), [(1, "standard output"), (2, "standard error")])
@pytest.mark.parametrize("attack", [os.close, redirect])
def test_the_standard_streams_are_repaired(
    attack: Callable[[int], None], number: int, name: str, files: OpenFiles
):
    before = identity(number)
    assert watched(lambda: attack(number))[1] == [name]
    assert identity(number) == before


def test_a_stream_that_was_closed_before_is_closed_again(files: OpenFiles):
    kept = os.dup(0)
    os.close(0)
    try:
        assert watched(lambda: os.open(os.devnull, os.O_RDONLY))[1] == ["standard input"]
        assert identity(0) is None
    finally:
        os.dup2(kept, 0)
        os.close(kept)


def test_new_files_are_allowed(files: OpenFiles):
    opened, changed = watched(lambda: os.open(os.devnull, os.O_RDONLY))
    os.close(opened)
    assert changed == []


def test_a_file_whose_copy_is_closed_too_is_lost(log: Log, files: OpenFiles):
    number, path = log

    def attack() -> None:
        for other in open_descriptors():
            if identity(other) == identity(number) and other != number:
                os.close(other)
        os.close(number)

    with pytest.raises(Damaged, match=rf"it changed the open files \(descriptor {number}\), which could not"):
        watched(attack)
    assert files.lost == [f"the open files (descriptor {number})"]
    os.dup2(os.open(path, os.O_WRONLY), number)


def test_a_closed_stream_of_python_is_lost(files: OpenFiles, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    stream = (tmp_path / "out").open("w")
    monkeypatch.setattr(sys, "stdout", stream)
    with pytest.raises(Damaged, match="it changed the streams of sys"):
        watched(stream.close)


def test_released_files_are_not_protected(log: Log):
    record = OpenFiles()
    assert not record.protected
    record.protect()
    assert record.protected
    copies = [copy for _, copy in record._copies.values()]
    record.release()
    assert not record.protected
    assert [identity(copy) for copy in copies] == [None] * len(copies)
    redirect(log[0])
    assert record.repair((*map(identity, range(3)), [])) == []


def test_streams_are_open_or_closed(tmp_path: Path):
    stream = (tmp_path / "x").open("w")
    assert is_open(stream)
    stream.close()
    assert not is_open(stream)
    assert not is_open(None)
