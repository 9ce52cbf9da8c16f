"""Implementations and the judge compute the same values on the simulated CUDA device as on the CPU."""

from pathlib import Path

import pytest
import torch
from tests.common.tiers import mostly_nightly

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.devices.simulate import simulate
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.outcome_tensors import equal_bits, named_tensors
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="stands in for a CUDA device, and there is one"
)

ADAPTER = """
import torch
from tal_conformance.implementations import Assignment

class Nothing:
    name = "nothing"

    def assign(self, inputs):
        device = "cuda" if torch.cuda.is_available() else "cpu"
        images, anchors, classes = inputs.scores.shape
        none = torch.zeros(images, anchors, dtype=torch.long, device=device)
        boxes = torch.zeros(images, anchors, 4, device=device)
        return Assignment(none, boxes, torch.zeros_like(inputs.scores), none.bool(), none)
"""


def bits(outcome: Outcome, other: Outcome) -> list[str]:
    """Return the names of the tensors that differ bitwise between two outcomes."""
    one, two = named_tensors(outcome), named_tensors(other)
    assert list(one) == list(two)
    return [name for name in one if not equal_bits(one[name], two[name])]


def stages(judgement: Judgement) -> list[tuple[str, str, float | None]]:
    return [(stage.stage, stage.state.value, stage.margin) for stage in judgement.stages.values()]


def judged(outcome: Outcome, recipe: Recipe, name: str) -> Judgement:
    try:
        return judge(outcome, Expectation(recipe.build(), find(name).dialect))
    except Divergence as error:
        return error.judgement


@pytest.mark.slow
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", mostly_nightly(["ultralytics", "article", "reference"], ["ultralytics"]))
def test_numbers_and_verdict_are_those_of_the_cpu(name: str, strategy: str):
    recipe = sample_recipes(STRATEGIES[strategy], 3)[-1]
    for face in find(name).variants:
        expected, run = execute(face, recipe.build()), simulate(face, recipe.build())
        assert run.watch.violations == []
        assert run.judging.violations == []
        assert run.outcome is not None
        assert run.judgement is not None
        assert bits(run.outcome, expected) == []
        assert stages(run.judgement) == stages(judged(expected, recipe, name))


def test_an_adapter_of_somebody_else(tmp_path: Path):
    (tmp_path / "theirs.py").write_text(ADAPTER, encoding="utf-8")
    theirs = find(f"{tmp_path / 'theirs.py'}:Nothing")
    run = simulate(theirs, Recipe(images=((Truth("ordinary"),),)).build())
    assert run.watch.violations == []
    assert run.judgement is not None
    assert run.judgement.first is not None


def test_waits_and_transfers_are_those_of_the_implementation_alone():
    run = simulate(find("article"), Recipe(images=((Truth("ordinary"),),)).build())
    files = {Path(line.path).name for _, line in (*run.watch.synchronisations, *run.watch.transfers)}
    assert "article.py" in files
    assert not files & {"outcome.py", "judge.py", "assignment.py", "batch.py"}
    operations = {
        operation for operation, line in run.watch.synchronisations if line.path.endswith("article.py")
    }
    assert {"Tensor.__bool__", "torch.bincount"} <= operations
