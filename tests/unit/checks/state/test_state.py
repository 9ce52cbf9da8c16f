"""Results that depend on earlier calls are found, and the failing sequence of calls is made as short as possible."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from tests.common.tiers import mostly_nightly

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import IMAGES
from tal_conformance.checks.calling.answers import Difference
from tal_conformance.checks.state.check import MAX_CALLS, SequenceJudge, StateFailure, shortest_past, steps_of
from tal_conformance.checks.state.sequences import IN_A_ROW, LONG_ROW, SEQUENCES, Step
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults.faulty_criterion import USAGE_FAULTS

RECIPE = Recipe(images=IMAGES[0], cells=(4, 6), strides=(8, 16), classes=3, reg_max=4)
TURNED = replace(
    RECIPE,
    images=tuple(
        tuple(replace(truth, turn=1 + 3 * number) for number, truth in enumerate(truths))
        for truths in IMAGES[0]
    ),
    predictions="near",
    task="obb",
)
DAILY = ("anchors_cached_by_count", "classes_of_the_first_head", "validation_switches_the_dfl_off")
"""Planted faults that CI seeks in rotated boxes; the nightly job seeks all."""
LONG = ("warm_up_of_fifty_calls",)
"""Faults that the short sequence of the simplest batch does not show; `tests/quality` plants them."""
FAULTS = [name for name, fault in USAGE_FAULTS.items() if fault.stage == "state" and name not in LONG]


def judge(implementation: Implementation, sequence: str, recipe: Recipe = RECIPE) -> None:
    SequenceJudge(Subject(implementation, "cpu"), sequence).judge(steps_of(recipe, sequence))


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("name", ["reference", "article", "ultralytics"])
def test_right_implementations_pass(name: str, sequence: str):
    judge(find(name), sequence)


@pytest.mark.parametrize("sequence", SEQUENCES)
@pytest.mark.parametrize("name", ["reference", "ultralytics"])
def test_right_losses_of_rotated_boxes_pass(name: str, sequence: str):
    judge(find(name), sequence, TURNED)


@pytest.mark.parametrize("name", mostly_nightly(FAULTS, DAILY))
def test_a_planted_fault_is_found_in_rotated_boxes_too(name: str):
    fault = USAGE_FAULTS[name]
    with pytest.raises(StateFailure) as caught:
        judge(fault.implementation("loss"), fault.check.partition("[")[2].rstrip("]"), TURNED)
    assert (caught.value.stage, caught.value.clause) == ("state", fault.clause)


@pytest.mark.parametrize("exposes", ["stages", "outputs", "loss"])
@pytest.mark.parametrize("name", FAULTS)
def test_a_planted_fault_is_found_by_its_sequence(name: str, exposes: str):
    fault = USAGE_FAULTS[name]
    sequence = fault.check.partition("[")[2].rstrip("]")
    with pytest.raises(StateFailure) as caught:
        judge(fault.implementation(exposes), sequence)
    assert (caught.value.stage, caught.value.clause) == ("state", fault.clause)
    assert "depends on earlier calls" in caught.value.summary
    assert sequence in caught.value.summary
    assert caught.value.details is not None
    assert "Recipe(" in caught.value.details


def test_the_sequence_is_shrunk():
    with pytest.raises(StateFailure, match=r"after 1 earlier call, .*1\. train: .* 2\. train: "):
        judge(USAGE_FAULTS["items_cached_by_shape"].implementation("loss"), "equal-shapes")


def test_a_warm_up_needs_its_calls():
    with pytest.raises(StateFailure, match="after 10 earlier calls, "):
        judge(USAGE_FAULTS["warm_up_of_ten_calls"].implementation("loss"), "equal-shapes")


def test_what_is_wrong_without_a_past_is_its_own_failure():
    class Wrong:
        name = "wrong"

        def loss(self, *arguments: Any) -> Loss:
            loss = ReferenceAdapter().loss(*arguments)
            return Loss(loss.total * 2, loss.items)

    with pytest.raises(Failure) as caught:
        judge(implementation_from(Wrong, "wrong"), "multi-scale")
    assert not isinstance(caught.value, StateFailure)


MODULE = """
import tal_reference.loss
from unittest.mock import patch
from tal_conformance.implementations.adapters.reference import ReferenceAdapter

CACHE = {}
make_anchors = tal_reference.loss.make_anchors


def cached(maps, head):
    count = sum(level[0, 0].numel() for level in maps)
    if count not in CACHE:
        CACHE[count] = make_anchors(maps, head)
    return CACHE[count]


class Adapter:
    name = "cached in its module"

    def loss(self, *arguments):
        with patch("tal_reference.loss.make_anchors", cached):
            return ReferenceAdapter().loss(*arguments)
"""


@pytest.fixture
def module(tmp_path: Path) -> str:
    """Return `file:Adapter` of an adapter whose module caches anchors in a global variable."""
    path = tmp_path / "cached_in_module.py"
    path.write_text(MODULE, encoding="utf-8")
    return f"{path}:Adapter"


def test_a_cache_of_the_module_is_a_dependence_on_earlier_calls_too(module: str):
    with pytest.raises(StateFailure, match=r"multi-scale.*after 1 earlier call") as caught:
        judge(find(module), "multi-scale")
    assert caught.value.stage == "state"


@pytest.mark.slow
def test_it_fails_in_a_worker(module: str):
    with pytest.raises(Failure):
        judge(find(module, isolate=True), "multi-scale")


@pytest.mark.parametrize(("seed", "number"), [(0, IN_A_ROW), (1, LONG_ROW)])
def test_equal_shapes_in_a_row(seed: int, number: int):
    steps = steps_of(replace(RECIPE, seed=seed), "equal-shapes")
    shapes = {tuple(level.shape for level in step.batch.feature_maps) for step in steps}
    assert (len(steps), len(shapes)) == (number, 1)


LUCK = Difference(Verdict.DIVERGENT, "dfl loss is 2, expected 1")


def test_a_counter_of_fifty_calls_is_shortened_in_few_tries():
    past, last = [Step(RECIPE.build())] * 65, Step(RECIPE.build())
    tried = []

    def fails(chosen: list[Step]) -> bool:
        tried.append(chosen)
        return len(chosen) > 50

    assert 50 <= len(shortest_past(past, last, fails)) < 65
    assert sum(map(len, tried)) < MAX_CALLS + 66


def test_a_failure_that_does_not_repeat_is_reported_with_the_whole_sequence(monkeypatch: pytest.MonkeyPatch):
    """A cache by address fails when memory happens to be reused."""
    original, calls = SequenceJudge._differences, []

    def differences(judge: SequenceJudge, steps: list[Step]) -> Any:
        calls.append(steps)
        found = original(judge, steps)
        return [*found[:-1], LUCK] if len(calls) == 1 else found

    monkeypatch.setattr(SequenceJudge, "_differences", differences)
    with pytest.raises(StateFailure, match=r"after 3 earlier calls") as caught:
        judge(find("reference"), "multi-scale")
    assert LUCK.text in str(caught.value)


def test_two_sizes_of_a_multi_scale_training_have_as_many_anchors():
    first, transposed, larger, again = (step.batch for step in steps_of(RECIPE, "multi-scale"))
    assert first.anchors == transposed.anchors
    assert first.grids != transposed.grids
    assert larger.anchors > first.anchors
    assert again is first


@pytest.mark.parametrize(("needed", "kept"), [([], 0), ([3], 1), ([0], 1), ([1, 3], 2), ([0, 1, 2, 3, 4], 5)])
def test_the_shortest_past(needed: list[int], kept: int):
    past = [Step(RECIPE.build()) for _ in range(5)]
    last = Step(RECIPE.build())
    wanted = [past[number] for number in needed]

    def fails(chosen: list[Step]) -> bool:
        return chosen[-1] is last and all(any(step is each for each in chosen) for step in wanted)

    assert len(shortest_past(past, last, fails)) == kept
