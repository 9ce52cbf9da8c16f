"""Narrower bounds, from the class gradients, for the weights of a loss that hides its assignment.

Where the boxes that a hidden assigner read are known to 16 bits only, or where t is close to the 1e-9 of TAL-NORM-1,
the specification admits wide intervals of weights: t multiplies the error of u. The gradient (sigma(x) - z) / N on a
class logit has an error of few roundings, and determines the z / N that the loss used (LOSS-CLS-1). The class gradients
are judged with the wide intervals; the other terms and gradients are judged with weights that also agree with the class
gradients.

B images, A anchors, C classes.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from tal_conformance.core.outcome import LossOutcome
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, smallest
from tal_conformance.judgement.rounding.exact_loss import (
    class_factors_of,
    fields_of,
    logit_gradient_roundings,
)
from tal_conformance.judgement.rounding.mixed_precision import Interval, is_coarse, logit_gradient_error


class KnownWeights(NamedTuple):
    """Intervals of the weights of an assignment and of the sum N that the loss is divided by.

    Attributes:
        weights: (B, A) intervals of the positives' weights w.
        score_sum: () interval of the loss's divisor N (LOSS-SUM-1).
    """

    weights: Interval
    score_sum: Interval


def score_sum_of(weights: Interval, floor: float) -> Interval:
    """Return the interval of N, the sum of all weights, from intervals of the weights (LOSS-SUM-1)."""
    return Interval(weights.low.sum().clamp(min=floor), weights.high.sum().clamp(min=floor))


def narrowed_by_gradients(
    admissible: Interval, labels: Tensor, foreground: Tensor, loss: LossOutcome, expected: Expectation
) -> KnownWeights:
    """Return the intervals of admissible weights, narrowed to weights that agree with the class gradients.

    Where no admissible weight agrees with a gradient, the interval stays unchanged: the gradient is judged as wrong.

    Args:
        admissible: (B, A) weights that the specification admits for the assumed assignment; zero on background.
        labels: (B, A) class of each positive.
        foreground: (B, A) positives.
        loss: loss and gradients of the implementation.
        expected: expectation of the batch.
    """
    batch = expected.batch
    score_sum = score_sum_of(admissible, expected.dialect.score_sum_floor)
    gain = (
        batch.hyperparameters.cls_gain * batch.images * class_factors_of(batch, admissible.low)
    )  # (C,), or a scalar
    if not (bool((gain > 0).all()) and bool(score_sum.low > 0)):
        return KnownWeights(admissible, score_sum)
    gradient = fields_of(loss.gradients, batch)[1].double() / gain  # (B, A, C) (s - z) / N
    score = expected.predictions.logits.sigmoid()  # (B, A, C)
    own = (
        torch.zeros_like(gradient, dtype=torch.bool).scatter(2, labels[..., None], True)
        & foreground[..., None]
    )
    score_sum = _intersection(
        score_sum, _of_background(gradient[~own], score[~own], gain.expand_as(score)[~own], expected)
    )

    image, anchor = foreground.nonzero(as_tuple=True)  # (P,), (P,)
    at = image, anchor, labels[image, anchor]
    ends = torch.stack([score[at] - gradient[at] * end for end in (score_sum.low, score_sum.high)])  # (2, P)
    most = admissible.high[image, anchor]  # (P,)
    of_label = gain.expand_as(score)[at]  # (P,)
    error = _gradient_error(score[at], most, of_label / score_sum.high, expected) / of_label * score_sum.high
    found = Interval(ends.amin(0) - error, ends.amax(0) + error)  # (P,)
    known = _intersection(Interval(admissible.low[image, anchor], most), found)
    low, high = admissible.low.clone(), admissible.high.clone()
    low[image, anchor], high[image, anchor] = known.low, known.high
    weights = Interval(low, high)
    return KnownWeights(
        weights, _intersection(score_sum_of(weights, expected.dialect.score_sum_floor), score_sum)
    )


def _gradient_error(score: Tensor, target: Tensor, scale: Tensor | float, expected: Expectation) -> Tensor:
    """Return the largest rounding error of the gradient (s - z) * scale on class logits (LOSS-CLS-1)."""
    if expected.batch.autocast and is_coarse(expected.dtype):
        return logit_gradient_error(score, target, scale, expected.dtype)
    steps = ROUNDINGS * logit_gradient_roundings(expected.batch)
    return steps * expected.eps * (score + target) * scale + smallest(expected.dtype)


def _of_background(gradient: Tensor, score: Tensor, gain: Tensor, expected: Expectation) -> Interval:
    """Return the interval of the loss's divisor N, from the class gradients on logits without a target.

    The gradient on such a logit, divided by `gain`, is s / N. Every number N of the interval agrees with the gradients
    of all K logits, within rounding.

    Args:
        gradient: (K,) gradients on the logits without a target, divided by `gain`.
        score: (K,) class scores s of these logits.
        gain: (K,) gain of the class loss times the number of images and the factors of the logits' classes.
        expected: expectation of the batch.
    """
    nothing = score.new_zeros(1)
    least = _gradient_error(nothing, nothing, 1.0, expected)
    share = _gradient_error(nothing + 1, nothing, 1.0, expected) - least  # relative error of s
    least = least / gain
    low = score * (1 - share) / (gradient + least)
    high = score * (1 + share) / (gradient - least)
    low = low.where(gradient + least > 0, 0)
    high = high.where(gradient - least > 0, torch.inf)
    zero, infinite = score.new_zeros(1), score.new_full((1,), torch.inf)
    return Interval(torch.cat((low, zero)).amax(), torch.cat((high, infinite)).amin())


def _intersection(first: Interval, second: Interval) -> Interval:
    """Return the elementwise intersection of two intervals; elements of `first` if the two do not overlap."""
    low, high = torch.maximum(first.low, second.low), torch.minimum(first.high, second.high)
    both = low <= high
    return Interval(torch.where(both, low, first.low), torch.where(both, high, first.high))
