"""Losses that do not expose their assignment: correct ones conform, and detectable faults are found."""

from collections import Counter
from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.truths import Truth
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.verdicts import State, Verdict
from tal_conformance.implementations.adapters.reordered import ReorderedAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.assignment_fit import AssignmentFit
from tal_conformance.judgement.assignment_read import ReadAssignment
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.attack import attack
from tal_conformance.mutation.plant import HIDDEN, INVISIBLE, OPEN
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference

UNSEEN = INVISIBLE[HIDDEN] | OPEN[HIDDEN]
"""Faults that change neither loss nor gradients on the generated batches."""
DRAWS = 40


class Hidden:
    """A loss that exposes neither assignment nor inputs, with a fault or another order of operations."""

    dialect = "ultralytics-8.4.190"

    def __init__(self, whole: Any) -> None:
        self.name, self.whole = whole.name, whole

    def loss(self, *arguments: Any) -> Loss:
        return replace(self.whole.loss(*arguments), assignment=None, inputs=None)


class HiddenBesideAssign(Hidden):
    """A loss that does not expose its assignment, with an assigner that can be called separately."""

    def assign(self, *arguments: Any) -> Any:
        return self.whole.assign(*arguments)


def hidden(whole: Any) -> Implementation:
    return implementation_from(Hidden(whole), "hidden")


@cache
def drawn() -> list[Batch]:
    """Return batches of all strategies, the same in every test."""
    batches: list[Batch] = []

    @settings(
        max_examples=DRAWS, derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(st.one_of(*STRATEGIES.values()))
    def draw(recipe: Recipe) -> None:
        batches.append(recipe.build())

    draw()
    return batches


class OtherWay(ReorderedAdapter):
    """An adapter in which the last of equal ground truths wins."""

    def assign(self, inputs: AssignerInputs) -> Assignment:
        rows = torch.arange(inputs.truth_boxes.shape[1])  # (M,)
        count = (inputs.truth_boxes != 0).any(-1).sum(1, keepdim=True)  # (B, 1): padding stays behind
        order = torch.where(rows < count, count - 1 - rows, rows)  # (B, M)
        names = ("labels", "truth_boxes", "truth_mask")
        turned = {name: getattr(inputs, name).take_along_dim(order[..., None], 1) for name in names}
        found = super().assign(replace(inputs, **turned))
        if not len(rows):
            return found
        return replace(found, truth_index=order.gather(1, found.truth_index))


MIRRORED = Recipe(images=((Truth("ordinary"), Truth("mirrored")),), cells=(5, 5), predictions="constant")
WHOSE_BOX = Recipe(images=((Truth("ordinary"), Truth("mirrored")),), predictions="near", levels=1)
"""Both ground truths lead to the same target scores: only the distances' gradients say whose box an anchor learnt."""
MANY_EQUALS = Recipe(images=((Truth("ordinary"), Truth("ordinary")),), cells=(8, 12), predictions="exact_hit")
"""Too many assignments are admissible to try all: only the gradients lead to the right one."""
NO_GRADIENT = Recipe(images=((Truth("huge"),),), cells=(8, 8), reg_max=1, predictions="exact_hit", levels=1)
"""An anchor that predicts its box exactly has no gradient on it and yet is a positive, which no gradient suggests."""


RIGHT = {
    "everything is shown": ReorderedAdapter(),
    "inputs are hidden": ReorderedAdapter(shows="assignment"),
    "in float64": ReorderedAdapter(torch.float64),
    "inputs are hidden, in float64": ReorderedAdapter(torch.float64, shows="assignment"),
    "the loss is hidden": Hidden(ReorderedAdapter()),
    "the loss is hidden, in float64": Hidden(ReorderedAdapter(torch.float64)),
    "the other way among equals": OtherWay(),
    "the other way among equals, hidden": Hidden(OtherWay()),
    "assign beside a hidden loss": HiddenBesideAssign(ReorderedAdapter()),
    "assign beside a hidden loss, in float64": HiddenBesideAssign(ReorderedAdapter(torch.float64)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RIGHT)
def test_other_orders_of_operations_conform(kind: str):
    subject = Subject(implementation_from(RIGHT[kind], "right"), "cpu")
    for tied in (MIRRORED, WHOSE_BOX, MANY_EQUALS, NO_GRADIENT):
        assert not judge_against_reference(subject, tied.build()).inconclusive
    undecided = Counter(judge_against_reference(subject, batch).inconclusive for batch in drawn())
    assert undecided[True] <= undecided.total() / 4  # a half of all lanes plants ties


@pytest.mark.slow
def test_the_best_fit_explains_the_gradients_on_the_distances(monkeypatch: pytest.MonkeyPatch):
    """The residual is at most half the digits of float32, in which N and the inferred scores are rounded."""
    left: dict[int, tuple[float, float]] = {}
    best, read = AssignmentFit.best, ReadAssignment.targets

    def note(fit: AssignmentFit, targets: Any) -> None:
        left[fit.image] = fit.residual(targets), float(fit.evidence.distances[fit.image].abs().sum())

    def best_of(fit: AssignmentFit, *arguments: Any) -> Any:
        targets, tried = best(fit, *arguments)
        note(fit, targets)
        return targets, tried

    def read_off(assignment: ReadAssignment, fits: list[AssignmentFit], chosen: Any) -> Any:
        found = read(assignment, fits, chosen)
        for fit in fits:
            note(fit, found[fit.image])
        return found

    monkeypatch.setattr(AssignmentFit, "best", best_of)
    monkeypatch.setattr(ReadAssignment, "targets", read_off)
    subject = Subject(hidden(OtherWay()), "cpu")
    explained = 0
    for batch in (MIRRORED.build(), WHOSE_BOX.build(), *drawn()):
        left.clear()
        if not judge_against_reference(subject, batch).inconclusive:
            explained += len(left)
            assert all(rest <= torch.finfo(torch.float32).eps ** 0.5 * whole for rest, whole in left.values())
    assert explained  # by another assignment than the reference's own


@pytest.mark.slow
@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=[pytest.mark.long] * (FAULTS[name].check == "crossings"))
        for name in FAULTS
        if name not in UNSEEN
    ],
)
def test_a_fault_that_shows_in_the_loss_is_found(name: str):
    """A fault is found by some test, possibly another one than with exposed stages, because tolerances are wider."""
    fault = FAULTS[name]
    faulty = hidden(FaultyReference(fault, exposes_stages=False))
    assert any(attack(faulty, lane) is not None for lane in (fault.check, "metric", "loss"))


@pytest.mark.slow
@pytest.mark.parametrize("name", UNSEEN)
def test_an_invisible_fault_is_not_found(name: str):
    subject = Subject(hidden(FaultyReference(FAULTS[name], exposes_stages=False)), "cpu")
    for batch in drawn()[:20]:
        judge_against_reference(subject, batch)


TIED = Recipe(
    images=((Truth("huge"),), (Truth("huge"), Truth("identical"))), cells=(8, 8), predictions="constant"
)
"""Every anchor of a ground truth has the same metric: more assignments than can be tried."""


def spoilt(change: Any) -> Implementation:
    class Spoilt(Hidden):
        def loss(self, feature_maps: Any, *arguments: Any) -> Loss:
            return change(super().loss(feature_maps, *arguments), feature_maps)

    return implementation_from(Spoilt(ReorderedAdapter()), "spoilt")


@pytest.mark.parametrize(
    ("what", "change", "stage"),
    [
        ("total without B", lambda loss, maps: replace(loss, total=loss.total / 2), "total"),
        ("an item is NaN", lambda loss, maps: replace(loss, items=loss.items * torch.nan), "cls"),
        (
            "gradient on every distance",
            lambda loss, maps: replace(loss, total=loss.total + sum((m - m.detach())[:, :4].sum() for m in maps)),
            "gradients",
        ),
    ],
)  # fmt: skip
def test_requirements_of_every_assignment_are_judged_however_many_there_are(
    what: str, change: Any, stage: str
):
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(spoilt(change), "cpu"), TIED.build())
    assert caught.value.verdict in (Verdict.DIVERGENT, Verdict.ERROR)
    assert caught.value.stage == stage


def test_a_loss_that_cannot_be_decided_is_inconclusive():
    """A loss that is too small by 0.1 %, with more admissible assignments than can be tried and no class gradients."""

    def smaller(loss: Loss, maps: Any) -> Loss:
        return replace(loss, items=loss.items * 0.999, total=loss.total * 0.999)

    batch = TIED.build()
    batch = replace(batch, hyperparameters=replace(batch.hyperparameters, cls_gain=0.0))
    judgement = judge_against_reference(Subject(spoilt(smaller), "cpu"), batch)
    assert judgement.inconclusive
    assert judgement.stages["cls"].state is State.NOT_SHOWN
