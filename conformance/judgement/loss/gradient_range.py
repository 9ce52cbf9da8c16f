"""Bounds of gradients that are too wide to judge a batch by.

B images, A anchors, P positives of the whole batch, L levels, R bins, width: channels of a head field.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.judgement.comparators import MAX_TOLERANCE_SHARE
from tal_conformance.judgement.expectation import LossExpectation
from tal_conformance.judgement.rounding.bounds import precision, smallest
from tal_conformance.judgement.rounding.exact_loss import FIELD_ATTRIBUTES, ReferenceLoss, compute_loss


def untrained_loss(known: LossExpectation) -> ReferenceLoss:
    """Return the loss and the gradients that a head whose outputs are all 0 has for the targets of `known`.

    Its bins are equally probable, its class scores are 0.5 and its angles 0.
    """
    expected, predictions = known.expected, known.expected.predictions
    names = [FIELD_ATTRIBUTES[field.name] for field in expected.batch.family.fields]
    zeros: dict[str, Any] = {name: torch.zeros_like(getattr(predictions, name)) for name in names}
    blank = replace(predictions, **zeros)
    return compute_loss(
        expected.batch, known.targets, torch.float64, expected.dialect, blank, known.each_term
    )


def exceeds_range(
    batch: Batch, wanted: Tensor, untrained: Tensor, allowed: Tensor, anchor: Tensor | None = None
) -> bool:
    """Return True if the bound of a gradient is so wide on some level that nearly every gradient would agree.

    On each level the norm of the tolerances is compared with the larger one of two norms: of the expected gradient, and
    of the gradient of an untrained head. Single numbers are not compared: many are differences of larger numbers, and
    have the error of these. The range does not end below the numbers that the dtype cannot hold: their errors, in a
    distance, are multiplied by up to R bins.

    Args:
        batch: the batch.
        wanted: expected gradients, (B, A, width) or (P, width).
        untrained: gradients of an untrained head, same shape, or larger ones that the implementation may return.
        allowed: tolerances, same shape.
        anchor: (P,) index of the anchor of each row; None for rows of all anchors (B, A, width).
    """
    counts = wanted.new_tensor([rows * columns for rows, columns in batch.grids], dtype=torch.long)  # (L,)
    if anchor is None:
        anchor = torch.arange(batch.anchors, device=wanted.device).expand(len(wanted), -1)  # (B, A)
    level = torch.bucketize(anchor.flatten(), counts.cumsum(0), right=True)  # (B A,) or (P,)

    def norm(values: Tensor) -> Tensor:
        rows = values.double().square().sum(-1).flatten()  # (B A,) or (P,)
        return rows.new_zeros(len(counts)).index_add(0, level, rows).sqrt()  # (L,)

    least = 4 * batch.head.reg_max * smallest(precision(batch.dtype))
    length = torch.maximum(norm(wanted), norm(untrained)).maximum(norm(torch.full_like(wanted, least)))
    return bool((norm(allowed) > MAX_TOLERANCE_SHARE * length).any())
