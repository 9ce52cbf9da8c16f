"""Judging a loss that hides its assignment, by conditions that hold for every admissible assignment.

Logits that no admissible assignment gives a target have the gradient sigma(x) / N, which determines N. The gradient
(sigma(x) - z) / N on any other logit then determines its target score z (LOSS-CLS-1), and the gradient on an anchor's
distance logits determines which ground truth owns it. So weights and owners are read off the gradients, however many
assignments are admissible, and are judged in two ways: each weight must lie within the range that all admissible
assignments allow, and the items and all gradients must be those of a loss with these weights and owners.

B images, A anchors, C classes, M ground truths of an image, R bins, P pairs of ground truth and anchor.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.core.outcome import CheckedAssignment, LossOutcome
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement
from tal_conformance.judgement.comparators import Quantity, all_finite, assert_none
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.hidden.fit import AssignmentFit
from tal_conformance.judgement.loss.loss import judge_loss
from tal_conformance.judgement.oracle.admissible import Ownership
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, smallest
from tal_conformance.judgement.rounding.exact_loss import (
    class_factors_of,
    fields_of,
    logit_gradient_roundings,
)
from tal_conformance.judgement.rounding.loss_rounding import add_gradients, gradient_bound
from tal_conformance.judgement.rounding.uncertainty import AssignmentUncertainty
from tal_reference import Targets
from tal_reference.assignment import NORMALISATION_EPS

MAX_OWNERS_TRIED = 16
"""Number of ground truths that are tried as the owner of one anchor; few have equal classes and boxes that overlap."""


@dataclass(frozen=True)
class WeightRange:
    """Range of each target score z of an image over all admissible assignments (TAL-NORM-1).

    Attributes:
        low: (A, C) smallest z: zero unless a ground truth of the class owns the anchor in every assignment.
        high: (A, C) largest z: zero if no ground truth of the class can own the anchor.
        least: smallest sum of all z of the image.
    """

    low: Tensor
    high: Tensor
    least: Tensor

    @classmethod
    def of(cls, fit: AssignmentFit) -> "WeightRange":
        """Return the ranges of an image's target scores.

        A weight is w = t u* / (t* + eps), with u* and t* the largest u and t of the positives of its ground truth. So w
        is at most u* t / (t + eps), and the positive whose t is t* has the weight u* t* / (t* + eps).
        """
        oracle, possible = fit.oracle, fit.possible  # (M, A)
        dtype = fit.expected.assigner_dtype
        rounding = ROUNDINGS * 4 * torch.finfo(dtype).eps  # as for an exposed weight
        lost = smallest(dtype) / NORMALISATION_EPS
        t, u = oracle.metric_range, oracle.overlap_range
        certain = oracle.selection.must & possible & (possible.sum(0) == 1)  # (M, A)
        if oracle.topk2_rule is not None:  # any positive may be dropped
            certain = torch.zeros_like(certain)
        most_t, most_u = ((value.high * possible).amax(1, keepdim=True) for value in (t, u))  # (M, 1)
        sure_t, sure_u = ((value.low * certain).amax(1, keepdim=True) for value in (t, u))  # (M, 1)
        best = torch.maximum(t.high, sure_t) + NORMALISATION_EPS  # (M, A)
        high = (most_u * t.high / best * (1 + rounding) + lost) * possible  # (M, A)
        low = (t.low * sure_u / (most_t + NORMALISATION_EPS) * (1 - rounding) - lost).clamp(min=0) * certain
        classes = fit.expected.batch.head.classes
        return cls(
            _by_class(low, fit.truths.labels, classes),
            _by_class(high, fit.truths.labels, classes),
            (_least_sum(fit) * (1 - rounding) - lost).clamp(min=0),
        )


def _by_class(of_pairs: Tensor, labels: Tensor, classes: int) -> Tensor:
    """Return (A, C) the largest of `of_pairs` (M, A) at each anchor over the ground truths of each class."""
    result = of_pairs.new_zeros(classes, of_pairs.shape[1])  # (C, A)
    index = labels[:, None].expand_as(of_pairs)
    return result.scatter_reduce(0, index, of_pairs, "amax").T


def _least_sum(fit: AssignmentFit) -> Tensor:
    """Return a lower limit for the sum of all weights of an image, valid for every admissible assignment.

    A ground truth that owns an anchor has a positive with the largest t, whose weight is at least u t / (t + eps) of
    the anchor. A ground truth selects at least `min_count` anchors of `may`, and every selected anchor has an owner.
    With TAL-CONF-2 an anchor may lose its owner, so that the limit is zero.
    """
    oracle, possible = fit.oracle, fit.possible
    t, u = oracle.metric_range.low, oracle.overlap_range.low  # (M, A) twice
    zero = t.new_zeros(())
    if oracle.topk2_rule is not None:
        return zero
    selection = oracle.selection
    owned = (u * t / (t + NORMALISATION_EPS)).where(possible, torch.inf).amin(0)  # (A,) by any possible owner
    certain = owned.where(selection.must, 0).amax(1)  # (M,)
    ordered = owned.where(selection.may, torch.inf).sort(1).values  # (M, A)
    last = (selection.min_count - 1).clamp(min=0)[:, None]  # (M, 1)
    of_fewest = ordered.take_along_dim(last, 1)[:, 0].where(selection.min_count > 0, 0)  # (M,)
    return torch.cat((certain, of_fewest.nan_to_num(posinf=0.0), zero[None])).amax()


@dataclass(frozen=True)
class PossibleOwners:
    """Ground truths that may own each anchor of an image according to the loss's gradients.

    Attributes:
        foreground: (A,) bool: the anchor has a gradient on its distance logits, or a target score.
        order: (M, A) indices of ground truths for each anchor, the likeliest owner first.
        count: (A,) number of ground truths of `order` that may own the anchor.
    """

    foreground: Tensor
    order: Tensor
    count: Tensor

    def at(self, place: Tensor) -> Ownership:
        """Return the assignment that gives each anchor its `place`-th possible owner; `place` is (A,)."""
        return Ownership(self.foreground, self.order.take_along_dim(place[None], 0)[0])


@dataclass(frozen=True)
class ReadAssignment:
    """Weights and owners that were computed from the gradients of a loss.

    Attributes:
        scores, errors: (B, A, C) float64, target scores z and their largest errors; z may be negative.
        learnable: (B, A, C) bool: an admissible assignment may give the logit a target score.
        owners: possible owners of each image with ground truths, by the image's index.
        place: (B, A) position of the anchor's owner in `PossibleOwners.order`; `settled` changes this position.
    """

    scores: Tensor
    errors: Tensor
    learnable: Tensor
    owners: dict[int, PossibleOwners]
    place: Tensor

    @classmethod
    def of(
        cls, loss: LossOutcome, expected: Expectation, fits: dict[int, AssignmentFit]
    ) -> "ReadAssignment | None":
        """Return weights and the likeliest owners; None if the gradients do not determine them.

        Args:
            loss: loss and gradients of the implementation.
            expected: expectation of the batch.
            fits: scores of admissible assignments for every image with ground truths, by the image's index.
        """
        batch = expected.batch
        if expected.dialect.is_varied:  # another class loss, another N or another weight
            return None
        distances, logits, *_ = fields_of(loss.gradients, batch)  # (B, A, 4R), (B, A, C)
        gain = (
            batch.hyperparameters.cls_gain * batch.images * class_factors_of(batch, logits)
        )  # (C,), or a scalar
        if not bool((gain > 0).all()) or not all_finite(logits) or not all_finite(distances):
            return None
        score = expected.predictions.logits.sigmoid()  # (B, A, C)
        learnable = torch.zeros_like(score, dtype=torch.bool)
        for image, fit in fits.items():
            truth, anchor = fit.possible.nonzero(as_tuple=True)
            learnable[image, anchor, fit.truths.labels[truth]] = True
        gradient = logits.double() / gain  # (B, A, C) (sigma - z) / N
        known = _score_sum(gradient, score, ~learnable, gain, expected)
        if known is None:
            return None
        score_sum, share = known
        scores = score - gradient * score_sum
        unit = 2 * ROUNDINGS * logit_gradient_roundings(batch) * expected.eps + share
        errors = unit * (score + scores.abs()) + smallest(expected.dtype) * score_sum / gain
        before = distances.double() * score_sum / batch.images  # (B, A, 4R) before division by N
        owners = {
            image: _possible_owners(fit, scores[image], errors[image], before[image])
            for image, fit in fits.items()
        }
        return cls(scores, errors, learnable, owners, torch.zeros(scores.shape[:2], dtype=torch.int64))

    def judge_weights(self, judgement: Judgement, image: int, admits: WeightRange) -> None:
        """Judge that each weight of an image lies within the range `admits` of all admissible assignments."""
        scores, errors = self.scores[image], self.errors[image]  # (A, C) twice
        quantity = Quantity("target score z", "TAL-NORM-1", ("anchor", "class"), image)
        shown = "the gradient on a class logit shows a target score that is"
        for wrong, wanted, problem in (
            (scores > admits.high + errors, "less", f"{shown} more than any admissible assignment gives"),
            (scores < admits.low - errors, "more", f"{shown} less than every admissible assignment gives"),
        ):
            judgement.note(StageName.GRADIENTS, assert_none, quantity, wrong, scores, wanted, problem)
        most = (scores + errors).clamp(min=0).where(self.learnable[image], 0).sum()
        whole = Quantity("sum of target scores", "TAL-NORM-1", (), image)
        problem = "the gradients on class logits show a smaller sum of target scores than any admissible assignment has"
        least = f"at least {float(admits.least):.6g}"
        judgement.note(StageName.GRADIENTS, assert_none, whole, most < admits.least, most, least, problem)

    def settled(
        self, loss: LossOutcome, expected: Expectation, fits: dict[int, AssignmentFit]
    ) -> Judgement | None:
        """Judge loss items and gradients with the owners that explain most gradients.

        Where an anchor's gradient does not agree with its owner, the anchor's next possible owner is tried; all such
        anchors change at once.

        Returns:
            The judgement; None if the errors of the weights are larger than N, or if an anchor has more possible owners
            than are tried and none of the tried owners explains its gradient.
        """
        for _ in range(MAX_OWNERS_TRIED):
            assignment, moved, edges = self._replayed(expected, fits)
            score_sum = assignment.scores.sum().clamp(min=expected.dialect.score_sum_floor)
            share = float(moved.sum() / score_sum)  # largest relative change of N
            if not share < 1:
                return None
            # effects are derived for a small change of N: they are larger by 1 / (1 - share) for a smaller N
            unsure = AssignmentUncertainty(moved / (1 - share), edges)
            judgement = Judgement(expected.batch.family)
            judge_loss(judgement, assignment, loss, expected, unsure)
            if not judgement.verdict.fails:
                return judgement
            wrong = self._unexplained(assignment, unsure, loss, expected)
            if not wrong.any():
                return judgement
            self.place[wrong] += 1
        return None

    def _unexplained(
        self,
        assignment: CheckedAssignment,
        unsure: AssignmentUncertainty,
        loss: LossOutcome,
        expected: Expectation,
    ) -> Tensor:
        """Return (B, A) bool: the anchor's gradient disagrees with its owner, and another owner is possible."""
        known = expected.loss(expected.targets_of(assignment))
        at = known.positives
        exact, same_dtype = known.exact.of_total[0][at], known.same_dtype.of_total[0][at]  # (P, 4R) twice
        rounding, enclosed = known.rounding.of_total[0], known.rounding.enclosed is not None
        allowed = gradient_bound(expected.batch, "distance logits", exact, same_dtype, rounding, enclosed)
        for extra in (known.rounding.jumps_of_total[0], known.uncertainty(unsure).of_total[0]):
            allowed = add_gradients(allowed, extra)
        observed = fields_of(loss.gradients, expected.batch)[0][at].double()  # (P, 4R)
        wrong = torch.zeros_like(assignment.foreground)
        wrong[at] = ((observed - exact).abs() > allowed).any(1)
        for image, owners in self.owners.items():
            wrong[image] &= self.place[image] + 1 < owners.count
        return wrong

    def _replayed(
        self, expected: Expectation, fits: dict[int, AssignmentFit]
    ) -> tuple[CheckedAssignment, Tensor, Tensor]:
        """Return the assignment computed from the gradients, and the errors (B, A) of its weights and box edges."""
        foreground = torch.zeros_like(self.place, dtype=torch.bool)  # (B, A)
        index, labels = torch.zeros_like(self.place), torch.zeros_like(self.place)
        boxes = torch.zeros_like(torch.stack([image.boxes for image in expected.assignment]))  # (B, A, 4)
        edges = torch.zeros_like(self.scores[..., 0])  # (B, A)
        for image, possible in self.owners.items():
            owners = possible.at(self.place[image])
            at, truth = owners.foreground, owners.index[owners.foreground]  # (A,), (P,)
            foreground[image], index[image] = at, owners.index
            labels[image, at] = fits[image].truths.labels[truth]
            boxes[image, at] = fits[image].truths.boxes[truth].to(boxes)
            edges[image, at] = expected.input_errors[image].truths.amax(1)[truth].to(edges)
        own, shown = labels[..., None], foreground[..., None]  # (B, A, 1) twice
        middle, error = (values.gather(2, own) for values in (self.scores, self.errors))  # (B, A, 1) twice
        # weights are not negative; the middle of the rest of the interval also scales the rounding of gradients
        low, high = (middle - error).clamp(min=0), (middle + error).clamp(min=torch.finfo(error.dtype).tiny)
        weights, moved = (high + low) / 2 * shown, (high - low) / 2 * shown
        scores = torch.zeros_like(self.scores).scatter(2, own, weights)
        assignment = CheckedAssignment(labels, boxes, scores, foreground, index)
        return assignment, moved[..., 0], edges

    def targets(self, fits: Iterable[AssignmentFit], chosen: list[Targets]) -> list[Targets]:
        """Return the targets of each image, with the owners computed from the gradients if these are admissible.

        Otherwise the image keeps its targets in `chosen`.

        Raises:
            Undecided: the time limit was reached for an image.
        """
        result = list(chosen)
        for fit in fits:
            owners = self.owners[fit.image].at(self.place[fit.image])
            if fit.explains(owners):
                result[fit.image] = fit.targets(owners)
        return result


def _score_sum(
    gradient: Tensor, score: Tensor, background: Tensor, gain: Tensor, expected: Expectation
) -> tuple[Tensor, float] | None:
    """Return the loss's divisor N and its relative error, from gradients on logits without a target.

    The result is None if no such logit exists. Only logits whose score is at least half the largest score are used: the
    gradients on other logits may have underflowed.

    Args:
        gradient: (B, A, C) gradients on the class logits over `gain`.
        score: (B, A, C) class scores.
        background: (B, A, C) logits that have no target in any admissible assignment.
        gain: (C,) gain of the class loss, times the batch size and the factor of each class; or a scalar.
        expected: expectation of the batch.
    """
    alone = score * background
    used = background & (score >= alone.amax() / 2)
    above, below = score[used].sum(), gradient[used].sum()
    lost = (smallest(expected.dtype) / gain).expand_as(score)[used].sum()
    floor = expected.dialect.score_sum_floor
    anchors = (~background).any(-1).sum()  # each has a weight of at most 1
    if not float(above) > 0:
        return None
    score_sum = torch.where(below > 0, above / below, torch.inf)
    share = 2 * ROUNDINGS * logit_gradient_roundings(expected.batch) * expected.eps + float(
        lost / above * score_sum.clamp(max=float(anchors) + floor)
    )
    if not share < 1:
        return None
    score_sum = score_sum.clamp(min=floor).clamp(max=max(floor, float(anchors) * (1 + share)))
    return (score_sum, share) if float(score_sum) > 0 else None


def _possible_owners(fit: AssignmentFit, scores: Tensor, errors: Tensor, before: Tensor) -> PossibleOwners:
    """Return the ground truths that may own each anchor: the reference's owner first, then others, best fit first.

    If the class gradients of an anchor show a target score, its owner has that class.

    Args:
        fit: scores of the image's admissible assignments.
        scores: (A, C) target scores z.
        errors: (A, C) largest errors of z.
        before: (A, 4R) gradients on the distance logits before division by N.
    """
    labels, possible = fit.truths.labels, fit.possible  # (M,), (M, A)
    weights, noise = scores.T[labels], errors.T[labels]  # (M, A) twice
    weighs = possible & (weights > noise)  # (M, A)
    pulls, row = fit.pulls  # (P, 4R), (M, A)
    misfit = before.abs().sum(1).expand_as(weights).clone()  # (M, A) for a pair that contributes nothing
    pair = (row >= 0).nonzero(as_tuple=True)  # (P,), (P,)
    misfit[pair] = (pulls[row[pair]] * weights[pair][:, None] - before[pair[1]]).abs().sum(1)
    reference = fit.expected.assignment[fit.image]
    misfit[Ownership(reference.foreground, reference.truth_index).positives(len(labels))] = -1
    eligible = torch.where(weighs.any(0), weighs, possible)  # (M, A)
    order = misfit.where(eligible, torch.inf).sort(dim=0, stable=True).indices  # (M, A)
    foreground = (fit.learns | weighs.any(0)) & possible.any(0)  # (A,)
    return PossibleOwners(foreground, order, eligible.sum(0))
