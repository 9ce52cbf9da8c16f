"""Rounding of the loss of masks and of its gradients (SEG-*).

The bounds of the terms box, cls and dfl are those of detection. The term seg is a sum of many numbers: its bounds add
the worst case of every rounding, whatever the order of the sum. A pixel whose index lies within rounding of a box's
edge may be inside or outside (ambiguity T8).

B images, A anchors, P positives of the whole batch, p of one image, n prototypes, h_m and w_m size of the masks.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.core.batch import Batch
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, precision, smallest
from tal_conformance.judgement.rounding.detection import shared_rounding_units
from tal_conformance.judgement.rounding.enclosure import Enclosure
from tal_conformance.judgement.rounding.exact_loss import ZERO, ReferenceLoss, loss_precision
from tal_conformance.judgement.rounding.loss_rounding import LossRounding
from tal_reference import BatchTargets, Dialect
from tal_reference.composed import total_factor
from tal_reference.masks import MaskPredictions, mask_logits, resized_prototypes, size_of

STEPS = 4
"""Roundings of each element, and after a sum: sigmoid and difference, or quotient, gain and batch size."""
CURVATURE = 0.05
"""Half of the largest second derivative of the sigmoid, 1 / (6 sqrt 3), rounded up."""


def mask_rounding_units(
    batch: Batch,
    targets: BatchTargets,
    exact: ReferenceLoss,
    dialect: Dialect,
    edges: Tensor | float = 0.0,
) -> LossRounding:
    """Return the effect of rounding on a batch's loss for given targets.

    Args:
        batch: any batch of masks, without autocast.
        targets: labels, boxes, scores and masks that the batch's anchors learn.
        exact: the loss in float64.
        dialect: the dialect to follow.
        edges: (B, A) errors of the target boxes' edges in pixels; zero by default.
    """
    given, numbers = exact.predictions, batch.hyperparameters
    assert isinstance(given, MaskPredictions)
    detection = shared_rounding_units(batch, targets, exact, dialect, edges)
    eps, tiny = torch.finfo(loss_precision(batch)).eps, STEPS * smallest(precision(batch.dtype))
    positives = targets.positives
    moved = edges[positives.image, positives.anchor] if isinstance(edges, Tensor) else 0.0  # (P,) pixels
    errors = MaskErrors.of(given, targets, moved, eps)
    share = numbers.box_gain / max(len(positives.image), 1)  # gain / P
    seg, sem = exact.items[1].abs(), torch.zeros_like(exact.items[1])
    own = (errors.loss * share / ROUNDINGS + eps * seg).nan_to_num(
        nan=torch.inf
    )  # `bound` allows ROUNDINGS of it
    items = torch.stack((detection.items[0], own, *detection.items[1:], sem))  # (5,)

    factor = total_factor(batch.images, dialect) * share
    jump = tuple(error * factor for error in (errors.coefficients, errors.prototypes))
    # underflow only where there is a gradient
    last = tuple(tiny * (error != 0) + STEPS * eps * error for error in jump)
    box, cls, dfl = ((*of_term, ZERO, ZERO) for of_term in detection.of_terms)
    nothing = (ZERO,) * len(batch.family.fields)
    rounding = box, (ZERO, ZERO, *last), cls, dfl, nothing
    box, cls, dfl = ((*of_term, ZERO, ZERO) for of_term in detection.jumps)
    jumps = box, (ZERO, ZERO, *jump), cls, dfl, nothing
    assert detection.ranges is not None
    most = torch.maximum(errors.untrained * share, seg).clamp(min=tiny)
    ranges = torch.stack((detection.ranges[0], most, *detection.ranges[1:], sem + tiny))  # (5,)
    return LossRounding(items, rounding, jumps, None, ranges)


@dataclass(frozen=True)
class MaskErrors:
    """Errors of the mask loss and of its gradients, summed over the positives, before the division by P and the gain.

    Attributes:
        loss: () largest error of the sum of the positives' losses.
        untrained: () this sum for predicted masks of probability 0.5.
        coefficients: (P, n) largest errors of the gradient on the positives' coefficients.
        prototypes: (B, n, h_p, w_p) largest errors of the gradient on the prototypes.
    """

    loss: Tensor
    untrained: Tensor
    coefficients: Tensor
    prototypes: Tensor

    @classmethod
    def of(
        cls, given: MaskPredictions, targets: BatchTargets, moved: Tensor | float, eps: float
    ) -> "MaskErrors":
        """Return the errors for predictions in float64.

        Args:
            given: predictions in float64.
            targets: targets of the batch, with masks.
            moved: (P,) errors of the target boxes' edges in pixels; 0 if the boxes are the implementation's own.
            eps: machine epsilon of the implementation's dtype.
        """
        positives, masks = targets.positives, targets.masks
        assert masks is not None
        assert positives.owners is not None
        size = size_of(masks[0])
        prototypes, backward = resizing(given.prototypes, size)
        slack = (
            interpolation_slack(size_of(given.prototypes), eps) if size != size_of(given.prototypes) else 0.0
        )
        images = []
        for image, own in enumerate(positives.image == i for i in range(len(masks))):
            at = positives.anchor[own]  # (p,)
            true = masks[image][positives.owners[own]].double()  # (p, h_m, w_m)
            own_moved = moved[own] if isinstance(moved, Tensor) else moved
            boxes = box_edges(positives.boxes[own].double(), given.size, size, own_moved, eps)
            around = slack * given.prototypes[image].abs().amax((1, 2))  # (n,)
            images.append(
                ImageErrors.of(given.coefficients[image, at], prototypes[image], around, true, boxes, eps)
            )
        of_resized = torch.stack([image.prototypes for image in images])  # (B, n, h_m, w_m)
        largest = torch.stack([image.gradient for image in images])  # (B, n, h_m, w_m)
        turned = functional.avg_pool2d(
            backward(largest), 3, 1, 1, divisor_override=1
        )  # (B, n, h_p, w_p) sums
        return cls(
            torch.stack([image.loss for image in images]).sum(),
            torch.stack([image.untrained for image in images]).sum(),
            torch.cat([image.coefficients for image in images]),
            backward(of_resized) + slack * turned,
        )


def interpolation_slack(size: tuple[int, int], eps: float) -> float:
    """Return the largest error of a bilinear interpolation, as a share of the largest value, from maps of `size`.

    The place (i + 0.5) s - 0.5 of a pixel along an axis is rounded three times, each time by at most half an eps of the
    axis' length. Neighbouring values differ by at most twice the largest value, so that each axis adds 3 eps times its
    length. The weighted sum of four neighbours adds a few roundings.
    """
    return eps * (STEPS + 3 * sum(size))


@dataclass(frozen=True)
class ImageErrors:
    """Errors of the mask loss of one image's p positives and of its gradients, before the division by P and the gain.

    Attributes:
        loss: () largest error of the sum of the losses.
        untrained: () this sum for predicted masks of probability 0.5.
        coefficients: (p, n) largest errors of the gradient on the coefficients.
        prototypes: (n, h_m, w_m) largest errors of the gradient on the resized prototypes.
        gradient: (n, h_m, w_m) sum of the absolute values of which the gradient on the prototypes is the sum.
    """

    loss: Tensor
    untrained: Tensor
    coefficients: Tensor
    prototypes: Tensor
    gradient: Tensor

    @classmethod
    def of(
        cls,
        coefficients: Tensor,
        prototypes: Tensor,
        around: Tensor,
        true: Tensor,
        boxes: Enclosure,
        eps: float,
    ) -> "ImageErrors":
        """Return the errors of one image.

        Args:
            coefficients: (p, n) coefficients.
            prototypes: (n, h_m, w_m) prototypes in the size of the masks.
            around: (n,) errors of the prototypes by the interpolation; 0 if they are not resized.
            true: (p, h_m, w_m) true masks.
            boxes: enclosures (p, 4) of the target boxes in pixels of the masks.
            eps: machine epsilon of the implementation's dtype.
        """
        count, (height, width) = coefficients.shape[1], size_of(true)
        pixels = height * width
        logits = mask_logits(coefficients, prototypes)  # (p, h_m, w_m)
        of_prototype = around[:, None, None].expand_as(prototypes)  # (n, h_m, w_m)
        error = mask_logits(coefficients.abs(), prototypes.abs() * (eps * (1 + count / 2)) + of_prototype)
        surely, perhaps = insides(boxes, (height, width))  # (p, h_m, w_m) bool, twice
        unsure = perhaps & ~surely
        sides = (boxes.low + boxes.high).unflatten(1, (2, 2)).diff(dim=1)[:, 0] / 2  # (p, 2) width and height
        area = share_of(boxes, (height, width)) * float(pixels)
        scale = Enclosure.around(torch.ones_like(area.low), 0.0, eps) / area  # (p,)
        off = scale.distance_from(1 / sides.prod(1))[:, None, None]  # (p, 1, 1)
        most = scale.size[:, None, None]  # (p, 1, 1)
        slope = logits.sigmoid() - true  # (p, h_m, w_m)
        losses = functional.binary_cross_entropy_with_logits(logits, true, reduction="none")  # (p, h_m, w_m)
        # max(x, 0) - x y + log(1 + e^-|x|): each part is rounded, and each of the sums
        parts = logits.abs() * (1 + true) + functional.softplus(-logits.abs())  # (p, h_m, w_m)
        summing = eps * (STEPS + pixels / 2)
        of_loss = slope.abs() * error + error.square() / 8 + eps * parts + summing * losses
        value = losses * off + of_loss * most  # (p, h_m, w_m)
        loss = (value.where(perhaps, 0.0) + (losses * most).where(unsure, 0.0)).sum()
        certain = logits.sigmoid() * (1 - logits.sigmoid())  # (p, h_m, w_m): slope of the sigmoid
        of_slope = certain * error + CURVATURE * error.square() + STEPS * eps * (logits.sigmoid() + true)
        size = slope.abs() + of_slope  # (p, h_m, w_m)
        certainly = (slope.abs() * off + of_slope * most).where(perhaps, 0.0)  # (p, h_m, w_m)
        moves = certainly + (size * most).where(unsure, 0.0)  # (p, h_m, w_m)
        whole = (size * most).where(perhaps, 0.0)  # (p, h_m, w_m)
        over_pixels = torch.einsum("phw,nhw->pn", moves + summing * whole, prototypes.abs())
        over_pixels = over_pixels + torch.einsum("phw,nhw->pn", whole, of_prototype)
        over_positives = eps * (STEPS + len(coefficients) / 2)
        largest = torch.einsum("phw,pn->nhw", whole, coefficients.abs())  # (n, h_m, w_m)
        of_prototypes = torch.einsum("phw,pn->nhw", moves, coefficients.abs()) + over_positives * largest
        untrained = (torch.full_like(losses, 2.0).log() * most).where(perhaps, 0.0).sum()
        # A box whose area may be zero has an unlimited scale, of which the product with zero is unlimited, too.
        loss, untrained, over_pixels, of_prototypes, largest = (
            errors.nan_to_num(nan=torch.inf, posinf=torch.inf)
            for errors in (loss, untrained, over_pixels, of_prototypes, largest)
        )
        return cls(loss, untrained, over_pixels, of_prototypes, largest)


def box_edges(
    boxes: Tensor, size: tuple[int, int], mask_size: tuple[int, int], moved: Tensor | float, eps: float
) -> Enclosure:
    """Return enclosures (p, 4) of boxes (p, 4), xyxy in pixels of the input, in pixels of the masks (SEG-2).

    An edge is exact if every order of division and multiplication gives the same number, in float32 and in float64.

    Args:
        boxes: (p, 4) target boxes in float64.
        size: height and width of the input.
        mask_size: height and width of the masks.
        moved: (p,) errors of the edges in pixels of the input; 0 if they are known.
        eps: machine epsilon of the implementation's dtype.
    """
    of_input = boxes.new_tensor((size[1], size[0])).repeat(2)  # (4,)
    of_mask = boxes.new_tensor((mask_size[1], mask_size[0])).repeat(2)  # (4,)
    exact = boxes * of_mask / of_input  # (p, 4)
    orders = [
        order.double()
        for given, whole, part in (
            (boxes, of_input, of_mask),
            (boxes.float(), of_input.float(), of_mask.float()),
        )
        for order in (given / whole * part, given * part / whole, given * (part / whole))
    ]
    sharp = torch.stack([order == exact for order in orders]).all(0)  # (p, 4)
    error = (STEPS * eps * exact.abs()).where(~sharp, 0.0)  # (p, 4)
    if isinstance(moved, Tensor):
        error = error + moved[:, None] * of_mask / of_input
    return Enclosure.around(exact, error, eps)


def share_of(boxes: Enclosure, size: tuple[int, int]) -> Enclosure:
    """Return the enclosures (p,) of the boxes' share of the masks' area (SEG-2)."""
    low, high = boxes.low, boxes.high
    sides = Enclosure.between(low[:, 2:] - high[:, :2], high[:, 2:] - low[:, :2], boxes.eps)  # (p, 2)
    shares = sides / Enclosure.around(sides.low.new_tensor((size[1], size[0])), 0.0, boxes.eps)
    return shares[:, 0] * shares[:, 1]


def insides(boxes: Enclosure, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return two masks (p, h_m, w_m) bool: pixels that are inside in every case, and pixels that may be (SEG-2)."""
    rows = torch.arange(size[0], device=boxes.low.device)[:, None]  # (h_m, 1)
    columns = torch.arange(size[1], device=boxes.low.device)  # (w_m,)

    def between(first: Tensor, last: Tensor) -> Tensor:
        left, top = first[:, :2, None, None].unbind(1)  # (p, 1, 1) each
        right, bottom = last[:, 2:, None, None].unbind(1)
        return (left <= columns) & (columns < right) & (top <= rows) & (rows < bottom)

    return between(boxes.high, boxes.low), between(boxes.low, boxes.high)


def resizing(prototypes: Tensor, size: tuple[int, int]) -> tuple[Tensor, Callable[[Tensor], Tensor]]:
    """Return the prototypes (B, n, h_m, w_m) in the size of the masks, and the function that turns gradients back.

    The weights of the interpolation are not negative, so that the function turns bounds of errors back, too.
    """
    if size_of(prototypes) == size:
        return prototypes, lambda errors: errors
    leaf = prototypes.detach().requires_grad_()
    with torch.enable_grad():
        resized = resized_prototypes(leaf, size)

    def backward(errors: Tensor) -> Tensor:
        (gradient,) = torch.autograd.grad(resized, leaf, errors, retain_graph=True)
        return gradient.nan_to_num(nan=torch.inf, posinf=torch.inf)

    return resized.detach(), backward
