"""Identification: the dialects that explain an implementation, or else the nearest dialect."""

from typing import Any

import pytest

from tal_conformance.dialects.identification import fit_dialect, identify, size_of, sorted_recipes
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_reference import DIALECTS, NEWEST


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tal_conformance.dialects.identification.BATCHES_PER_STRATEGY", 3)


def reference_in(name: str) -> Implementation:
    return implementation_from(ReferenceAdapter(DIALECTS[name]), "reference")


def faulty(stage: str) -> Implementation:
    adapter: Any = FaultyReference(next(fault for fault in FAULTS.values() if fault.stage == stage))
    return implementation_from(adapter, "faulty")


def test_the_nearest_dialect_has_the_fewest_violations():
    dialects = [DIALECTS[name] for name in ("ultralytics-8.0.51", "ultralytics-8.4.190")]
    identification = identify(faulty("dfl"), dialects)
    assert not identification.explained
    assert identification.nearest is not None
    assert identification.nearest.dialect == NEWEST
    assert 0 < identification.nearest.total < identification.nearest.batches
    assert set(identification.nearest.smallest) == set(identification.nearest.counts)


def test_judging_stops_at_the_first_batch_that_refutes():
    """Judging stops at the first batch that refutes a dialect. Small batches come first."""
    implementation = reference_in("ultralytics-8.4.127")
    fit = fit_dialect(implementation, DIALECTS["ultralytics-8.0.6"])
    recipes = sorted_recipes(implementation, 3)
    assert fit.refutation is not None
    assert fit.batches < len(recipes) / 4
    sizes = [size_of(recipe) for recipe, _ in recipes]
    assert sizes == sorted(sizes)


def test_a_fault_refutes_the_dialect_of_the_reference():
    assert fit_dialect(faulty("cls"), NEWEST).refutation is not None
