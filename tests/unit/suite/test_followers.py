"""A choice is the cause of a failure only if it explains the failure, and exceptions only if nothing is left."""

import time
from dataclasses import replace
from pathlib import Path

import pytest
from tests.fauxmplementations.misbehaving import Raises

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.verdicts import Verdict
from tal_conformance.dialects.identified import Identification
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.suite.followers import followers
from tal_reference import NEWEST


@pytest.mark.parametrize("left", [False, True], ids=["nothing is left", "batches are left"])
def test_exceptions_have_a_choice_as_cause_only_if_it_explains_every_batch(left: bool, tmp_path: Path):
    """An adapter that always raises does not "raise on heads with one level"."""
    batch = Recipe(images=((Truth("ordinary"),),), strides=(8,), cells=(4, 4), classes=2).build()
    (tmp_path / "cases").mkdir()
    batch.save(tmp_path / "cases" / f"{batch.id}.safetensors")
    raising = implementation_from(Raises(), "raises")
    failure = Failure(
        Subject(raising, "cpu"), batch, Verdict.ERROR, "", "TAL-MET-1", "raised ZeroDivisionError"
    )
    found = Identification(
        raising, NEWEST, replace(NEWEST, one_level=False), 2, {"TAL-MET-1": (1, failure)} if left else {}
    )
    line = {"verdict": "error", "test": "test_heads", "device": "cpu", "case": batch.id}
    (cause,) = followers(tmp_path, found, [line], time.process_time() + 60)
    assert [explained["case"] for explained in cause["lines"]] == ([] if left else [batch.id])
