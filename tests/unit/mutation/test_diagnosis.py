"""The measurement of the search for a cause plants what it says, and its results mean what they say."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest

from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.dialects.identified import Identification
from tal_conformance.dialects.observations import Observations
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure
from tal_conformance.mutation import diagnosis
from tal_conformance.mutation.diagnosis import (
    EXACT,
    NOTHING,
    PARTLY,
    RESULTS,
    TIE,
    UNSEEN,
    WRONG,
    Diagnosis,
    computing,
    faulty_implementations,
    has_effect,
    measure_search,
    random_dialects,
    result_of,
    table,
)
from tal_conformance.mutation.plant import HIDDEN, MODES, OUTPUTS_ALONE
from tal_conformance.mutation.planted_faults import FAULTS
from tal_conformance.mutation.planted_faults.as_choices import FAULTS_AS_CHOICES
from tal_reference import NEWEST, Dialect, parse
from tal_reference.choices import differences

PAIR = parse(f"{NEWEST.name}, overlap=iou, edge_counts")


def found_as(dialect: Dialect, unexplained: int = 0, **fields: Any) -> Identification:
    """Return an identification of an implementation that declares the newest release."""
    left: dict[str, tuple[int, Failure]] = {"X": (unexplained, None)} if unexplained else {}  # type: ignore[dict-item]
    implementation = implementation_from(ReferenceAdapter(NEWEST), "mine")
    return Identification(implementation, NEWEST, dialect, 10, left, **fields)


@pytest.mark.parametrize(
    ("found", "name", "planted", "result"),
    [
        (found_as(PAIR), "pair", PAIR, EXACT),
        (found_as(parse(f"{NEWEST.name}, overlap=iou"), 2), "pair", PAIR, PARTLY),
        (found_as(parse(f"{NEWEST.name}, gains=exchanged"), 2), "pair", PAIR, NOTHING),
        (found_as(NEWEST, 2), "pair", PAIR, NOTHING),
        (found_as(parse(f"{NEWEST.name}, overlap=iou")), "pair", PAIR, WRONG),
        (found_as(replace(PAIR, rows_sorted=False)), "pair", PAIR, EXACT),
        (found_as(NEWEST, fault=FAULTS["bins_from_one"]), "bins_from_one", None, EXACT),
        (found_as(NEWEST, fault=FAULTS["bins_from_one"]), "top_before_left", None, WRONG),
        (found_as(parse(f"{NEWEST.name}, overlap=iou"), 2), "bins_from_one", None, PARTLY),
    ],
)
def test_results(found: Identification, name: str, planted: Dialect | None, result: str):
    assert result_of(found, name, planted) == result


def test_a_dialect_that_no_batch_distinguishes_is_a_tie(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(diagnosis, "differ", lambda *arguments: False)
    assert result_of(found_as(parse(f"{NEWEST.name}, overlap=iou")), "pair", PAIR) == TIE


@pytest.mark.parametrize("size", [2, 3])
def test_random_dialects_have_choices_of_which_each_has_an_effect(size: int):
    drawn = list(islice(random_dialects(size), 3))
    assert drawn == list(islice(random_dialects(size), 3))
    for dialect in drawn:
        base = parse(dialect.name.partition(",")[0])
        changed = differences(dialect, base)
        assert len(changed) == size
        assert all(has_effect(dialect, name, getattr(base, name)) for name in changed)


def test_a_measurement_can_be_continued():
    names = [faulty.name for faulty in faulty_implementations("faults", 6)]
    assert names == [
        p.name for p in [*faulty_implementations("faults", 2), *faulty_implementations("faults", 4, begin=2)]
    ]
    assert len(set(names)) == 6


def test_every_faulty_implementation_declares_the_newest_release_and_computes_what_is_planted():
    recipes = sample_recipes(STRATEGIES["metric"], 6)
    for mode in MODES:
        faulty = computing(PAIR, mode)
        assert faulty.dialect is NEWEST
        observations = Observations(faulty)
        assert all(observations.conforms(recipe, PAIR) for recipe in recipes)
        assert not all(observations.conforms(recipe, NEWEST) for recipe in recipes)


def test_choices_of_faults_can_be_read():
    for name, spelling in FAULTS_AS_CHOICES.items():
        assert name in FAULTS
        assert differences(parse(f"{NEWEST.name}, {spelling}"), NEWEST)


def test_the_table_counts_results_and_seconds():
    lines = table(
        [Diagnosis("a", EXACT, "", 1.0), Diagnosis("b", EXACT, "", 3.0), Diagnosis("c", UNSEEN, "", 0.0)]
    )
    assert lines == [
        f"    2 exact: {RESULTS[EXACT]}",
        f"    1 unseen: {RESULTS[UNSEEN]}",
        "seconds of processor time: median 2.0, largest 3.0",
    ]


@pytest.mark.slow
@pytest.mark.long
def test_a_pair_and_a_fault_are_named(monkeypatch: pytest.MonkeyPatch):
    few = list(
        dict.fromkeys(
            r for name in ("metric", "borders", "loss") for r in sample_recipes(STRATEGIES[name], 8)
        )
    )
    monkeypatch.setattr(diagnosis, "fixed_recipes", lambda: few)
    pair = diagnosis.FaultyImplementation("pair", computing(PAIR, OUTPUTS_ALONE), PAIR)
    assert measure_search(pair).result == EXACT
    (fault,) = (p for p in faulty_implementations("faults", 20, HIDDEN) if p.name == "most_likely_distance")
    found = measure_search(fault)
    assert found.result == EXACT
    assert 'with the fault "most likely distance"' in found.sentence
