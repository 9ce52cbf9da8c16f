"""Results with deceptive types are copied once, and judged by the copied values; unusual types conform."""

import re
import time
from pathlib import Path

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.verdicts import Divergence, Verdict
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge

FOLDER = Path(__file__).parents[3] / "fauxmplementations"
BATCH = Recipe(images=((Truth("ordinary"),),), classes=2).build()
LIES = {
    "LyingTensors": "target scores",
    "AnswersOnce": "target score w is",
    "ReturnsItsInput": "target score",
    "ChangesFromAThread": "target score",
    "LyingLoss": "box",
}
REFUSED = {
    "ComputedTensors": "Assignment.scores is a Computed, a tensor type that computes its values in __torch_dispatch__",
    "PretendsToBeATensor": "Assignment.scores is a Pretender, expected a tensor of shape (1, 16, 2)",
}
RIGHT = ["SharesMemory", "ExpandsResults", "ReturnsParameters"]


@pytest.mark.parametrize("name", LIES)
def test_values_are_judged_not_claims(name: str):
    double = find(f"{FOLDER}/lying.py:{name}")
    outcome = execute(double, BATCH)
    time.sleep(0.1 if name == "ChangesFromAThread" else 0)
    with pytest.raises(Divergence):
        judge(outcome, Expectation(BATCH, double.dialect))


@pytest.mark.parametrize("name", REFUSED)
def test_results_without_plain_values_are_refused(name: str):
    with pytest.raises(ImplementationFailed, match=re.escape(REFUSED[name])):
        execute(find(f"{FOLDER}/lying.py:{name}"), BATCH)


@pytest.mark.parametrize("name", RIGHT)
def test_unusual_results_conform(name: str):
    double = find(f"{FOLDER}/lying.py:{name}")
    judgement = judge(execute(double, BATCH), Expectation(BATCH, double.dialect))
    assert judgement.verdict in (Verdict.EXACT, Verdict.WITHIN_BOUND)


def test_a_later_change_of_a_returned_tensor_is_its_error():
    double = find(f"{FOLDER}/lying.py:ChangesFromAThread")
    execute(double, BATCH)
    time.sleep(0.1)
    with pytest.raises(ImplementationFailed, match=r"changed Assignment\.scores after returning it"):
        execute(double, BATCH)
