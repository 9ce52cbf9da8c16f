"""Enclosures of the gradients of box loss and DFL on the distance logits that 16-bit code computes (LOSS-GRAD-1).

Under autocast, the backward pass of an operation stores its result in the dtype of the operation's input. The
gradients pass these tensors (H: the dtype of the feature maps, on the CPU as on CUDA):

| Gradient | Dtype | Roundings |
|---|---|---|
| on the overlap, its sums and quotients, on the weights | float32 | none to H |
| on an edge of a predicted box, by intersection, enclosing box and centres | H | one each, when it is cast |
| on a side, by the area and by the quotient of the sides | H | of every operation, and of the stored sides |
| sums of these parts on an edge | H | one for each addition |
| on a distance, and its product with the bins | H | one each |
| on the logits, by the softmax: p (k g - sum of p k g) | H | one; p is stored in H |
| on the logits, by each of DFL's two cross-entropies, and their sum | H | one each |

The values in these formulas are those of the forward pass: box and log-probabilities are those of one of the sequences
of roundings of `mixed_precision`, so the gradient is computed for each of them. An implementation may skip any
rounding. Three choices of an implementation make the bound wider than the official order needs: the product of
exponentials and bins before the division by the sum (numerator, sum and quotient are rounded too), centres of predicted
boxes in H, and rounding of DFL's shares to H.

P positives, R bins, step: half of the machine epsilon of H.
"""

import math
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor

from tal_conformance.judgement.rounding.bounds import distance_unit, smallest
from tal_conformance.judgement.rounding.gradient_branches import EdgeBranches, edge_branches
from tal_conformance.judgement.rounding.mixed_precision import (
    FLOAT32_EPS,
    Interval,
    MixedTerms,
    log_probability_sequences,
)
from tal_reference.boxes import EPS, intersection, width_and_height
from tal_reference.loss import LAST_BIN_MARGIN, distances_to

BY_CAST = 4
"""Roundings of a part of an edge's gradient that is cast to H: the cast, and the additions of the other three parts."""
BY_AREA = 6
"""Roundings of the area's part: cast, product, addition to the quotient's part, three additions on the edge."""
BY_SHAPE = 11
"""Roundings of the shape's part: cast, three of the arc tangent, three of the quotient, four additions."""
OF_BIN, OF_DISTANCE, OF_LOGIT = 2, 5, 4
"""Roundings of the parts k, d and k - d of the derivative p (k - d) of a distance in the logit of bin k, if numerator
and sum of the softmax are divided after the product with the bins; one of k - d is the addition of DFL's gradient."""
OUTWARD = (-1.0, -1.0, 1.0, 1.0)
"""Direction in which a larger distance moves each edge: left, top, right, bottom."""
OF_CROSS_ENTROPY = 4
"""Roundings of the gradient of one cross-entropy: its factor, its result, the additions of the other cross-entropy's
and of the box loss's gradient."""


@dataclass(frozen=True)
class CiouParts:
    """The gradient of CIoU on the predicted edges, split by the operation that reads the edges; (P, 4) each.

    Attributes:
        shared: by the intersection.
        enclosing: by the smallest enclosing box.
        centre: by the distance of the centres.
        area: by the predicted box's area.
        shape: by the arc tangent of the quotient of the predicted box's sides.
        angle: gradient of that arc tangent, not of CIoU.
    """

    shared: Tensor
    enclosing: Tensor
    centre: Tensor
    area: Tensor
    shape: Tensor
    angle: Tensor

    @classmethod
    def of(cls, target: Tensor, predicted: Tensor) -> "CiouParts":
        """Return the parts for target and predicted boxes (P, 4), float64."""
        leaves = [predicted.detach().clone().requires_grad_() for _ in range(5)]
        by_shared, by_enclosing, by_centre, by_area, by_angle = leaves
        shared, (w, h), (w2, h2) = (
            intersection(target, by_shared),
            width_and_height(target),
            width_and_height(by_area),
        )
        overlap = shared / (w * h + w2 * h2 - shared + EPS)
        w3, h3 = width_and_height(by_angle)
        angle = torch.atan(w3 / h3)
        difference = 4 / math.pi**2 * (angle - torch.atan(w / h)).square()  # v
        weight = (difference / (1 - overlap + difference + EPS)).detach()
        penalty = _apart(target, by_centre).square().sum(-1) / _diagonal(target, by_enclosing)
        (of_angle,) = torch.autograd.grad(angle.sum(), by_angle, retain_graph=True)
        parts = torch.autograd.grad((overlap - penalty - weight * difference).sum(), leaves)
        shared_part, enclosing, centre, area, shape = parts
        return cls(shared_part, enclosing, centre, area, shape, of_angle)


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """Return the differences (.., 2) of the centres of two boxes (.., 4)."""
    return (first[..., :2] + first[..., 2:] - second[..., :2] - second[..., 2:]) / 2


def _diagonal(first: Tensor, second: Tensor) -> Tensor:
    """Return the squared diagonal (..,) of the smallest box that encloses two boxes (.., 4)."""
    enclosing = torch.maximum(first[..., 2:], second[..., 2:]) - torch.minimum(
        first[..., :2], second[..., :2]
    )
    return enclosing.square().sum(-1) + EPS


@dataclass(frozen=True)
class Branches:
    """The values that a gradient on distance logits can take where predicted edges meet the target's.

    K branches; the first is that of the exact boxes.

    Attributes:
        moves: (K, P, 4, R) differences from the exact gradient.
        errors: (K, P, 4, R) largest error of each value.
        whole: (P, 4, R) largest difference between the exact gradient and any value.
        possible: (K, P, 4) bool: the value can be reached.
    """

    moves: Tensor
    errors: Tensor
    whole: Tensor
    possible: Tensor

    def largest(self, expected: Tensor) -> Tensor:
        """Return the largest absolute gradient (P, 4R) of all branches, given that of the exact boxes (P, 4R)."""
        values = (expected.view_as(self.whole) + self.moves).abs()  # (K, P, 4, R)
        return values.where(self.possible[..., None], 0).amax(0).flatten(1)

    def nearest(self, observed: Tensor, expected: Tensor, tolerance: Tensor) -> tuple[Tensor, Tensor]:
        """Return the expected gradients and tolerances, (P, 4R) each, of the branch that fits each side best.

        Args:
            observed: (P, 4R) gradients of the implementation.
            expected: (P, 4R) gradients of the exact boxes.
            tolerance: (P, 4R) tolerances for all branches together, which contain `whole`.
        """
        apart = (observed - expected).view_as(self.whole) - self.moves  # (K, P, 4, R)
        allowed = (tolerance.view_as(self.whole) - self.whole).clamp(min=0) + self.errors  # (K, P, 4, R)
        misses = (apart.abs() / allowed).nan_to_num(nan=torch.inf, posinf=torch.inf).amax(-1)  # (K, P, 4)
        best = misses.where(self.possible, torch.inf).argmin(0, keepdim=True)[..., None]  # (1, P, 4, 1)
        index = best.expand(1, *self.whole.shape)
        moved, wide = (values.gather(0, index)[0].flatten(1) for values in (self.moves, allowed))  # (P, 4R)
        return expected + moved, wide


@dataclass(frozen=True)
class MixedGradients:
    """Largest errors under autocast of the gradients of each positive's box loss and DFL on its distance logits.

    Attributes:
        terms: the inputs of the positives' losses.
        edge: (P,) errors in grid units of the target boxes' edges.
    """

    terms: MixedTerms
    edge: Tensor

    @property
    def least(self) -> float:
        """Largest error of a number that underflows in H."""
        return smallest(self.terms.dtype)

    def box(self, scale: Tensor) -> Tensor:
        """Return the errors (P, 4, R) of the box loss's gradient, whose factor for each positive is `scale` (P, 1, 1).

        They hold the jumps where a predicted edge may lie on either side of the target's edge.
        """
        return self._of_logits(scale, self.branches.exact, self.branches.largest)

    def box_branches(self, scale: Tensor) -> Branches:
        """Return the values that the box loss's gradient can take where edges meet, and their errors.

        The factor of the box loss for each positive is `scale` (P, 1, 1).
        """
        known = self.branches
        outward = known.exact.new_tensor(OUTWARD)  # (4,) direction of the edge for a larger distance
        lever = self.terms.exact_boxes.new_ones(1) if self.terms.reg_max == 1 else self.signed_lever
        moves = -scale * ((known.centres - known.exact) * outward)[..., None] * lever  # (K, P, 4, R)
        errors = self._of_logits(scale, known.centres, known.radii)  # (K, P, 4, R)
        return Branches(moves, errors, self.box(scale), known.possible)

    def _of_logits(self, scale: Tensor, gradient: Tensor, moved: Tensor) -> Tensor:
        """Return the errors (.., P, 4, R) of the gradient on the logits.

        The derivative of a side's distance d in the logit of bin k with probability p is p (k - d).

        Args:
            scale: (P, 1, 1) factor of the box loss.
            gradient: (.., P, 4) gradient of CIoU on the edges.
            moved: (.., P, 4) its largest change by the roundings of the predicted box.
        """
        parts, reg_max = self.parts, self.terms.reg_max
        error = moved + self._rounded_parts  # (.., P, 4)
        # a gradient of zero stays zero
        lost = (self.least * (scale != 0)).expand(-1, 4, reg_max)  # (P, 4, R)
        if reg_max == 1:
            step = 2 * self.terms.step  # on the logit, and the addition of the other term's gradient
            underflow = self._underflow(parts)[..., None] * (scale != 0)
            return scale * (error + step * gradient.abs())[..., None] + underflow + lost
        lever = self.signed_lever.abs()  # (P, 4, R)
        by_softmax = self._softmax_error  # (P, 4, R)
        spread = (gradient.abs() + error)[..., None] * by_softmax + error[..., None] * lever  # (.., P, 4, R)
        powers = self.share / self.share.amax(-1, keepdim=True)  # (P, 4, R)
        underflow = self._underflow(parts)[..., None] * lever * (scale != 0)
        return scale * spread + underflow + lost * (2 * self.share * self.bins + powers * self.bins + 2)

    def dfl(self, scale: Tensor, wanted_error: Tensor) -> Tensor:
        """Return the errors (P, 4, R) of DFL's gradient for R > 1, with the factor `scale` (P, 1, 1) for each positive.

        The gradient is the difference of the probabilities and the shares of the two bins around the target distance.

        Args:
            scale: weight, gain and share of a side in the mean, over N.
            wanted_error: (P, 4) errors of the target distances in grid units.
        """
        terms = self.terms
        clamped = distances_to(terms.target, terms.centres).clamp(0, terms.reg_max - 1 - LAST_BIN_MARGIN)
        gap = (self.bins - clamped[..., None]).abs()  # (P, 4, R)
        wanted = (1 - gap).clamp(min=0)  # (P, 4, R) shares of the bins
        moved = torch.zeros_like(self.share)  # (P, 4, R) of the probabilities
        for values in log_probability_sequences(terms.distances, terms.reg_max, terms.dtype):
            low, high = values.low.exp(), values.high.exp()
            moved = torch.maximum(moved, torch.maximum(high - self.share, self.share - low))
        near = gap <= 1 + wanted_error[..., None]  # bins with a share, or that may have one
        rounded = OF_CROSS_ENTROPY * terms.step * (self.share + moved + wanted)
        shares = near * (wanted_error[..., None] + terms.step * wanted + 4 * FLOAT32_EPS)
        return scale * (moved + rounded + shares) + 4 * self.least

    @cached_property
    def branches(self) -> EdgeBranches:
        """Values of CIoU's gradient for the roundings of the predicted box."""
        target = self.terms.target
        spread = (self.edge + FLOAT32_EPS * target.abs().amax(1))[:, None]  # (P, 1) of the target's edges
        boxes = [Interval(box.low - spread, box.high + spread) for box in self.terms.boxes]
        return edge_branches(target, self._predicted, boxes)

    @cached_property
    def parts(self) -> CiouParts:
        """Parts of CIoU's gradient; those of an edge that may meet the target's are the largest of both sides."""
        parts = CiouParts.of(self.terms.target, self._predicted)
        known = self.branches
        return replace(
            parts,
            shared=torch.maximum(parts.shared.abs(), known.shared),
            enclosing=torch.maximum(parts.enclosing.abs(), known.enclosing),
        )

    @cached_property
    def _rounded_parts(self) -> Tensor:
        """(P, 4) bounds on errors of CIoU's gradient by roundings of its terms and of their inputs."""
        return self._rounded(self.parts)

    def _rounded(self, parts: CiouParts) -> Tensor:
        """Return bounds (P, 4) on errors of CIoU's gradient that roundings of its terms and of their inputs cause."""
        terms, step = self.terms, self.terms.step
        (w1, h1), (w2, h2) = width_and_height(terms.target), width_and_height(self._predicted)  # (P,) each
        width = (
            step + 0 * w2
        )  # (P,) relative errors of the stored sides; the sum of height and eps is rounded too
        height = 2 * step + self.least / h2.abs()
        shared = intersection(terms.target, self._predicted)  # (P,)
        area = w1 * h1 + w2 * h2
        union = (area - shared + EPS).abs().clamp(min=EPS)
        of_area = (step + width + height) * (w2 * h2).abs() / union  # (P,) relative error of the union
        overlap_error = (shared / union) * of_area
        quotient = step + width + height  # (P,) relative error
        angle, wanted = torch.atan(w2 / h2), torch.atan(w1 / h1)  # (P,) twice
        turn = (w2 * h2).abs() / (w2.square() + h2.square()) * quotient  # (P,)
        angle_error = (turn + step * angle.abs() + 4 * FLOAT32_EPS).clamp(max=math.pi)
        by_shape = _shape_slope_error(
            (angle - wanted).abs(), angle_error, 1 - shared / union, overlap_error
        )  # (P,)

        centre = self._centre_error() / _diagonal(terms.target, self._predicted)[:, None]  # (P, 2)
        shares = {
            "shared": 2 * of_area + BY_CAST * step,
            "enclosing": torch.full_like(w2, BY_CAST * step),
            "centre": torch.full_like(w2, BY_CAST * step),
            "area": 2 * of_area + torch.maximum(width, height) + BY_AREA * step,
            "shape": 3 * quotient + width + height + BY_SHAPE * step,
        }  # (P,) relative errors of the parts
        fine = 8 * FLOAT32_EPS  # of the operations in float32
        error = torch.zeros_like(parts.shared)
        for name, share in shares.items():
            error = error + (share[:, None] + fine) * getattr(parts, name).abs()
        return error + centre.repeat(1, 2) + by_shape[:, None] * parts.angle.abs()

    def _centre_error(self) -> Tensor:
        """Return the largest errors (P, 2) of predicted centres in grid units, if the sum of edges is stored in H."""
        sums = [boxes.middle[:, :2] + boxes.middle[:, 2:] for boxes in self.terms.boxes]
        return torch.stack([(each.to(self.terms.dtype).double() - each).abs() for each in sums]).amax(0) / 2

    @cached_property
    def _softmax_error(self) -> Tensor:
        """(P, 4, R) error of the derivative of a side's distance in its logits."""
        lever = (self.bins - self.distance).abs()  # (P, 4, R)
        parts = OF_BIN * self.bins + OF_DISTANCE * self.distance + OF_LOGIT * lever
        # in float32: exponentials of the logits below the largest, and their sum
        below = self._sides.amax(-1, keepdim=True) - self._sides
        fine = FLOAT32_EPS * (below + self.terms.reg_max + 4) * (self.bins + 2 * self.distance)
        fine = fine + distance_unit(self.terms.distances, self.terms.reg_max, FLOAT32_EPS)[..., None]
        # the underflow of probabilities below the normal numbers
        flushed = self.least * (lever + self.share * self.bins.sum())
        return self.share * (self.terms.step * parts + fine) + flushed

    def _underflow(self, parts: CiouParts) -> Tensor:
        """Return the error (P, 4) of an edge's gradient by underflow of each part, as later operations enlarge it."""
        w2, h2 = (side.abs() for side in width_and_height(self._predicted))  # (P,), (P,)
        by_quotient = parts.angle.abs() + (1 / h2 + w2 / h2.square())[:, None]  # (P, 4)
        return self.least * (5 + (w2 + h2)[:, None] + by_quotient)

    @property
    def _predicted(self) -> Tensor:
        """(P, 4) predicted boxes in grid units."""
        return self.terms.exact_boxes

    @cached_property
    def _sides(self) -> Tensor:
        """(P, 4, R) logits of each side."""
        return self.terms.distances.unflatten(1, (4, self.terms.reg_max))

    @cached_property
    def share(self) -> Tensor:
        """(P, 4, R) probabilities p of the bins (DEC-1)."""
        return self._sides.softmax(-1)

    @cached_property
    def signed_lever(self) -> Tensor:
        """(P, 4, R) derivative p (k - d) of a side's distance d in the logit of bin k."""
        return self.share * (self.bins - self.distance)

    @cached_property
    def bins(self) -> Tensor:
        """(R,) the bins' distances k."""
        return torch.arange(self.terms.reg_max).to(self.terms.distances)

    @cached_property
    def distance(self) -> Tensor:
        """(P, 4, 1) distances d of the sides (DEC-1)."""
        return (self.share @ self.bins)[..., None]


def _shape_slope_error(turned: Tensor, turned_error: Tensor, apart: Tensor, apart_error: Tensor) -> Tensor:
    """Return the error (P,) of the derivative of the shape penalty in the predicted box's angle (IOU-1, IOU-2).

    The derivative is 8 / pi^2 times a times the difference of the angles, where a = v / (1 - IoU + v) grows with v and
    with the overlap.

    Args:
        turned: (P,) absolute difference of the angles in radians.
        turned_error: (P,) error of `turned`.
        apart: (P,) 1 - IoU.
        apart_error: (P,) error of `apart`.
    """

    def slope(difference: Tensor, rest: Tensor) -> Tensor:
        value = 4 / math.pi**2 * difference.square()
        return 8 / math.pi**2 * difference * value / (rest + value + EPS)

    exact = slope(turned, apart)
    most = slope(turned + turned_error, (apart - apart_error).clamp(min=0))
    least = slope((turned - turned_error).clamp(min=0), apart + apart_error)
    return torch.maximum(most - exact, exact - least)
