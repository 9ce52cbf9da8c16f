"""Rounding of the class loss and its gradients (LOSS-CLS-1), also with weights that depend on the class scores.

A weight is factor * b^exponent, where b is computed from class scores and target scores of at most 1. Its error is
absolute: a score of almost 1 is rounded to a multiple of eps, and so is its difference from 1 or from a target.

B images, A anchors, C classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tal_reference import ClassLoss
from tal_reference.loss import Positives
from tal_reference.varied_classes import (
    class_weights,
    dense_targets,
    weight_parts,
    weighted_cross_entropies,
)

ROUNDED = 4
"""Number of roundings of b: of the score, of the product of score and target, and of two sums."""


@dataclass(frozen=True)
class WeightedClasses:
    """Errors of the weighted cross-entropies of all class logits.

    Attributes:
        logits: (B, A, C) class logits, float64.
        positives: the positives of the batch.
        kind: the class loss.
        eps: machine epsilon of the loss terms' dtype.
    """

    logits: Tensor
    positives: Positives
    kind: ClassLoss
    eps: float

    def parts(self) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return target scores, weights, first and second derivative of the weights in b, and sizes of the losses.

        The size of a loss is the sum of its two terms' magnitudes, which cancel where the logit is large. All are
        (B, A, C).
        """
        targets, learnt = dense_targets(self.logits, self.positives)
        targets = targets.double()
        base, factor, exponent = weight_parts(self.logits.sigmoid(), targets, self.kind)
        widened = base + ROUNDED * self.eps
        first = factor * exponent * widened ** (exponent - 1)
        second = factor * exponent * (exponent - 1) * widened ** (exponent - 2)
        if self.kind is ClassLoss.VARIFOCAL:  # the weight of a positive is its target score, and exact
            first, second = (part.masked_fill(learnt, 0) for part in (first, second))
        weights = class_weights(self.logits, targets, learnt, self.kind)
        return (
            targets,
            weights,
            first,
            second,
            functional.softplus(self.logits.abs()) + targets * self.logits.abs(),
        )

    def unit(self, factors: Tensor) -> Tensor:
        """Return the error of the class loss before division by N; `factors` are (C,) of the classes, or a scalar."""
        _, weights, first, _, size = self.parts()
        return ((ROUNDED * (weights + first) * self.eps * size) * factors).sum()

    def gradient_unit(self) -> Tensor:
        """Return the error (B, A, C) of the gradient on a class logit, as a multiple of one rounding.

        The gradient is the slope of the weight times the cross-entropy, plus the weight times the difference of score
        and target. The slope s (1 - s) of a score has an absolute error of eps.
        """
        targets, weights, first, second, size = self.parts()
        score = self.logits.sigmoid()
        slope = score * (1 - score)
        plain = first * slope * size + weights * (score + targets)
        return plain + ROUNDED * (second * slope * size + first * (score + targets) + first * size)

    def sensitivity(self) -> tuple[Tensor, Tensor]:
        """Return the absolute slopes of loss and gradient in the target score of each logit, (B, A, C) each."""
        targets, learnt = dense_targets(self.logits, self.positives)
        logits = self.logits.detach().requires_grad_()
        moving = targets.double().detach().requires_grad_()
        with torch.enable_grad():
            losses = weighted_cross_entropies(logits, moving, learnt, self.kind)
            (slope,) = torch.autograd.grad(losses.sum(), moving, create_graph=True)
            (mixed,) = torch.autograd.grad(slope.sum(), logits)
        return slope.detach().abs(), mixed.abs()
