"""If an adapter exposes only its outputs, the faulty stage is inferred from the outputs, even on a small batch."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fauxmplementations.relation_faults import OutputsOnly, planted
from tests.fauxmplementations.symmetric import EDGES_COUNT, AssignerOutputs, Outputs
from torch import Tensor

from tal_conformance.batches.content.predictions import Copy
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_reference import DIALECTS, NEWEST, Hyperparameters
from tal_reference.assignment import top_k

LONE = {
    "one positive": Recipe(images=((Truth("ordinary"),),), predictions="near"),
    "one positive of a small t": Recipe(images=((Truth("edge_on_centre"),),)),
    "positives of one t": Recipe(images=((Truth("ordinary"),),)),
}
"""Batches whose only evidence is one weight: that of the best anchor."""


@pytest.mark.parametrize("which", LONE)
def test_a_best_weight_up_to_the_overlap_indicates_a_wrong_t(which: str):
    """Swapped exponents alpha and beta, visible only in target scores, are reported at stage "metric"."""
    assert stage_of("alpha_and_beta_swapped", LONE[which]) == "metric"


def test_a_best_weight_above_the_overlap_indicates_a_wrong_u():
    assert stage_of("iou_for_ciou", LONE["one positive"]) == "overlap"


def stage_of(fault: str, recipe: Recipe) -> str:
    faulty = implementation_from(FaultyReference(FAULTS[fault], exposes_stages=False), fault)
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(faulty, "cpu"), recipe.build(), alone=True)
    return caught.value.stage


def test_an_unwidened_border_is_the_ground_truths_own():
    """An assigner that counts edges as inside fails at TAL-CAND-1 on a box that is not widened."""
    recipe = Recipe(images=((Truth("ordinary"),),), cells=(1, 12), hyperparameters=Hyperparameters(topk=5))
    faulty = implementation_from(FaultyReference(FAULTS["inclusive_border"], exposes_stages=False), "faulty")
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(faulty, "cpu"), recipe.build(), alone=True)
    assert (caught.value.stage, caught.value.clause) == ("candidates", "TAL-CAND-1")


def test_a_contested_anchor_that_goes_to_a_third_ground_truth_is_a_wrong_conflict():
    """If a contested anchor goes to a ground truth that did not select it, stage "conflict" is reported."""
    recipe = Recipe(
        images=(
            (
                Truth("ordinary", label=4, at=(0, 6), size=(7, 10)), Truth("ordinary", at=(0, 14)),
                Truth("ordinary", at=(1, 13), size=(3, 0)), Truth("ordinary", label=4, at=(5, 11), size=(13, 15)),
            ),
        ),
        cells=(11, 13), strides=(8, 16, 32), classes=5, predictions="near", levels=2,
        copies=(Copy(image=0, truth=1, source=9, target=10),), streams=(241,),
    )  # fmt: skip
    assert stage_of("contested_by_metric", recipe) == "conflict"


def judged(adapter: Any, recipe: Recipe) -> Failure:
    with pytest.raises(Failure) as caught:
        judge_against_reference(
            Subject(implementation_from(adapter, "double"), "cpu"), recipe.build(), alone=True
        )
    return caught.value


def failures_of(adapter: Any, strategy: str, number: int = 60) -> list[Failure]:
    """Return the failures of an adapter on `number` batches of the Hypothesis strategy named `strategy`."""
    found = []
    for recipe in sample_recipes(STRATEGIES[strategy], number):
        try:
            subject = Subject(implementation_from(adapter, "double"), "cpu")
            judge_against_reference(subject, recipe.build(), alone=True)
        except Failure as failure:
            found.append(failure)
    return found


@pytest.mark.parametrize("dialect", ["ultralytics-8.3.253", "ultralytics-8.4.190"])
@pytest.mark.parametrize("shows", [False, True])
def test_an_edge_that_counts_is_no_widening(dialect: str, shows: bool):
    """An assigner that counts edges as inside fails at TAL-CAND-1, not TAL-CAND-2, on small boxes too."""
    adapter = Outputs(EDGES_COUNT, DIALECTS[dialect])
    adapter.exposes_stages = shows
    found = failures_of(adapter, "borders") + failures_of(adapter, "small_boxes")
    at_candidates = [failure for failure in found if failure.stage == "candidates"]
    assert len(at_candidates) > 10
    assert {failure.clause for failure in at_candidates} == {"TAL-CAND-1"}
    assert all("only on the edge of a box" in failure.summary for failure in at_candidates)


@pytest.mark.parametrize("shows", [False, True])
def test_widening_in_a_dialect_that_widens_nothing_is_told_from_an_edge(shows: bool):
    """Judged by a dialect without widening, the newest release fails at TAL-CAND-2, not at TAL-CAND-1."""
    adapter = ReferenceAdapter(NEWEST)
    adapter.exposes_stages = shows
    implementation = implementation_from(adapter if shows else OutputsOnly(), "newest")
    subject = Subject(replace(implementation, dialect=DIALECTS["ultralytics-8.3.253"]), "cpu")
    clauses = []
    for recipe in sample_recipes(STRATEGIES["small_boxes"], 60):
        try:
            judge_against_reference(subject, recipe.build(), alone=True)
        except Failure as failure:
            clauses += [failure.clause] if failure.stage == "candidates" else []
    assert clauses.count("TAL-CAND-2") > 0.8 * len(clauses)


def without_small_metrics(metric: Tensor, k: int) -> Tensor:
    """Return the top-k selection (M, A) without anchors whose alignment metric t is about 0."""
    return top_k(metric, k) & (metric > 1e-9)


def test_picks_without_a_metric_that_are_dropped_are_the_picks():
    """An assigner that drops selected anchors with metric t = 0 fails at TAL-TOPK-1."""
    adapter = AssignerOutputs(planted({"tal_reference.assignment.top_k": without_small_metrics}, "top-k"))
    found = [
        failure
        for strategy in ("zeros_compete", "topk", "metric")
        for failure in failures_of(adapter, strategy)
    ]
    clauses = [failure.clause for failure in found]
    assert len(clauses) > 20
    assert clauses.count("TAL-TOPK-1") > 0.9 * len(clauses)
    assert any("its metric t is about 0" in failure.summary for failure in found)


def nobody_wins(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives (M, A) in which every anchor that several ground truths selected is background."""
    return selected & (selected.sum(0) <= 1)


def test_a_conflict_that_loses_its_anchor_is_the_conflicts():
    adapter = AssignerOutputs(planted({"tal_reference.assignment.settle_contested": nobody_wins}, "conflict"))
    found = failures_of(adapter, "conflict")
    clauses = [failure.clause for failure in found]
    assert len(clauses) > 10
    assert clauses.count("TAL-CONF-1") > 0.8 * len(clauses)
    assert any("has no owner" in failure.summary for failure in found)


class Rescored(ReferenceAdapter):
    """The reference assigner with target scores (B, A, C) changed by a function."""

    def __init__(self, change: Any, shows: bool) -> None:
        super().__init__()
        self.change, self.exposes_stages = change, shows

    def assign(self, inputs: AssignerInputs) -> Assignment:
        honest = super().assign(inputs)
        stages = honest.stages if self.exposes_stages else None
        return replace(honest, scores=self.change(honest.scores), stages=stages)


@pytest.mark.parametrize("shows", [False, True])
@pytest.mark.parametrize(
    ("change", "stage", "clause"),
    [
        (lambda scores: scores.roll(1, dims=2), "targets", "TAL-TGT-1"),
        (lambda scores: scores.amax(2, keepdim=True).expand_as(scores), "targets", "TAL-TGT-1"),
        (lambda scores: scores.where(scores.amax(2, keepdim=True) > 0, 0.25), "targets", "TAL-TGT-1"),
        (lambda scores: scores * 0.5, "normalisation", "TAL-NORM-1"),
    ],
)
def test_weights_of_wrong_targets_are_told_from_wrong_weights(
    change: Any, stage: str, clause: str, shows: bool
):
    recipe = Recipe(
        images=((Truth("ordinary"), Truth("huge", label=1)),), cells=(6, 6), classes=3, predictions="near"
    )
    failure = judged(Rescored(change, shows), recipe)
    assert (failure.stage, failure.clause) == (stage, clause)
    assert len(failure.stages) == 1


class AllForeground(ReferenceAdapter):
    """A faulty assigner whose foreground mask is True for every anchor."""

    exposes_stages = False

    def assign(self, inputs: AssignerInputs) -> Assignment:
        honest = super().assign(inputs)
        return replace(honest, foreground=torch.ones_like(honest.foreground), stages=None)


def test_a_message_says_that_every_anchor_is_a_positive():
    failure = judged(AllForeground(), Recipe(images=((Truth("ordinary"),),), cells=(6, 6)))
    assert failure.clause == "TAL-CAND-1"
    assert "a positive is not a candidate; every anchor of the image is a positive at" in failure.summary


@pytest.mark.parametrize(
    ("dtype", "autocast", "words"),
    [
        (torch.float32, False, ""),
        (torch.float64, False, ", in float64"),
        (torch.float16, True, ", under autocast to float16"),
        (torch.bfloat16, True, ", under autocast to bfloat16"),
    ],
)
def test_a_message_names_the_precision_in_which_the_batch_fails(
    dtype: torch.dtype, autocast: bool, words: str
):
    recipe = Recipe(images=((Truth("ordinary"),),), cells=(6, 6))
    batch = replace(recipe.build().to(dtype=dtype), autocast=autocast)
    subject = Subject(implementation_from(FaultyReference(FAULTS["alpha_of_one"]), "double"), "cpu")
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject, batch)
    assert caught.value.summary.endswith(f"differ){words}")


class StoresTargetScores:
    """An assigner alone that multiplies its target scores by a factor and stores them in the class scores' dtype."""

    def __init__(self, factor: float = 1.0) -> None:
        self.factor = factor

    def assign(self, inputs: AssignerInputs) -> Assignment:
        found = ReferenceAdapter().assign(inputs)
        return replace(found, scores=(found.scores * self.factor).to(inputs.scores.dtype), stages=None)


def failures_in(dtype: torch.dtype, adapter: Any) -> int:
    """Return the number of batches under autocast on which an adapter fails, of 30."""
    subject, failures = Subject(implementation_from(adapter, "adapter"), "cpu"), 0
    for recipe in sample_recipes(STRATEGIES["precision"], 30):
        try:
            judge_against_reference(subject, replace(recipe.build().to(dtype=dtype), autocast=True))
        except Failure:
            failures += 1
    return failures


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_target_scores_may_be_stored_in_the_dtype_of_class_scores(dtype: torch.dtype):
    """A tiny weight may underflow to zero; weights that differ by more than the rounding still fail."""
    assert failures_in(dtype, StoresTargetScores()) == 0
    assert failures_in(dtype, StoresTargetScores(factor=0.95)) > 0


WON_WITHOUT_OVERLAP = Recipe(
    images=(
        (
            Truth("aligned", at=(5, 11), size=(3, 7)),
            Truth("thin", at=(0, 2), size=(1, 0)),
            Truth("ordinary", at=(8, 0), size=(6, 1)),
        ),
    ),
    cells=(3, 4),
    strides=(4, 8, 16),
    classes=2,
    reg_max=32,
    predictions="between",
    streams=(255,),
)
"""Anchor 12 lies on an edge of ground truth 0, and is selected by the others without overlapping them. Ground truth 0
owns it either as a candidate that overlaps it, or as the first of three overlaps of zero (TAL-CONF-1)."""


class OtherWeight(OutputsOnly):
    """The reference, with the target scores of one anchor multiplied by a factor."""

    def __init__(self, anchor: int, factor: float) -> None:
        super().__init__()
        self.anchor, self.factor = anchor, factor

    def loss(self, *arguments: Any) -> Any:
        loss = super().loss(*arguments)
        scores = loss.assignment.scores.clone()
        scores[:, self.anchor] *= self.factor
        return replace(loss, assignment=replace(loss.assignment, scores=scores))


def test_an_anchor_that_is_won_without_overlap_has_no_weight():
    subject = Subject(implementation_from(OutputsOnly(), "tested"), "cpu")
    judgement = judge_against_reference(subject, WON_WITHOUT_OVERLAP.build())
    assert not judgement.verdict.fails


@pytest.mark.parametrize("anchor", [1, 2, 5, 6, 9, 13, 16])
def test_weights_of_other_anchors_are_judged_beside_it(anchor: int):
    subject = Subject(implementation_from(OtherWeight(anchor, 0.9), "tested"), "cpu")
    with pytest.raises(Failure):
        judge_against_reference(subject, WON_WITHOUT_OVERLAP.build())
