"""Judging end-to-end losses: each branch as a loss of its own, then weights, items and total of both (E2E-*).

The gradients of the whole loss on a branch's feature maps are those of the branch times its weight (E2E-6), so that
they are judged with the branch. If a branch does not conform, but would with another weight, the weight is reported and
not the branch.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tal_conformance.core.branches import branch_batches, branch_weights
from tal_conformance.core.outcome import LossOutcome, Outcome
from tal_conformance.core.task import StageName, stage_name
from tal_conformance.core.verdicts import (
    Agreement,
    Divergence,
    Judgement,
    Mismatch,
    StageJudgement,
    State,
    Value,
    least_unique,
)
from tal_conformance.judgement.coarse_branches import judged_coarsely
from tal_conformance.judgement.comparators import Bounded, Quantity, assert_within
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.rounding.bounds import ROUNDINGS
from tal_conformance.judgement.rounding.exact_loss import fields_of, loss_precision
from tal_conformance.judgement.rounding.mixed_precision import is_coarse
from tal_reference import BatchTargets
from tal_reference.composed import total_factor

JudgeOne = Callable[[Outcome, Expectation], Judgement]
"""Function that judges the outcome of a batch of one branch, such as `judge`."""
UNKNOWN = "{} of an end-to-end loss cannot be judged: those of a branch are not known"
"""Reason for an inconclusive judgement."""
Weights = Mapping[str, float]
"""Weight of each branch by its name."""


def judge_branches(outcome: Outcome, expected: Expectation, judge_one: JudgeOne) -> Judgement:
    """Judge the outcome of an end-to-end loss, or of the assigner alone on the inputs of both branches.

    Args:
        outcome: results of the implementation, with an outcome for each branch.
        expected: expectation of the batch.
        judge_one: judges a branch.

    Returns:
        A judgement whose verdict does not fail.

    Raises:
        Divergence: a stage differs; the exception has the judgement.
        ValueError: the outcome of a branch is missing.
    """
    batch, dialect = expected.batch, expected.dialect
    parts = {name: Expectation(part, dialect) for name, part in branch_batches(batch, dialect).items()}
    if set(outcome.branches) != set(parts):
        raise ValueError(f"the outcome has the branches {sorted(outcome.branches)}, expected {sorted(parts)}")
    both = BothBranches(outcome, parts, branch_weights(batch, dialect), judge_one)
    judgement = Judgement(batch.family)
    found = both.judged(outcome.branches)
    if outcome.loss is not None:
        found = _judge_gradients(judgement, both, found)
    for name, own in found.items():
        merge_branch(judgement, name, own)
    if outcome.loss is not None and not (judgement.undefined or judgement.inconclusive):
        _judge_values(judgement, both, outcome.loss, expected, found)
    if judgement.verdict.fails:
        raise Divergence(judgement)
    return judgement


@dataclass(frozen=True)
class BothBranches:
    """The branches of an outcome, and how to judge them.

    Attributes:
        outcome: results of the implementation.
        parts: expectation of each branch by its name.
        weights: expected weight of each branch (E2E-4).
        judge_one: judges a branch.
    """

    outcome: Outcome
    parts: Mapping[str, Expectation]
    weights: Weights
    judge_one: JudgeOne

    @property
    def is_coarse(self) -> bool:
        """True if the predictions have 16 bits."""
        return is_coarse(next(iter(self.parts.values())).batch.dtype)

    def judged(self, outcomes: Mapping[str, Outcome]) -> dict[str, Judgement]:
        """Return the judgement of each branch, whether or not it fails."""
        if self.is_coarse and self.outcome.loss is not None:
            return self._judged_coarsely(self.outcome.loss)
        return {name: self._judged(outcomes[name], part) for name, part in self.parts.items()}

    def _judged(self, outcome: Outcome, part: Expectation) -> Judgement:
        try:
            return self.judge_one(outcome, part)
        except Divergence as divergence:
            return divergence.judgement

    def _judged_coarsely(self, loss: LossOutcome) -> dict[str, Judgement]:
        names, levels = list(self.parts), len(loss.gradients) // len(self.parts)

        def of_branch(gradients: tuple[Tensor, ...], name: str) -> tuple[Tensor, ...]:
            place = names.index(name) * levels
            return gradients[place : place + levels]

        return {
            name: judged_coarsely(
                self.outcome.branches[name],
                part,
                self.weights[name],
                of_branch(loss.gradients, name),
                tuple(of_branch(term, name) for term in loss.term_gradients),
                self._judged,
            )
            for name, part in self.parts.items()
        }

    def weighted_as(self, weights: Weights) -> dict[str, Outcome]:
        """Return the outcomes of the branches if their gradients had been multiplied by the given weights."""
        return {
            name: _scaled(part, self.weights[name] / weights[name])
            for name, part in self.outcome.branches.items()
        }

    def observed_weights(self) -> dict[str, float]:
        """Return the weight of each branch that reproduces the gradients on its class logits best (least squares)."""
        return {
            name: self.weights[name] * self._share(self.outcome.branches[name], part)
            for name, part in self.parts.items()
        }

    def _share(self, outcome: Outcome, part: Expectation) -> float:
        """Return the factor between the gradients on the class logits and the expected gradients; NaN without any."""
        assert outcome.loss is not None
        place = [field.name for field in part.batch.family.fields].index("logits")
        wanted = part.loss(_targets(outcome, part)).exact.of_total[place].double()  # (B, A, C)
        seen = fields_of(outcome.loss.gradients, part.batch)[place].double()  # (B, A, C)
        return float((seen * wanted).sum() / wanted.square().sum())


def _targets(outcome: Outcome, part: Expectation) -> BatchTargets:
    """Return the targets of a branch's assignment, or the reference's if the implementation hides its own."""
    shown = outcome.assignment
    if shown is not None and outcome.from_loss:
        return part.targets_of(shown)
    own, classes = part.assignment, part.batch.head.classes
    foreground = torch.stack([image.foreground for image in own])  # (B, A)
    boxes = torch.stack([image.boxes for image in own]).double()  # (B, A, 4)
    return BatchTargets(foreground, boxes, torch.stack([image.scores(classes) for image in own]))


def _scaled(outcome: Outcome, factor: float) -> Outcome:
    """Return an outcome with its gradients multiplied by a factor."""
    assert outcome.loss is not None
    loss = replace(
        outcome.loss,
        gradients=tuple(level * factor for level in outcome.loss.gradients),
        term_gradients=tuple(tuple(level * factor for level in term) for term in outcome.loss.term_gradients),
    )
    return replace(outcome, loss=loss)


def _judge_gradients(
    judgement: Judgement, both: BothBranches, found: dict[str, Judgement]
) -> dict[str, Judgement]:
    """Judge the factors of the branches' gradients, which are the weights (E2E-4, E2E-6).

    Returns:
        The judgements of the branches: those of `found`, or if other weights explain the gradients, those with the
        other weights.
    """
    # weights are not read from gradients of 16 bits: a wrong weight shows in the total and in the branch's gradients
    if both.is_coarse or not any(own.verdict.fails for own in found.values()):
        if all(_agree_gradients(own) for own in found.values()):
            for stage in (StageName.WEIGHTS, StageName.GRADIENTS):
                judgement.note(stage, Agreement)
        return found
    silent = [name for name, part in both.outcome.branches.items() if not _learns(part)]
    for name in silent:
        if _has_gradients(both, name):
            judgement.stages[StageName.GRADIENTS].fail(_no_gradient(judgement, name))
            _forget_gradients(found[name], hidden=not _shows(both.outcome.branches[name]))
    observed = both.observed_weights()
    weights = {
        name: both.weights[name] if name in silent or not observed[name] > 0 else observed[name]
        for name in both.parts
    }
    if all(_close(weights[name], both.weights[name]) for name in weights):
        return found
    again = both.judged(both.weighted_as(weights))
    if not all(_agree_gradients(own) for name, own in again.items() if name not in silent):
        return found
    for name in silent:
        again[name] = found[name]
    if any(own.verdict.fails for own in again.values()):
        return found
    loss = both.outcome.loss
    assert loss is not None
    total = _total(both, again, both.weights, loss)
    right_total = None if total is None else _agrees(loss.total, total)
    mismatch = _wrong_weights(judgement, both, weights, right_total)
    judgement.stages[StageName.WEIGHTS if right_total is False else StageName.GRADIENTS].fail(mismatch)
    return again


def _agree_gradients(own: Judgement) -> bool:
    """Return True if the whole outcome of a branch was judged, and its gradients agree."""
    is_judged = not (own.verdict.fails or own.inconclusive or own.undefined)
    return is_judged and own.stages[StageName.GRADIENTS].state is State.AGREES


def _learns(outcome: Outcome) -> bool:
    assert outcome.loss is not None
    return any(bool(level.any()) for level in outcome.loss.gradients)


def _has_gradients(both: BothBranches, name: str) -> bool:
    """Return True if a branch is expected to have gradients: its class loss has gradients, unless its gain is 0."""
    return both.parts[name].batch.hyperparameters.cls_gain > 0


def _shows(outcome: Outcome) -> bool:
    """Return True if the implementation exposes the values of a branch, not only its gradients."""
    return outcome.loss is not None and outcome.loss.knows_total


def _forget_gradients(found: Judgement, hidden: bool) -> None:
    """Remove the comparisons of a branch's gradients from its judgement: the branch has none.

    Of a branch that exposes nothing else, nothing is known.
    """
    names = list(found.stages) if hidden else [StageName.GRADIENTS]
    for name in names:
        found.stages[name] = StageJudgement(name, found.stages[name].default_clause)


def _close(weight: float, expected: float) -> bool:
    """Return True if an observed weight differs from the expected one by less than the rounding of gradients."""
    return abs(weight - expected) <= ROUNDINGS * torch.finfo(torch.float32).eps * expected


def _no_gradient(judgement: Judgement, name: str) -> Mismatch:
    return Mismatch(
        f"the total has no gradient on the feature maps of the branch {name}, expected that of its loss times its "
        "weight",
        judgement.task.clauses[StageName.GRADIENTS],
        [Value(f"branch {name}", "gradient on the feature maps", "not zero", "0", "0")],
    )


def _wrong_weights(
    judgement: Judgement, both: BothBranches, weights: Weights, right_total: bool | None
) -> Mismatch:
    """Return the mismatch of the branches' weights.

    Args:
        judgement: the judgement of the batch.
        both: the branches.
        weights: observed weight of each branch.
        right_total: True if the total has the expected weights; None if that is not known.
    """
    stage = StageName.WEIGHTS if right_total is False else StageName.GRADIENTS
    numbers = next(iter(both.parts.values())).dialect, both.outcome.inputs.hyperparameters
    after = (
        f" after {numbers[1].updates} updates in a training of {numbers[1].epochs} epochs"
        if numbers[0].weighted_branches
        else ""
    )
    seen = " and ".join(f"{weight:.7g} ({name})" for name, weight in weights.items())
    wanted = " and ".join(f"{weight:.7g}" for weight in both.weights.values())
    what = "gradients" if stage == StageName.GRADIENTS else "branches"
    also = ", although the total has the expected weights" if right_total else ""
    return Mismatch(
        f"the {what} are weighted by {seen}, expected {wanted}{after}{also}",
        judgement.task.clauses[stage],
        [
            Value(
                f"branch {name}",
                "weight",
                f"{both.weights[name]:.9g}",
                f"{weight:.9g}",
                "the rounding of gradients",
            )
            for name, weight in weights.items()
        ],
    )


def merge_branch(judgement: Judgement, branch: str, own: Judgement) -> None:
    """Add the judgement of a branch to that of the batch."""
    for name, stage in own.stages.items():
        judgement.stages[stage_name(name, branch)].merge(stage)
    judgement.uniqueness = least_unique(judgement.uniqueness, own.uniqueness)
    judgement.chose_differently = judgement.chose_differently or own.chose_differently
    judgement.inconclusive = judgement.inconclusive or own.inconclusive
    judgement.undefined = judgement.undefined or own.undefined
    judgement.absent += [name for name in own.absent if name not in judgement.absent]
    judgement.notes += [f"{branch}: {note}" for note in own.notes]


def _judge_values(
    judgement: Judgement,
    both: BothBranches,
    loss: LossOutcome,
    expected: Expectation,
    found: Mapping[str, Judgement],
) -> None:
    """Judge items and total of the whole loss, given those of the branches (E2E-3)."""
    if any(own.verdict.fails for own in found.values()):
        return  # a branch with wrong values has been reported
    if loss.shows_items:
        _judge_items(judgement, both, loss, expected, found)
    if judgement.stages[StageName.WEIGHTS].state is State.DIVERGES:
        return
    quantity = Quantity("total", judgement.task.clauses[StageName.TOTAL])
    total = _total(both, found, both.weights, loss)
    if total is None:
        judgement.leave_open(UNKNOWN.format("the total"))
        return
    judgement.note(StageName.TOTAL, assert_within, quantity, loss.total, total)


def _judge_items(
    judgement: Judgement,
    both: BothBranches,
    loss: LossOutcome,
    expected: Expectation,
    found: Mapping[str, Judgement],
) -> None:
    """Judge the items of the whole loss: those of one2one, or the sum of both branches' items (E2E-3)."""
    task, sums = expected.batch.family, not expected.dialect.weighted_branches
    branches = list(both.parts) if sums else [task.branches[-1]]
    of_branches = [_items(both, found, name) for name in branches]
    known = [values for values in of_branches if values is not None]
    if len(known) < len(branches):
        judgement.leave_open(UNKNOWN.format("the items"))
        return
    items = torch.stack([values.expected for values in known]).sum(0)  # (terms,)
    allowed = torch.stack([values.tolerance for values in known]).sum(0)  # (terms,)
    dtype = loss_precision(expected.batch)
    rounding = torch.finfo(dtype).eps * items.abs() if sums else torch.zeros_like(items)
    for place, term in enumerate(task.terms):
        quantity = Quantity(f"{term.quantity} item", judgement.task.clauses[StageName.ITEMS])
        bounded = Bounded(items[place], (allowed + rounding)[place])
        judgement.note(StageName.ITEMS, _assert_item, quantity, loss.items[place], bounded, sums)


def _assert_item(quantity: Quantity, observed: Tensor, bounded: Bounded, sums: bool) -> Agreement:
    """Assert that an item is that of one2one, or the sum of both branches' items if `sums`.

    Raises:
        Mismatch: the item differs.
    """
    try:
        return assert_within(quantity, observed, bounded)
    except Mismatch as mismatch:
        whose = (
            "the sum of both branches' items"
            if sums
            else "the item of the branch one2one, without its weight"
        )
        mismatch.summary += f"; expected {whose}"
        raise


def _items(both: BothBranches, found: Mapping[str, Judgement], name: str) -> Bounded | None:
    """Return the exposed items of a branch, or else the expected items, with their tolerances.

    Return None if the branch exposes no items, and its judgement has none.
    """
    loss = both.outcome.branches[name].loss
    assert loss is not None
    if loss.knows_total and loss.shows_items:
        items = loss.items.double()
        return Bounded(items, torch.zeros_like(items))
    if not found[name].open_items:
        return None
    values = torch.tensor(found[name].open_items, dtype=torch.float64).reshape(-1, 2)  # (terms, 2)
    return Bounded(values[:, 0], values[:, 1])


def _total(
    both: BothBranches, found: Mapping[str, Judgement], weights: Weights, loss: LossOutcome
) -> Bounded | None:
    """Return the weighted sum of the branches' totals, with the tolerance of its rounding (E2E-3).

    Return None if total and items of a branch are not known.
    """
    total, allowed = torch.zeros((), dtype=torch.float64), torch.zeros((), dtype=torch.float64)
    size = torch.zeros((), dtype=torch.float64)
    for name, part in both.parts.items():
        own, weight = both.outcome.branches[name].loss, weights[name]
        assert own is not None
        factor = total_factor(part.batch.images, part.dialect)
        if own.knows_total:
            total = total + weight * own.total.double().cpu()
            size = size + weight * own.total.double().abs().cpu()
            continue
        items = _items(both, found, name)
        if items is None:
            return None
        total = total + weight * factor * items.expected.sum()
        size = size + weight * factor * items.expected.abs().sum()
        allowed = allowed + weight * factor * items.tolerance.sum()
    batch = next(iter(both.parts.values())).batch
    rounding = 4 * torch.finfo(loss_precision(batch)).eps * size
    place = loss.total.device
    return Bounded(total.to(place), (allowed + rounding).to(place))


def _agrees(observed: Tensor, bounded: Bounded) -> bool:
    return bool((observed.double() - bounded.expected).abs() <= bounded.tolerance)
