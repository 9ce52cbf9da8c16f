"""A golden file of batches and planted faults, which must not change unintentionally.

A change that is meant to change a batch, a verdict or a fault updates `tests/samples/golden.json` in the same commit,
and its message gives the reason.
"""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tal_conformance import Batch, Recipe, Truth
from tal_conformance.batches.content.predictions import Copy
from tal_conformance.batches.content.truths import ManyTruths
from tal_conformance.batches.non_finite import NonFiniteBatch
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_conformance.mutation.planted_faults import FAULTS
from tal_reference import Hyperparameters

GOLDEN = json.loads((Path(__file__).parents[1] / "samples" / "golden.json").read_text(encoding="utf-8"))
NAMES = {each.__name__: each for each in (Recipe, Truth, ManyTruths, Copy, NonFiniteBatch, Hyperparameters)}
CONFORMS = {"exact": "conforms", "within_bound": "conforms"}


def built(recipe: str, dtype: str, autocast: bool) -> Batch:
    """Return the batch of a recipe from the golden file, which is evaluated as Python, in the given dtype."""
    batch = eval(recipe, {"__builtins__": {}}, NAMES).build()
    return replace(batch.to(dtype=getattr(torch, dtype)), autocast=autocast)


@pytest.mark.parametrize("identity", GOLDEN["batches"])
def test_a_batch_and_its_verdicts_are_what_they_were(identity: str):
    recipe, dtype, autocast, *verdicts = GOLDEN["batches"][identity]
    batch = built(recipe, dtype, autocast)
    assert batch.id == identity
    for name, expected in zip(("reference", "article"), verdicts, strict=True):
        verdict = judge_against_reference(Subject(find(name), "cpu"), batch).verdict.value
        assert CONFORMS.get(verdict, verdict) == expected, name


def test_the_planted_faults_are_what_they_were():
    faults: dict[str, Any] = {fault.name: [list(fault.clauses), fault.stage] for fault in FAULTS.values()}
    assert faults == GOLDEN["faults"]
