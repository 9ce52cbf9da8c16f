"""Every misbehaving adapter has the result that docs/security.md lists, with and without `--isolate`."""

import threading
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path

import pytest
from tests.fauxmplementations.table import (
    CONFORMS,
    DIVERGENT,
    ERROR,
    FOLDER,
    REFUSED,
    RESULTS,
    Result,
    doubles,
    table,
)

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.verdicts import Divergence, Verdict
from tal_conformance.implementations.errors import (
    ImplementationFailed,
    ProtocolViolation,
    UnknownImplementation,
)
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.guards.code_state import baseline
from tal_conformance.implementations.guards.open_files import open_files
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge

PAGE = Path(__file__).parents[2] / "docs" / "security.md"
BATCH = Recipe(images=((Truth("ordinary"),),), classes=2).build()
ONE_BATCH = ("lying", "replacing", "process_state", "overwhelming", "awkward", "escaping")
"""Files of doubles that misbehave on one batch; `test_misbehaviour` and `test_supervision` run the others."""
NEEDS_A_SUPERVISOR = ("DaemonisesTwice", "ConnectsInC")
"""Doubles that need a whole run of the suite: they start daemons, or open connections that may block."""
FOUND_AFTER_THE_TEST = ("ReplacesTheJudge", "ReplacesNumpy")
"""Doubles that replace code which a run of the suite compares at the end of each test."""
NAMES = [
    f"{file}.py:{name}" for file, members in doubles().items() if file in ONE_BATCH for name, _ in members
]


def test_the_page_has_the_table():
    assert table() in PAGE.read_text(encoding="utf-8")
    assert sum(map(len, doubles().values())) >= 45
    known = {name for members in doubles().values() for name, _ in members}
    assert set(RESULTS) <= known


@pytest.fixture
def code_before() -> Iterator[None]:
    """Take the code and the open files before a test; after it, wait for the threads that a double has started."""
    import_module("ultralytics.utils.tal")
    threads = set(threading.enumerate())
    open_files.protect()
    baseline.take()
    yield
    for thread in set(threading.enumerate()) - threads:
        thread.join(timeout=2)
    baseline.forget()
    open_files.release()


def result_of(name: str, isolate: bool) -> str:
    """Return the result of an adapter on a batch as docs/security.md names it, such as "divergent" or "error"."""
    try:
        double = find(f"{FOLDER}/{name}", isolate)
    except (UnknownImplementation, ProtocolViolation) as refusal:
        print(f"{name} is refused: {refusal}")
        return REFUSED
    try:
        outcome = execute(double, BATCH)
        return (
            CONFORMS
            if judge(outcome, Expectation(BATCH, double.dialect)).verdict is Verdict.EXACT
            else DIVERGENT
        )
    except ImplementationFailed:
        return ERROR
    except Divergence:
        return DIVERGENT
    finally:
        if isolate:
            double.adapter.worker.close()


def expected(name: str) -> Result:
    return RESULTS.get(name.partition(":")[2], Result())


@pytest.mark.parametrize(
    "name",
    [
        name
        for name in NAMES
        if expected(name).here in (ERROR, DIVERGENT, CONFORMS, REFUSED)
        and name.partition(":")[2] not in (*NEEDS_A_SUPERVISOR, *FOUND_AFTER_THE_TEST)
    ],
)
def test_in_process_beside_a_bystander(name: str, code_before: None):
    assert result_of(name, isolate=False) == expected(name).here
    assert result_of("misbehaving.py:Right", isolate=False) == CONFORMS


@pytest.mark.slow
@pytest.mark.long  # starts a worker for each double: run nightly, and after changes to workers
@pytest.mark.parametrize("name", NAMES)
def test_isolated(name: str):
    assert result_of(name, isolate=True) == expected(name).isolated
