"""Compare the losses of source batches and transformed batches: gradients, and terms multiplied by N.

N is the divisor of the loss: the sum of the target scores (LOSS-SUM-1).
"""

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.checks.relations.compare_images import Comparison
from tal_conformance.checks.relations.head_gradients import fields_of_maps
from tal_conformance.checks.relations.runs import Run
from tal_conformance.checks.relations.transformations import FollowUp, Pair, TransformationPlan
from tal_conformance.core.geometry import flatten
from tal_conformance.core.task import StageName, Task

DIMENSIONS = {
    "distances": ("anchor", "side", "bin"),
    "logits": ("anchor", "class"),
    "angle": ("anchor", "channel"),
    "keypoints": ("anchor", "channel"),
    "coefficients": ("anchor", "channel"),
    "prototypes": ("channel", "row", "column"),
}
"""Names of the dimensions of an image's gradient on each head field."""


class LossComparison:
    """Comparison of the losses of the source batches and the transformed batches of one transformation.

    Args:
        comparison: receives the result.
        plan: the source batches and the transformed batches.
        sources: runs of the source batches.
        changed: runs of the transformed batches.
        weights: (B, A) for each source batch: actual or possible difference of each weight between the source batch and
            the transformed batches.
    """

    def __init__(
        self,
        comparison: Comparison,
        plan: TransformationPlan,
        sources: list[Run],
        changed: list[Run],
        weights: list[Tensor],
    ) -> None:
        self.to, self.plan = comparison, plan
        self.sources, self.changed, self.weights = sources, changed, weights
        self.task = sources[0].batch.family

    def run(self) -> None:
        """Compare terms, totals and gradients of the source batches with those of the transformed batches."""
        if self.identical():
            for stage in self.task.stages_of("term", "total", "gradients"):
                self.to.agrees(stage)
            return
        if not all(self.all_finite(run) for run in (*self.sources, *self.changed)):
            return
        moved = [
            run.moved_loss(weights) if bool(weights.any()) else None
            for run, weights in zip(self.sources, self.weights, strict=True)
        ]
        self.score_sum()
        self.terms([loss[0] for loss in moved if loss is not None])
        gradients = [loss and loss[1] for loss in moved]
        for batch, now in zip(self.plan.changed, self.changed, strict=True):
            for pair in batch.pairs:
                self.gradients(pair, now, gradients[pair.source])
            if batch.extra is not None:
                self.extra_gradient(batch.extra, now)

    def identical(self) -> bool:
        """Return True if the plan has one source and one transformed batch, and their results are bitwise equal."""
        if len(self.sources) > 1 or len(self.changed) > 1 or self.plan.changed[0].extra is not None:
            return False
        (source,), (changed,) = self.sources, self.changed
        before, now = source.loss, changed.loss
        if not (torch.equal(before.items, now.items) and torch.equal(before.total, now.total)):
            return False
        old = fields_of_maps(before.gradients, source.batch)
        new = fields_of_maps(now.gradients, changed.batch)
        return all(
            torch.equal(in_source, in_changed)
            for pair in self.plan.changed[0].pairs
            for in_source, in_changed in zip(
                _of(old, pair.image), _moved_back(new, pair, self.task), strict=True
            )
        )

    def all_finite(self, run: Run) -> bool:
        """Return True if every loss item, the total and every gradient of a run is finite."""
        results = [
            self.to.finite(stage, self.task.terms[at].quantity, run.loss.items[at], ())
            for stage, at in self.task.item_of.items()
        ]
        results.append(self.to.finite(StageName.TOTAL, "total", run.loss.total, ()))
        results += [
            self.to.finite(StageName.GRADIENTS, "gradient", level, ()) for level in run.loss.gradients
        ]
        return all(results)

    def score_sum(self) -> None:
        """Compare the divisors N of the source batch with those of the transformed batches (LOSS-SUM-1).

        N is computed from the gradients of each loss, also where target scores are exposed. A batch with the same
        ground truths has the same N. If a batch is split, N lies between two sums over the parts: N is the sum of the
        target scores, but not less than a floor, so that a part whose N is the floor may contribute nothing.

        Nothing is compared if several sources have ground truths, if no source has any, if gradients do not determine
        N, or if a tie may change the number of positives. Such a tie does not change the sum of target scores, but
        may change another N, which the comparison with the dialect reports.
        """
        filled, parts = (
            [run for run in side if any(map(len, run.truths))] for side in (self.sources, self.changed)
        )
        if len(filled) != 1 or not parts or not all(run.determines_score_sum for run in (*filled, *parts)):
            return
        (whole,) = filled
        if not self.same_number_of_positives(whole, parts):
            return
        floor = whole.expected.dialect.score_sum_floor
        own = torch.stack([run.own_scale for run in parts])  # (parts,)
        errors = torch.stack([run.own_scale_error for run in parts])  # (parts,)
        error = whole.own_scale_error + errors.sum() + sum(weights.sum() for weights in self.weights)
        most = own.clamp(min=floor).sum() if len(parts) > 1 else own.sum()
        least = own.where(own - errors > floor, 0).sum().clamp(min=floor) if len(parts) > 1 else most
        middle, radius = (most + least) / 2, (most - least) / 2
        self.to.assert_within(StageName.CLS, "N", whole.own_scale, middle, radius + error)

    def same_number_of_positives(self, whole: Run, parts: list[Run]) -> bool:
        """Return True if a batch and the transformed batches certainly have as many positives in total."""
        if whole.shows_scores and all(run.shows_scores for run in parts):
            return whole.positive_count == sum(run.positive_count for run in parts)
        return all(run.fixes_positive_count for run in (whole, *parts))

    def terms(self, moved: list[Tensor]) -> None:
        """Compare each loss term, summed over the source batches, with the sum over the transformed batches.

        The terms of a batch are multiplied by the batch's N (LOSS-SUM-1).
        """
        before, now = (
            torch.stack([run.terms[0] for run in side]).sum(0) for side in (self.sources, self.changed)
        )
        error = torch.stack([run.terms[1] for run in (*self.sources, *self.changed)]).sum(0)  # (4,)
        error = error + sum(moved, torch.zeros_like(error))
        for batch in self.plan.changed:
            before = before + extra_terms(batch)
        if self.plan.inexact:
            error = error + (_exact_terms(self.sources) - _exact_terms(self.changed)).abs()
        shown = all(run.loss.shows_items for run in (*self.sources, *self.changed))
        for stage, at in self.task.item_of.items() if shown else ():
            if stage in self.plan.unequal:
                continue
            term = self.task.terms[at]
            name = f"{term.quantity} times {'N' if term.weighted else 'P'}"
            self.to.assert_within(stage, name, now[at], before[at], error[at])
        if not self.plan.unequal and (shown or not self.task.counts_in_full):
            self.to.assert_within(StageName.TOTAL, "total times N", now[-1], before[-1], error[-1])

    def gradients(self, pair: Pair, now: Run, moved: tuple[Tensor, ...] | None) -> None:
        """Compare one image's gradients, times N / B or P / B, between source and transformed batch (LOSS-GRAD-1)."""
        source = self.sources[pair.source]
        (old, old_error), (new, new_error) = source.gradients, now.gradients
        image = pair.image if not pair.source else None
        for at, field in enumerate(self.task.fields):
            if field.name in self.plan.unequal:
                continue
            name, names = field.quantity, DIMENSIONS[field.name]
            error = old_error[at][pair.image] + _moved_back(new_error, pair, self.task)[at].abs()
            if moved is not None:
                error = error + moved[at][pair.image]
            if self.plan.inexact:
                exact = _moved_back(now.exact_gradients, pair, self.task)[at]
                error = error + (exact - source.exact_gradients[at][pair.image]).abs()
            value, before = _moved_back(new, pair, self.task)[at], old[at][pair.image]
            divisor = "N" if self.task.is_weighted(field) else "P"
            self.to.assert_within(
                StageName.GRADIENTS,
                f"gradient on {name} times {divisor} / B",
                value,
                before,
                error,
                names,
                image,
            )

    def extra_gradient(self, channel: int, now: Run) -> None:
        """Check the gradient on the logits `channel` of a class without ground truths (LOSS-CLS-1).

        The expected gradient is that of a binary cross-entropy with target 0.
        """
        _, logits = flatten(now.batch.feature_maps, now.batch.head)
        expected = now.batch.hyperparameters.cls_gain * logits[..., channel].double().sigmoid()  # (B, A)
        observed, error = (values[1][..., channel] for values in now.gradients)
        name = "gradient on the class that no ground truth has, times N / B"
        self.to.assert_within(StageName.GRADIENTS, name, observed, expected, error, ("image", "anchor"))


def extra_terms(changed: FollowUp) -> Tensor:
    """Return the share of the added class without ground truths in every term and in the total: its cross-entropy.

    Shape (terms + 1,): (4,) for detection.
    """
    task = changed.batch.family
    terms = torch.zeros(len(task.terms) + 1, dtype=torch.float64, device=changed.batch.device)
    if changed.extra is None:
        return terms
    _, logits = flatten(changed.batch.feature_maps, changed.batch.head)  # (B, A, C)
    cls = (
        changed.batch.hyperparameters.cls_gain
        * functional.softplus(logits[..., changed.extra].double()).sum()
    )
    terms[task.item_of[StageName.CLS]], terms[-1] = cls, cls
    return terms


def _of(values: tuple[Tensor, ...], image: int) -> tuple[Tensor, ...]:
    return tuple(of_field[image] for of_field in values)


def _moved_back(values: tuple[Tensor, ...], pair: Pair, task: Task) -> tuple[Tensor, ...]:
    """Return one image's gradients, (A, 4, R), (A, C) and those of further fields, with the transformation undone."""
    distances, logits, *others = _of(values, pair.changed_image)
    mapping = pair.mapping
    back = [mapping.sides(distances[mapping.anchors]), logits[mapping.anchors][:, mapping.classes]]
    for field, of_field in zip(task.fields[len(back) :], others, strict=True):
        at = of_field if field.place == "image" else of_field[mapping.anchors]
        back.append(mapping.other(field.name, at))
    return tuple(back)


def _exact_terms(runs: list[Run]) -> Tensor:
    """Return the reference's terms and total in float64, times N, added up over runs."""
    return torch.stack([run.exact_terms for run in runs]).sum(0)
