"""Overlap of Segment26 heads, whose masks take part in the assignment (S26-1 to S26-3).

An assigner's inputs show no masks: bounds allow for pixels whose logit is zero within rounding (ambiguity T9), for
edges of predicted boxes on pixel indices (T8), and for equal metrics where masks are chosen for comparison (T5).

B images, M ground truths of an image, A anchors, n prototypes, P pairs of a ground truth and an anchor.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.reference_inputs import masks_of
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, metric_unit, precision
from tal_conformance.judgement.rounding.geometry import Pairs, UprightBoxes
from tal_reference import Dialect, Hyperparameters, Predictions
from tal_reference.assignment import alignment_metric
from tal_reference.masks import (
    METRIC_EPS,
    RANKED,
    TRUE_PIXEL,
    MaskPredictions,
    at_size,
    inside,
    mask_logits,
    size_of,
)

AT_ONCE = 2**22
"""Number of pixels of masks that are compared at once."""


@dataclass(frozen=True)
class MaskedBoxes(UprightBoxes):
    """Upright boxes with masks.

    Attributes:
        coefficients: (B, A, n) factors of the prototypes, float64.
        prototypes: (B, n, h, w), float64.
        masks: for each image (M, h, w) bool, the true masks in the prototypes' size.
        scale: pixels of the prototypes per pixel of the input.
    """

    coefficients: Tensor
    prototypes: Tensor
    masks: list[Tensor]
    scale: float

    @classmethod
    def of(cls, batch: Batch, predictions: Predictions) -> "MaskedBoxes":
        """Return the geometry of a batch with its predictions in float64."""
        assert isinstance(predictions, MaskPredictions)
        prototypes = predictions.prototypes.detach()
        size = size_of(prototypes)
        masks = [at_size(own, size) > TRUE_PIXEL for own in masks_of(batch)]
        return cls(predictions.coefficients.detach(), prototypes, masks, size[0] / batch.size[0])

    def pair_overlaps(
        self, pairs: Pairs, dtype: torch.dtype, dialect: Dialect, hyperparameters: Hyperparameters
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return the mean of CIoU and masks' IoU (S26-1); see `Geometry.pair_overlaps`."""
        naive, exact, error = super().pair_overlaps(pairs, dtype, dialect, hyperparameters)
        surely, possibly, chosen = self._compared(
            pairs, naive, exact, error, dtype, hyperparameters
        )  # (P,) each
        low, high, value = (torch.zeros_like(exact) for _ in range(3))  # (P,) each
        (at,) = possibly.nonzero(as_tuple=True)  # (p,)
        for part in at.split(max(1, AT_ONCE // self.prototypes[0, 0].numel())):
            low[part], high[part], value[part] = self._mask_overlaps(pairs, part, dtype)
        low, value = low * surely, value * chosen
        of_masks = torch.maximum(high - value, value - low)  # (P,)
        eps = torch.finfo(dtype).eps
        last = eps * (high + exact)  # the quotient, the sum and the half
        return (naive + value.to(naive)) / 2, (exact + value) / 2, (error + of_masks) / 2 + last

    def _compared(
        self,
        pairs: Pairs,
        naive: Tensor,
        exact: Tensor,
        error: Tensor,
        dtype: torch.dtype,
        hyperparameters: Hyperparameters,
    ) -> tuple[Tensor, ...]:
        """Return (P,) bool: True for pairs whose masks are surely, possibly, or by the reference compared (S26-2).

        These are the 3k candidates of a ground truth with the largest metric of boxes alone, which rounding may
        exchange. Anchors of which rounding decides whether they are candidates may take a place or leave it free.

        Args:
            pairs: the pairs of all images.
            naive: (P,) overlaps of the boxes, in the pairs' dtype.
            exact: (P,) these overlaps in float64.
            error: (P,) bound of these overlaps.
            dtype: dtype of the overlaps.
            hyperparameters: k, alpha and beta.
        """
        score, k = pairs.scores.double(), RANKED * hyperparameters.topk
        most = score + pairs.score_errors, exact + error
        least = (score - pairs.score_errors).clamp(min=0), (exact - error).clamp(min=0)
        alpha, beta = hyperparameters.alpha, hyperparameters.beta
        eps = torch.finfo(dtype).eps
        unit = ROUNDINGS * metric_unit(*most, alpha, beta, eps)
        high = alignment_metric(*most, hyperparameters) + unit + METRIC_EPS  # (P,)
        low = (alignment_metric(*least, hyperparameters) - unit).clamp(min=0) + METRIC_EPS  # (P,)
        high, low = high + 2 * eps * high, low - 2 * eps * low  # the sum with METRIC_EPS rounds
        own = alignment_metric(pairs.scores, naive, hyperparameters) + METRIC_EPS  # (P,)
        ranks = own * pairs.certain  # (P,) without pairs that may be none
        surely, possibly, chosen = (torch.ones_like(exact, dtype=torch.bool) for _ in range(3))
        group = pairs.image * (1 + int(pairs.truth.max())) + pairs.truth if len(pairs.truth) else pairs.truth
        for number, count in zip(*group.unique(return_counts=True), strict=True):
            if count <= k:
                continue
            (at,) = (group == number).nonzero(as_tuple=True)  # (c,)
            above = ((low[at][None] > high[at][:, None]) & pairs.certain[at]).sum(
                1
            )  # (c,) surely ranked before
            not_below = (high[at][None] >= low[at][:, None]).sum(1) - 1  # (c,) possibly ranked before
            possibly[at], surely[at] = above < k, not_below < k
            chosen[at] = torch.zeros_like(possibly[at]).scatter(0, ranks[at].topk(k).indices, True)
        return surely, possibly, chosen & possibly

    def _mask_overlaps(self, pairs: Pairs, at: Tensor, dtype: torch.dtype) -> tuple[Tensor, ...]:
        """Return (p,) each: the smallest, the largest and the reference's overlap of the masks of pairs (S26-3).

        Args:
            pairs: the pairs of all images.
            at: (p,) indices of the pairs to compare.
            dtype: dtype of the overlaps.
        """
        size, eps = size_of(self.prototypes), torch.finfo(precision(dtype)).eps
        found = []
        for image in pairs.image[at].unique().tolist():
            (own,) = (pairs.image[at] == image).nonzero(as_tuple=True)
            truth, anchor = pairs.truth[at[own]], pairs.anchor[at[own]]  # (q,) twice
            factors, prototypes = self.coefficients[image, anchor], self.prototypes[image]
            logits = mask_logits(factors, prototypes)  # (q, h, w)
            error = eps * (len(prototypes) + 1) * mask_logits(factors.abs(), prototypes.abs())  # (q, h, w)
            boxes = pairs.boxes[at[own]].double() * self.scale  # (q, 4)
            moved = pairs.moved[at[own]][:, None] if isinstance(pairs.moved, Tensor) else pairs.moved
            beside = 2 * eps * boxes.abs() + moved * self.scale  # (q, 4)
            beside = (
                beside.where(~self._sharp(pairs.boxes[at[own]], boxes), 0)
                if isinstance(moved, float)
                else beside
            )
            outward = beside * beside.new_tensor((-1, -1, 1, 1))  # (q, 4)
            surely = (logits > error) & inside(boxes - outward, size)
            possibly = (logits > -error) & inside(boxes + outward, size)
            shown = (logits > 0) & inside(boxes, size)
            possibly = possibly & ~((logits == 0) & (error == 0))
            masks = self.masks[image][truth]  # (q, h, w)
            found.append((own, _range(surely, possibly, masks), _overlap(shown, masks)))
        low, high, value = (torch.zeros(len(at), dtype=torch.float64, device=at.device) for _ in range(3))
        for own, (least, most), exact in found:
            low[own], high[own], value[own] = least, most, exact
        return low, high, value

    def _sharp(self, boxes: Tensor, scaled: Tensor) -> Tensor:
        """Return (q, 4) bool: True for edges whose product with the scale is exact in the dtype of the boxes."""
        return (boxes * self.scale).double() == scaled


def _range(surely: Tensor, possibly: Tensor, masks: Tensor) -> tuple[Tensor, Tensor]:
    """Return (q,) the smallest and the largest overlap of true masks with sets between `surely` and `possibly`."""
    area = masks.sum((1, 2)).double()  # (q,)
    inner = [(shown & masks).sum((1, 2)).double() for shown in (surely, possibly)]  # (q,) twice
    outer = [(shown & ~masks).sum((1, 2)).double() for shown in (surely, possibly)]  # (q,) twice
    return inner[0] / (area + outer[1]).clamp(min=1), inner[1] / (area + outer[0]).clamp(min=1)


def _overlap(shown: Tensor, masks: Tensor) -> Tensor:
    """Return (q,) the intersection over union of masks (q, h, w), in numbers of pixels."""
    return (shown & masks).sum((1, 2)).double() / (shown | masks).sum((1, 2)).clamp(min=1)
