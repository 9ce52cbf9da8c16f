"""One run of an implementation: its outcome on a batch, and the rounding errors of all values.

This is the only module of the relations that uses the reference, and only to derive rounding errors: every value is
compared with the implementation's own values, never with the reference's.
"""

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.checks.relations.ambiguity import DecidingValues
from tal_conformance.checks.relations.head_gradients import (
    at_anchors,
    divisors_of,
    fields_of_maps,
    of_score_sum,
    totalled,
)
from tal_conformance.checks.relations.overlaps import overlap_errors
from tal_conformance.core.geometry import flatten
from tal_conformance.core.outcome import LossOutcome, Outcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Uniqueness, least_unique
from tal_conformance.judgement.comparators import all_finite
from tal_conformance.judgement.expectation import Expectation, LossExpectation
from tal_conformance.judgement.oracle.oracle import ImageOracle
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, bound
from tal_conformance.judgement.rounding.exact_loss import Gradients
from tal_conformance.judgement.rounding.geometry import InputErrors
from tal_conformance.judgement.rounding.loss_rounding import gradient_bound
from tal_reference import BatchTargets, GroundTruths
from tal_reference.loss import stacked


class NotApplicable(Exception):
    """Error: the relation does not apply to the batch."""


class Run:
    """One run of an implementation on a batch. u is the overlap, t the alignment metric, w the weight of a positive.

    Args:
        outcome: outcome of the implementation.
        expected: everything that its dialect prescribes for the batch.
    """

    def __init__(self, outcome: Outcome, expected: Expectation) -> None:
        if outcome.loss is not None and not outcome.from_loss:
            outcome = replace(outcome, assignment=None)  # the assignment is not that of the loss
        self.outcome, self.expected = outcome, expected
        self.batch, self.dtype, self.eps = expected.batch, expected.dtype, expected.eps

    @property
    def loss(self) -> LossOutcome:
        """The loss that the implementation returned."""
        assert self.outcome.loss is not None, "an assigner alone has no loss"
        return self.outcome.loss

    @property
    def truths(self) -> list[GroundTruths]:
        """The ground truths of each image, in float64."""
        return self.expected.truths

    @property
    def input_errors(self) -> list[InputErrors] | None:
        """Possible difference between the assigner's inputs and the reference's; None if the inputs are exposed."""
        known = self.outcome.exposes_inputs or self.outcome.loss is None
        return None if known else self.expected.input_errors

    def truth_errors(self, image: int) -> Tensor:
        """Return the rounding errors (M, 4) in pixels of the edges of an image's ground truths."""
        exact, own = self.truths[image], self.expected.rounded_truths[image]
        unit = self.expected.geometry.truth_unit(exact.boxes, self.eps)
        return bound(own.boxes, exact.boxes, unit, self.dtype, "ground truth box")

    @property
    def is_finite(self) -> bool:
        """True if the terms of the loss and the target scores are finite, as far as they are exposed."""
        items = [] if self.outcome.loss is None else [self.outcome.loss.items]
        scores = [] if self.outcome.assignment is None else [self.outcome.assignment.scores]
        return all(map(all_finite, (*items, *scores)))

    @cached_property
    def oracles(self) -> dict[int, ImageOracle]:
        """The oracle of every image that has ground truths."""
        images = [image for image, truths in enumerate(self.truths) if len(truths)]
        errors = None if self.input_errors is None else dict(enumerate(self.input_errors))
        return self.expected.images(images, self.outcome.inputs, errors)

    @property
    def uniqueness(self) -> Uniqueness:
        """Uniqueness of the batch's assignment: unique, or the reason why it is not."""
        return least_unique(*(known.uniqueness for known in self.oracles.values()))

    def oracle(self, image: int, moved: InputErrors | None = None) -> ImageOracle:
        """Return the oracle of one image.

        `moved` is the difference of the assigner's inputs between two runs, if any.
        """
        if moved is None and image in self.oracles:
            return self.oracles[image]
        hidden = self.input_errors[image] if self.input_errors else None
        if moved is not None and hidden is not None:
            moved = InputErrors(
                moved.boxes + hidden.boxes, moved.scores + hidden.scores, moved.truths + hidden.truths
            )
        return self.expected.image(image, self.outcome.inputs, moved or hidden)

    @cached_property
    def targets(self) -> BatchTargets:
        """The targets of the loss: from the exposed assignment if there is one, else from the reference."""
        own = self.outcome.assignment
        if own is not None:
            return self.expected.targets_of(own)
        reference = self.expected.assignment
        targets = stacked(reference, self.batch.head.classes)
        return self.expected.with_parts(targets, torch.stack([image.truth_index for image in reference]))

    @property
    def leaves_foreign_open(self) -> bool:
        """True if a hidden assignment that the reference does not explain counts as an open choice.

        The errors of `foreign_positives` are those of upright boxes, and of terms that are linear in the weights.
        """
        return self.batch.turned or self.batch.family.counts_in_full

    def ambiguity_of(self, image: int) -> DecidingValues | None:
        """Return the values that decide an image's assignment that is not exposed; None without ground truths."""
        if image not in self.oracles:
            return None
        read = {"truths": self.truths[image].boxes, "boxes": self.outcome.inputs.boxes[image]}
        return DecidingValues.of(self.oracles[image], read, self.batch.hyperparameters)

    def hidden_weight_errors(self, image: int) -> Tensor:
        """Return the possible errors (A,) of the weights of an image's anchors, if the assignment is not exposed."""
        own, known = self.expected.assignment[image], self.ambiguity_of(image)
        if known is None:
            return torch.zeros_like(own.weights, dtype=torch.float64)
        rows = torch.arange(len(self.truths[image]), device=self.batch.device)[:, None]  # (M, 1)
        positives = (rows == own.truth_index) & own.foreground  # (M, A)
        return known.weight_errors(positives, self.dtype)

    @cached_property
    def scale(self) -> Tensor:
        """N, by which the loss divides (LOSS-SUM-1): the sum of the exposed target scores, or the loss's own N."""
        return self._score_sum[0]

    @cached_property
    def _score_sum(self) -> tuple[Tensor, Tensor]:
        """N and its relative error.

        The comparison with the dialect reports an N that differs from the sum of exposed target scores. The loss's own
        N is used here, so that relations do not report it for every term again.
        """
        own, error, determined = self._background_logit
        if self.outcome.assignment is None:
            return own, error
        shown = self.outcome.assignment.scores.double().sum().clamp(min=1)
        if not determined or bool((own - shown).abs() <= error * shown):
            return shown, torch.zeros_like(error)
        return own, error

    @property
    def own_scale(self) -> Tensor:
        """N, computed from the class gradients of the loss."""
        return self._background_logit[0]

    @property
    def own_scale_error(self) -> Tensor:
        """Possible difference between `own_scale` and the N of another correct run on the same ground truths.

        The parts are the rounding of one class gradient, of a sum of P target scores in any order, and the errors of
        target scores that are computed from gradients.
        """
        rounding = self._background_logit[1] + self.targets.foreground.sum() * self.eps
        return self.own_scale * rounding + self.foreign_positives[1].sum()

    @property
    def determines_score_sum(self) -> bool:
        """True if class gradients determine N."""
        return self._background_logit[2]

    @property
    def positive_count(self) -> int:
        """Number of positives of the exposed assignment."""
        assert self.outcome.assignment is not None, "the assignment is hidden"
        return int(self.outcome.assignment.foreground.sum())

    @cached_property
    def fixes_positive_count(self) -> bool:
        """True if all admissible assignments of the batch have the same number of positives.

        The number is fixed if every ground truth selects a fixed number of anchors, and if no anchor that a choice may
        select or not is an anchor that another ground truth may select too.
        """
        return all(
            bool((known.selection.min_count == known.selection.max_count).all())
            and not bool(
                (
                    (known.selection.may & ~known.selection.must).any(0) & (known.selection.may.sum(0) > 1)
                ).any()
            )
            for known in self.oracles.values()
        )

    @cached_property
    def batch_factor(self) -> Tensor:
        """Factor between the sum of the items and the total: the batch size B (LOSS-GAIN-1), or the loss's own factor.

        A factor other than B is reported by the comparison with the dialect. Here N and the gradients are computed with
        the loss's own factor, so that relations do not report it again. The factor is B if the total equals B times the
        sum of the items within rounding.
        """
        items, images = self.loss.items.double(), self.batch.images
        expected, whole = items.sum() * images, items.sum()
        total = self.loss.total.double()
        if not bool(whole) or not bool(total) or bool((total - expected).abs() <= self.total_error):
            return torch.full_like(whole, images)
        factor = total / whole
        return factor if bool(factor.isfinite()) else torch.full_like(whole, images)

    @property
    def total_error(self) -> Tensor:
        """Return the rounding error of the batch size B times the sum of the implementation's loss items."""
        items, images = self.loss.items.double(), self.batch.images
        rounding = 4 * self.eps * items.abs().sum() * images
        return bound(self.loss.items.sum() * images, items.sum() * images, rounding, self.dtype, "total")

    @property
    def positives(self) -> int:
        """Number P of positives of the run's targets, at least 1, by which terms are divided that ignore weights."""
        return max(int(self.targets.foreground.sum()), 1)

    @cached_property
    def terms(self) -> tuple[Tensor, Tensor]:
        """Each term and the total, times their divisors (see `totalled`); and their errors: (4,) each for detection."""
        dtype, images, loss, known = self.dtype, self.batch.images, self.loss, self._expected_loss
        errors = [
            bound(
                known.same_dtype.items[at],
                known.exact.items[at],
                known.rounding.items[at],
                dtype,
                term.quantity,
            )
            for at, term in enumerate(self.batch.family.terms)
        ]
        items = loss.items.double()
        total = self.total_error / images
        if known.rounding.enclosed is not None:
            errors = [error + known.rounding.enclosed[at] for at, error in enumerate(errors)]
        task, count = self.batch.family, self.positives
        whole = loss.total.double() / self.batch_factor
        values = totalled(items, whole, divisors_of(task, self.scale, count), task)  # (terms + 1,)
        rounding = torch.stack(errors) * divisors_of(task, self._expected_scale, count)  # (terms,)
        of_terms = torch.cat((rounding, (rounding.sum() + total * self.scale)[None]))
        return values, of_terms + of_score_sum(values, task) * self._scale_error + self._foreign_term_errors

    @cached_property
    def foreign(self) -> Tensor:
        """(B, A) bool: True if the gradients on the distances do not follow from the reference's assignment.

        False everywhere if the assignment is exposed.
        """
        if self.outcome.assignment is not None or self.outcome.loss is None:
            return torch.zeros_like(self.expected.predictions.logits[..., 0], dtype=torch.bool)
        distances = flatten(self.loss.gradients, self.batch.head)[0].flatten(2)  # (B, A, 4R)
        return (distances != 0).any(2) & ~self._follows_reference(distances)

    @cached_property
    def foreign_positives(self) -> tuple[Tensor, Tensor]:
        """Target scores (B, A) where the hidden assignment differs from the reference's, else 0; and their errors."""
        none, foreign = (
            torch.zeros_like(self.expected.predictions.logits[..., 0]),
            self.foreign,
        )  # (B, A) twice
        if self.leaves_foreign_open or not foreign.any():  # see `compare_image`
            return none, none
        logits = flatten(self.loss.gradients, self.batch.head)[1]
        gain = self.batch.hyperparameters.cls_gain * self.batch_factor
        scores = self.expected.predictions.logits.sigmoid() - logits.double() * self.scale / gain  # (B, A, C)
        weights = scores.amax(2).nan_to_num().clamp(0, 1).where(foreign, 0)  # (B, A)
        of_overlaps = none.clone()
        boxes = self.expected.predictions.boxes * self.expected.predictions.anchors.strides  # (B, A, 4)
        for image, (truths, of_inputs) in enumerate(
            zip(self.truths, self.expected.input_errors, strict=True)
        ):
            if len(truths):
                edges = of_inputs.boxes + of_inputs.truths.amax(1, keepdim=True)  # (M, A)
                of_overlaps[image] = overlap_errors(truths.boxes, boxes[image], edges, self.eps).amax(0)
        errors = (2 * self.batch.hyperparameters.beta + 2) * of_overlaps
        return weights, errors.where(foreign, 0)

    def _follows_reference(self, distances: Tensor) -> Tensor:
        """Return (B, A) bool: True where gradients on distance logits follow from the reference's assignment."""
        known, scores = self._expected_loss, self.targets.scores.double()
        share = scores.sum().clamp(min=1) / self.batch.images  # N / B of the reference
        exact, same_dtype = (computed.of_total[0] for computed in (known.exact, known.same_dtype))
        unit, jump = (
            at_anchors(each, self.batch.family, self.targets.foreground)[0]
            for each in (known.rounding.of_total, known.rounding.jumps_of_total)
        )
        error = gradient_bound(self.batch, "distance logits", exact, same_dtype, unit) + jump  # (B, A, 4R)
        moved = torch.stack(
            [self.hidden_weight_errors(image) for image in range(self.batch.images)]
        )  # (B, A)
        error = error * share + exact.abs() * share * self._scale_error
        if moved.any():
            of_sum = moved.sum() / scores.sum().clamp(min=1)  # of N
            error = error + self.moved_loss(moved)[1][0].flatten(2) + exact.abs() * share * of_sum
        observed = distances.double() * self.scale / self.batch_factor
        return ((observed - exact * share).abs() <= error).all(2)

    @cached_property
    def _foreign_term_errors(self) -> Tensor:
        """Return the errors, times N, that `foreign_positives` add to every term and the total: (4,) for detection.

        The errors are those of 1 - CIoU, which is at most 2 and a penalty of at most 1; of a target score times its
        logit; and of a cross-entropy of at most the largest -log p of the anchor's bins.
        """
        weights, errors = self.foreign_positives
        if not weights.any():
            return weights.new_zeros(len(self.batch.family.terms) + 1)
        numbers, distances = self.batch.hyperparameters, self.expected.predictions.distances  # (B, A, 4R)
        bins = distances.unflatten(2, (4, self.batch.head.reg_max)).log_softmax(-1)
        sides = -bins.flatten(2).amin(2) + 1  # (B, A)
        of_terms = {
            "box": numbers.box_gain * (4 * errors).sum(),
            "cls": numbers.cls_gain * (self.expected.predictions.logits.abs().amax(2) * errors).sum(),
            "dfl": numbers.dfl_gain * (sides * (errors + ROUNDINGS * 8 * self.eps * weights)).sum(),
        }
        terms = torch.stack(
            [of_terms.get(term.name, errors.new_zeros(())) for term in self.batch.family.terms]
        )
        return torch.cat((terms, terms.sum()[None]))

    def _foreign_gradient_errors(self, gradient: Tensor) -> tuple[Tensor, Tensor]:
        """Return the errors (B, A) that `foreign_positives` add to the scaled gradient on distance and class logits.

        The gradient is linear in w. It is the sum of a dfl part of at most dfl_gain w, and a box part, which may
        cancel; so the box part is at most the gradient plus the dfl part. Edges of the predicted box change it in
        proportion to its sides.
        """
        weights, errors = self.foreign_positives
        largest = gradient.abs().flatten(2).amax(2)  # (B, A)
        boxes = self.expected.predictions.boxes * self.expected.predictions.anchors.strides  # (B, A, 4)
        sides = (boxes[..., 2:] - boxes[..., :2]).abs().amin(-1)  # (B, A)
        edges = torch.stack([each.boxes for each in self.expected.input_errors])  # (B, A)
        share = ROUNDINGS * (8 * self.eps + (4 * edges / sides).nan_to_num(posinf=1.0))
        dfl = self.batch.hyperparameters.dfl_gain * weights  # (B, A)
        moved = largest * (errors / weights).nan_to_num(posinf=1.0).clamp(max=1)
        distances = ((largest + dfl) * share + moved) * (weights > 0)
        return distances, self.batch.hyperparameters.cls_gain * errors

    @cached_property
    def gradients(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The gradients on every head field, times N / B, or P / B of terms that count positives in full; errors.

        Of distance logits (B, A, 4, R), class logits (B, A, C), and the task's further fields.
        """
        known, family = self._expected_loss, self.batch.family
        shown = fields_of_maps(self.loss.gradients, self.batch)
        values, errors = [], []
        rounding_units = (
            at_anchors(each, family, self.targets.foreground)
            for each in (known.rounding.of_total, known.rounding.jumps_of_total)
        )
        computed = known.exact.of_total, known.same_dtype.of_total, *rounding_units
        for field, observed, right, ours, unit, jump in zip(family.fields, shown, *computed, strict=True):
            error = gradient_bound(self.batch, field.quantity, right, ours, unit) + jump
            weighted = family.is_weighted(field)
            if weighted:
                error = error + right.abs() * self._scale_error
            divisors = (self._expected_scale, self.scale) if weighted else (self.positives, self.positives)
            values.append(observed.double() * divisors[1] / self.batch_factor)
            errors.append(error.view_as(observed) * divisors[0] / self.batch.images)
        if self.foreign_positives[0].any():
            distances, logits = self._foreign_gradient_errors(values[0])
            errors = [errors[0] + distances[..., None, None], errors[1] + logits[..., None]]
        return tuple(values), tuple(errors)

    @property
    def exact_terms(self) -> Tensor:
        """The reference's terms and their sum in float64 for the run's targets, times their divisors, as in `terms`."""
        divisors = divisors_of(self.batch.family, self._expected_scale, self.positives)
        items = self._expected_loss.exact.items * divisors
        return torch.cat((items, items.sum()[None]))

    @property
    def exact_gradients(self) -> Gradients:
        """The reference's gradients in float64 for the run's targets, with the shapes and factors of `gradients`."""
        family = self.batch.family
        distances, *others = (
            values
            * (self._expected_scale if family.is_weighted(field) else self.positives)
            / self.batch.images
            for field, values in zip(family.fields, self._expected_loss.exact.of_total, strict=True)
        )
        return distances.unflatten(2, (4, self.batch.head.reg_max)), *others

    def moved_loss(self, weights: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return the change of terms (4,) and gradients, times N, if weights change by up to the given values (B, A).

        Multiplied by N, all of them are linear in the weights, so that the change is the loss of the changes.
        """
        numbers, images, logits = (
            self.batch.hyperparameters,
            self.batch.images,
            self.expected.predictions.logits,
        )
        label = self.targets.scores.argmax(2, keepdim=True)  # (B, A, 1)
        scores = torch.zeros_like(logits).scatter(2, label, weights[..., None].double())
        family = self.batch.family
        loss = self.expected.loss(replace(self.targets, scores=scores)).exact
        scale = scores.sum().clamp(min=1)
        cls = numbers.cls_gain * (logits * scores).abs().sum()
        terms = loss.items.abs() * scale * loss.items.new_tensor([term.weighted for term in family.terms])
        terms[family.item_of[StageName.CLS]] = cls
        distances, _, *others = (
            values.abs() * (scale if family.is_weighted(field) else 0) / images
            for field, values in zip(family.fields, loss.of_total, strict=True)
        )  # (B, A, 4R)
        sides = distances.unflatten(2, (4, self.batch.head.reg_max))
        return torch.cat((terms, terms.sum()[None])), (sides, numbers.cls_gain * scores, *others)

    @cached_property
    def _background_logit(self) -> tuple[Tensor, Tensor, bool]:
        """Return N, computed from one background class logit, its relative error, and True if N is determined.

        The gradient on a class logit x is g B / N (sigmoid(x) - target), with g the gain of the class loss and B the
        batch size. The quotient of gradient and sigmoid is largest on background, where the target is 0. N is not
        determined without background, as if all anchors of a head with one class are positives, and not if all
        gradients of background are 0, or so small that they are rounded more coarsely than others.
        """
        _, logits = flatten(self.batch.feature_maps, self.batch.head)
        gradient = flatten(self.loss.gradients, self.batch.head)[1].double()  # (B, A, C)
        score = logits.double().sigmoid()
        whole = self.batch.hyperparameters.cls_gain * self.batch_factor
        rounds = gradient.abs() < torch.finfo(self.dtype).tiny / self.eps  # may round more coarsely
        at = (gradient / score).nan_to_num(nan=0.0, posinf=0.0).where(~rounds, 0).flatten().argmax()
        steepest = gradient.flatten()[at].clamp(min=torch.finfo(self.dtype).tiny)
        error = ROUNDINGS * 3 * self.eps  # roundings of sigmoid, quotient and product
        determined = bool(
            (gradient.flatten()[at] > 0) & ~rounds.flatten()[at] & (self._background & ~rounds).any()
        )
        return whole * score.flatten()[at] / steepest, torch.full_like(steepest, error), determined

    @property
    def lacks_score_sum(self) -> bool:
        """True if neither exposed target scores nor gradients of a correct loss tell N.

        The batch decides, not the observed gradients: a loss whose gradients on background are wrongly 0 is compared.
        """
        hides = self.outcome.loss is not None and not self.shows_scores
        return hides and any(map(len, self.truths)) and not self._steep_background

    @property
    def _steep_background(self) -> bool:
        """True if a correct loss has a gradient on background that is not rounded more coarsely than others.

        The least admissible gradient is twice as large as in `_background_logit`, since the observed one is rounded.
        """
        score = flatten(self.batch.feature_maps, self.batch.head)[1].double().sigmoid()  # (B, A, C)
        gradient = self.batch.hyperparameters.cls_gain * self.batch_factor * score / self._expected_scale
        least = 2 * torch.finfo(self.dtype).tiny / self.eps
        return bool(((gradient.abs() >= least) & self._background).any())

    @property
    def _background(self) -> Tensor:
        """True for class logits (B, A, C) whose target is certainly 0, whichever admissible assignment was made."""
        if self.outcome.assignment is not None:
            return self.outcome.assignment.scores == 0
        certain = torch.ones_like(self.targets.scores, dtype=torch.bool)  # (B, A, C)
        for image, known in self.oracles.items():
            certain[image] = ~known.selection.may.any(0)[:, None]
            others = torch.ones(self.batch.head.classes, dtype=torch.bool, device=certain.device)  # (C,)
            others[self.truths[image].labels] = False
            certain[image] |= others
        return certain

    @property
    def shows_scores(self) -> bool:
        """Return True if the target scores are exposed, so that their sum N need not be computed from the gradients."""
        return self.outcome.assignment is not None

    @property
    def _scale_error(self) -> Tensor:
        return self._score_sum[1]

    @property
    def _expected_scale(self) -> Tensor:
        """N of the target scores: rounding errors are derived from losses that are divided by it."""
        return self.targets.scores.double().sum().clamp(min=1)

    @cached_property
    def _expected_loss(self) -> LossExpectation:
        return self.expected.loss(self.targets)
