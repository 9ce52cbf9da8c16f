"""Weights of the cross-entropies in class losses that no release has: varifocal, focal and quality focal loss.

B images, A anchors, C classes. Gradients flow through the weights, as in the projects that use these losses.
"""

import torch
from torch import Tensor
from torch.nn import functional

from tal_reference.loss import NEGLIGIBLE, Positives
from tal_reference.shapes import Bool, Float
from tal_reference.variations import ClassLoss

VARIFOCAL_ALPHA, VARIFOCAL_GAMMA = 0.75, 2.0
FOCAL_ALPHA, FOCAL_GAMMA = 0.25, 1.5
QUALITY_BETA = 2.0
WEIGHTED = ClassLoss.VARIFOCAL, ClassLoss.FOCAL, ClassLoss.QUALITY
"""Class losses whose cross-entropies have weights that depend on the class scores."""


def weighted_cross_entropies(
    logits: Float[Tensor, "B A C"],
    targets: Float[Tensor, "B A C"],
    learnt: Bool[Tensor, "B A C"],
    kind: ClassLoss,
) -> Float[Tensor, "B A C"]:
    """Return the weighted cross-entropy of each class logit (LOSS-CLS-1).

    Args:
        logits: (B, A, C) class logits.
        targets: (B, A, C) target scores.
        learnt: (B, A, C) bool: True at the labels of the positives.
        kind: one of `WEIGHTED`.
    """
    return cross_entropies(logits, targets) * class_weights(logits, targets, learnt, kind)


def cross_entropies(logits: Float[Tensor, "B A C"], targets: Float[Tensor, "B A C"]) -> Float[Tensor, "B A C"]:
    """Return the binary cross-entropy of each class logit."""
    return functional.softplus(logits, threshold=NEGLIGIBLE) - targets * logits


def class_weights(
    logits: Float[Tensor, "B A C"],
    targets: Float[Tensor, "B A C"],
    learnt: Bool[Tensor, "B A C"],
    kind: ClassLoss,
) -> Float[Tensor, "B A C"]:
    """Return the weight of each cross-entropy; arguments of `weighted_cross_entropies`."""
    base, factor, exponent = weight_parts(logits.sigmoid(), targets, kind)
    weights = factor * base**exponent
    return torch.where(learnt, targets, weights) if kind is ClassLoss.VARIFOCAL else weights


def weight_parts(
    scores: Float[Tensor, "B A C"], targets: Float[Tensor, "B A C"], kind: ClassLoss
) -> tuple[Float[Tensor, "B A C"], Float[Tensor, "B A C"] | float, float]:
    """Return the base, the factor and the exponent of the weights, of class scores and target scores."""
    match kind:
        case ClassLoss.VARIFOCAL:
            return scores, VARIFOCAL_ALPHA, VARIFOCAL_GAMMA
        case ClassLoss.FOCAL:
            missed = targets + scores - 2 * targets * scores  # 1 - p
            return missed, 1 - FOCAL_ALPHA - (1 - 2 * FOCAL_ALPHA) * targets, FOCAL_GAMMA
        case ClassLoss.QUALITY:
            return (targets - scores).abs(), 1.0, QUALITY_BETA
    raise ValueError(f"{kind} has no weights, expected one of {', '.join(each.value for each in WEIGHTED)}")


def dense_targets(
    logits: Float[Tensor, "B A C"], positives: Positives
) -> tuple[Float[Tensor, "B A C"], Bool[Tensor, "B A C"]]:
    """Return target scores and a bool that is True at the labels of the positives, (B, A, C) each."""
    at = positives.image, positives.anchor, positives.labels
    targets = torch.zeros_like(logits, dtype=positives.weights.dtype).index_put(at, positives.weights)
    learnt = torch.zeros_like(logits, dtype=torch.bool).index_put(at, torch.ones_like(positives.labels) > 0)
    return targets, learnt
