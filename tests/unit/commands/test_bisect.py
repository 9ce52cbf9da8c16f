"""Command `bisect`: searched clauses, ranges of releases, and the printed line about each change of behaviour."""

from dataclasses import replace

import pytest

from tal_conformance.commands import bisect, main
from tal_conformance.commands.bisect import check_clause
from tal_conformance.commands.program import CommandError
from tal_conformance.dialects import bisection
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics_losses import parsed
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_reference.eras import dialect_of
from tal_reference.eras_of_tasks import dialect_in

RELEASES = [(8, 4, number) for number in range(120, 135)]


@pytest.fixture
def releases(monkeypatch: pytest.MonkeyPatch) -> None:
    """Replace every release by the reference in the dialect of the release's era."""

    def find(name: str) -> Implementation:
        dialect = dialect_of(parsed(name.removeprefix("ultralytics==")))
        return replace(implementation_from(ReferenceAdapter(dialect), name), dialect=dialect)

    for module in (bisect, bisection):
        monkeypatch.setattr(module, "find", find)
    monkeypatch.setattr(bisect, "published", lambda first, last: [r for r in RELEASES if first <= r <= last])


Capture = pytest.CaptureFixture[str]


@pytest.mark.usefixtures("releases")
def test_the_release_of_a_change(capsys: Capture):
    assert main(["bisect", "8.4.120..8.4.134"]) == 1
    output, progress = capsys.readouterr()
    (line,) = output.splitlines()
    assert line.startswith("TAL-CAND-2: 8.4.128 (until 8.4.127: ")
    assert "TAL-CAND-2: 8.4.128 is changed" in progress
    assert "TAL-CAND-2: 8.4.127 is as before" in progress


def test_workers_are_closed(monkeypatch: pytest.MonkeyPatch, releases: None, capsys: Capture):
    """`bisect` closes every worker process that it started."""
    running: set[int] = set()

    class Worker:
        def __init__(self) -> None:
            running.add(id(self))

        def close(self) -> None:
            running.discard(id(self))

    workers, find_reference = [], bisection.find

    def find(name: str) -> Implementation:
        implementation = find_reference(name)
        implementation.adapter.worker = Worker()
        workers.append(implementation.adapter.worker)
        return implementation

    for module in (bisect, bisection):
        monkeypatch.setattr(module, "find", find)
    assert main(["bisect", "8.4.120..8.4.134"]) == 1
    assert len(workers) > 4
    assert not running


@pytest.mark.usefixtures("releases")
def test_no_change(capsys: Capture):
    assert main(["bisect", "8.4.128..8.4.134"]) == 0
    assert capsys.readouterr().out == "assigner and loss: the same in 8.4.128 and 8.4.134\n"
    assert main(["bisect", "8.4.120..8.4.134", "--clause", "LOSS-BOX-1"]) == 0
    assert capsys.readouterr().out == "clause LOSS-BOX-1: the same in 8.4.120 and 8.4.134\n"


@pytest.mark.parametrize(
    ("clause", "message"),
    [
        ("TAL-CAND2", "in a clause of this name; did you mean 'TAL-CAND-2'"),
        ("loss-box-1", "did you mean 'LOSS-BOX-1'"),
        ("nonsense", "Clauses in which dialects differ: LOSS-BOX-1, "),
        ("ANN-1", "the release that changed the behaviour of this clause cannot be found"),
    ],
)
def test_a_clause_that_cannot_be_bisected_is_an_error(clause: str, message: str, capsys: Capture):
    with pytest.raises(CommandError, match=clause):
        check_clause(clause)
    assert main(["bisect", "8.4.120..8.4.134", "--clause", clause]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize("text", ["8.4.0", "8.4.1..8.4.0"])
def test_an_invalid_range_is_an_error(text: str, capsys: Capture):
    assert main(["bisect", text]) == 2
    assert capsys.readouterr().err.startswith("python -m conformance bisect: ")


def test_the_releases_of_changes_of_rotated_boxes(monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    """`--task obb` finds each change at its own release, although nearly every batch shows several of them."""
    numbers = [(8, 3, 253), (8, 4, 0), (8, 4, 7), (8, 4, 8), (8, 4, 24), (8, 4, 25), (8, 4, 38)]

    def find(name: str) -> Implementation:
        dialect = dialect_in(parsed(name.removeprefix("ultralytics==")), "obb")
        assert dialect is not None
        found = implementation_from(ReferenceAdapter(dialect), name)
        return replace(found, dialects={"obb": dialect})

    for module in (bisect, bisection):
        monkeypatch.setattr(module, "find", find)
    monkeypatch.setattr(bisect, "published", lambda first, last: numbers)
    assert main(["bisect", "8.3.253..8.4.38", "--task", "obb"]) == 1
    output, _ = capsys.readouterr()
    found = {line.partition(": ")[0]: line.split(": ")[1].split()[0] for line in output.splitlines()}
    assert found == {
        "TAL-CAND-2": "8.4.8",
        "TAL-CONF-2": "8.4.0",
        "LOSS-DFL-1": "8.4.0",
        "OBB-DFL-1": "8.4.0",
        "OBB-ANG-1": "8.4.0",
        "OBB-CAND-1": "8.4.8",
    }
