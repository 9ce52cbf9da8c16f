"""One run of an implementation: what came out of a batch, and how far rounding may have moved it.

This is the only module in which relations use what the reference computes, and they use it as a measure of rounding:
every number is compared with the implementation's own, never with the reference's.
"""

from dataclasses import replace
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.checks.relations.ambiguity import DecidingValues
from tal_conformance.core.geometry import flatten
from tal_conformance.core.outcome import LossOutcome, Outcome
from tal_conformance.core.verdicts import Uniqueness, least_unique
from tal_conformance.judgement.bounds import ROUNDINGS, bound, truth_unit
from tal_conformance.judgement.expectation import Expectation, LossExpectation
from tal_conformance.judgement.loss_rounding import gradient_bound, on_all_anchors
from tal_conformance.judgement.oracle import ImageOracle, InputErrors
from tal_reference import BatchTargets, GroundTruths
from tal_reference.loss import stacked


class Run:
    """One run of an implementation.

    Args:
        outcome: outcome of the implementation.
        expected: what its dialect prescribes for the batch.
    """

    def __init__(self, outcome: Outcome, expected: Expectation) -> None:
        if outcome.loss is not None and not outcome.from_loss:
            outcome = replace(outcome, assignment=None)  # another assigner's than the loss's own
        self.outcome, self.expected = outcome, expected
        self.batch, self.dtype, self.eps = expected.batch, expected.dtype, expected.eps

    @property
    def loss(self) -> LossOutcome:
        """The loss of the implementation."""
        assert self.outcome.loss is not None, "an assigner alone has no loss"
        return self.outcome.loss

    @property
    def truths(self) -> list[GroundTruths]:
        """The ground truths of each image, in float64."""
        return self.expected.truths

    @property
    def input_errors(self) -> list[InputErrors] | None:
        """Possible difference between the assigner's inputs and the reference's; None if the inputs are known."""
        known = self.outcome.exposes_inputs or self.outcome.loss is None
        return None if known else self.expected.input_errors

    def truth_errors(self, image: int) -> Tensor:
        """(M, 4) pixels by which the edges of an image's ground truths may err."""
        exact, own = self.truths[image], self.expected.rounded_truths[image]
        unit = truth_unit(exact.boxes, self.eps)
        return bound(own.boxes, exact.boxes, unit, self.dtype, "ground truth box")

    @cached_property
    def oracles(self) -> dict[int, ImageOracle]:
        """The oracle of every image that has ground truths."""
        return {image: self.oracle(image) for image, truths in enumerate(self.truths) if len(truths)}

    @property
    def uniqueness(self) -> Uniqueness:
        """Return whether the batch admits one assignment or several."""
        return least_unique(*(known.uniqueness for known in self.oracles.values()))

    def oracle(self, image: int, moved: InputErrors | None = None) -> ImageOracle:
        """Return the oracle of one image; `moved` is the difference of its inputs between two runs."""
        hidden = self.input_errors[image] if self.input_errors else None
        if moved is not None and hidden is not None:
            moved = InputErrors(
                moved.boxes + hidden.boxes, moved.scores + hidden.scores, moved.truths + hidden.truths
            )
        return self.expected.image(image, self.outcome.inputs, moved or hidden)

    @cached_property
    def targets(self) -> BatchTargets:
        """The targets of the loss: its own assignment; the reference's if it does not expose one."""
        own = self.outcome.assignment
        if own is not None:
            return BatchTargets(own.foreground, own.boxes.double(), own.scores)
        return stacked(self.expected.assignment, self.batch.head.classes)

    def ambiguity_of(self, image: int) -> DecidingValues | None:
        """Return the values that decide the assignment of an image if it is not exposed; None without any."""
        if image not in self.oracles:
            return None
        read = {"truths": self.truths[image].boxes, "boxes": self.outcome.inputs.boxes[image]}
        return DecidingValues.of(self.oracles[image], read, self.batch.hyperparameters)

    def hidden_weight_errors(self, image: int) -> Tensor:
        """(A,) errors of the weights of an assignment that is not shown."""
        own, known = self.expected.assignment[image], self.ambiguity_of(image)
        if known is None:
            return torch.zeros_like(own.weights, dtype=torch.float64)
        rows = torch.arange(len(self.truths[image]), device=self.batch.device)[:, None]  # (M, 1)
        positives = (rows == own.truth_index) & own.foreground  # (M, A)
        return known.weight_errors(positives, self.dtype)

    @cached_property
    def scale(self) -> Tensor:
        """LOSS-SUM-1: N. Where no target scores are shown, it is seen in the gradient on class logits.

        That is g B / N (sigmoid(x) - target): the largest of its quotients by the sigmoid is that of background.
        """
        if self.outcome.assignment is not None:
            return self.outcome.assignment.scores.double().sum().clamp(min=1)
        return self._background_logit[0]

    @cached_property
    def terms(self) -> tuple[Tensor, Tensor]:
        """Box, cls and dfl loss, and the total divided by B, all times N (4,); and their errors (4,)."""
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
        rounding = 4 * self.eps * items.abs().sum() * images
        total = bound(loss.items.sum() * images, items.sum() * images, rounding, dtype, "total") / images
        values = torch.cat((items, loss.total.double()[None] / images))  # (4,)
        error = torch.stack([*errors, total + torch.stack(errors).sum()]) + values.abs() * self._scale_error
        return values * self.scale, error * self.scale

    @cached_property
    def gradients(self) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The gradients on distance logits (B, A, 4, R) and class logits (B, A, C), times N / B; and their errors."""
        share, known = self.scale / self.batch.images, self._expected_loss
        shown = flatten(self.loss.gradients, self.batch.head)
        values, errors = [], []
        rounding_units = (
            on_all_anchors(each, self.targets.foreground)
            for each in (known.rounding.of_total, known.rounding.jumps_of_total)
        )
        computed = known.exact.of_total, known.same_dtype.of_total, *rounding_units
        for name, observed, right, ours, unit, jump in zip(
            self.batch.family.quantities, shown, *computed, strict=True
        ):
            error = (
                gradient_bound(self.batch, name, right, ours, unit) + jump + right.abs() * self._scale_error
            )
            values.append(observed.double() * share)
            errors.append(error.view_as(observed) * share)
        return tuple(values), tuple(errors)

    def moved_loss(self, weights: Tensor) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Return how far terms (4,) and gradients, scaled, move if every weight (B, A) moves by up to so much.

        Before N all of them are linear in the weights, so what moves is the loss of the movements.
        """
        numbers, images, logits = (
            self.batch.hyperparameters,
            self.batch.images,
            self.expected.predictions.logits,
        )
        label = self.targets.scores.argmax(2, keepdim=True)  # (B, A, 1)
        scores = torch.zeros_like(logits).scatter(2, label, weights[..., None].double())
        moved = BatchTargets(self.targets.foreground, self.targets.boxes, scores)
        loss = self.expected.loss(moved).exact
        scale = scores.sum().clamp(min=1)
        cls = numbers.cls_gain * (logits * scores).abs().sum()
        box, dfl = loss.items[0].abs() * scale, loss.items[2].abs() * scale
        distances = loss.of_total[0].abs() * scale / images  # (B, A, 4R)
        gradients = distances.unflatten(2, (4, self.batch.head.reg_max)), numbers.cls_gain * scores
        return torch.stack((box, cls, dfl, box + cls + dfl)), gradients

    @cached_property
    def _background_logit(self) -> tuple[Tensor, Tensor]:
        """N as one class logit's gradient shows it, and its error as a share of it."""
        _, logits = flatten(self.batch.feature_maps, self.batch.head)
        gradient = flatten(self.loss.gradients, self.batch.head)[1].double()  # (B, A, C)
        score = logits.double().sigmoid()
        whole = self.batch.hyperparameters.cls_gain * self.batch.images
        rounds = gradient.abs() < torch.finfo(self.dtype).tiny / self.eps  # coarser than others do
        at = (gradient / score).nan_to_num(nan=0.0, posinf=0.0).where(~rounds, 0).flatten().argmax()
        steepest = gradient.flatten()[at].clamp(min=torch.finfo(self.dtype).tiny)
        error = ROUNDINGS * 3 * self.eps  # sigmoid, quotient and product
        return whole * score.flatten()[at] / steepest, torch.full_like(steepest, error)

    @property
    def shows_scores(self) -> bool:
        """Return True if the target scores are exposed, so that N need not be read from the gradients."""
        return self.outcome.assignment is not None

    @property
    def scale_error(self) -> Tensor:
        """By how much N may differ, as a number."""
        return self.scale * self._scale_error

    @property
    def _scale_error(self) -> Tensor | float:
        return 0.0 if self.outcome.assignment is not None else self._background_logit[1]

    @cached_property
    def _expected_loss(self) -> LossExpectation:
        return self.expected.loss(self.targets)
