"""The values that CIoU's gradient can take where a predicted edge may lie on either side of the target's edge.

The overlap has a kink where a predicted edge meets the target's edge: inside the target the edge moves the
intersection, outside it moves the enclosing box. The gradient on an edge therefore jumps between two values, and where
both edges are equal it depends on the functions that compute minimum and maximum. Every value has a small error; an
interval from the smallest to the largest value would accept nearly any gradient.

P positives, Q positives with an edge that may meet the target's, K branches.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from tal_conformance.judgement.rounding.bounds import CORNERS
from tal_conformance.judgement.rounding.mixed_precision import Interval, hull
from tal_reference.boxes import EPS, ciou, intersection

INWARD = (1.0, 1.0, -1.0, -1.0)
"""Direction in which each edge of a box moves into the box: left, top, right, bottom."""
SIDES = (-1.0, 0.0, 1.0)
"""Positions of a predicted edge relative to the target's: below, equal, above."""


@dataclass(frozen=True)
class EdgeBranches:
    """Values of CIoU's gradient on the edges of predicted boxes (LOSS-BOX-1).

    Attributes:
        exact: (P, 4) gradient on the exact boxes.
        centres: (K, P, 4) gradient of each branch; that of the first branch is `exact`.
        radii: (K, P, 4) largest error of each branch.
        possible: (K, P, 4) bool: the branch can be reached.
        shared, enclosing: (P, 4) absolute parts of the gradient by the intersection, just inside the target's edge, and
            by the enclosing box, just outside; 0 for edges that cannot meet the target's.
    """

    exact: Tensor
    centres: Tensor
    radii: Tensor
    possible: Tensor
    shared: Tensor
    enclosing: Tensor

    @property
    def largest(self) -> Tensor:
        """Largest difference (P, 4) between the exact gradient and that of any branch."""
        return ((self.centres - self.exact).abs() + self.radii).where(self.possible, 0).amax(0)


def edge_branches(target: Tensor, exact: Tensor, boxes: Iterable[Interval]) -> EdgeBranches:
    """Return the branches of CIoU's gradient on the edges of predicted boxes.

    For each interval of predicted boxes the 16 corners are tried. Where a predicted edge may meet the target's, the
    points where this edge is equal to the target's or next to it are tried, too. Gradients are grouped by the position
    of their own edge, because the gradient on an edge is continuous in the other edges.

    Args:
        target: (P, 4) target boxes.
        exact: (P, 4) predicted boxes without rounding.
        boxes: intervals of the predicted boxes (P, 4), one for each sequence of roundings.
    """
    intervals = list(boxes)
    whole = hull(intervals)
    within = (whole.low <= target) & (target <= whole.high)  # (P, 4)
    meets = within.any(1)  # (P,)
    seen = [Interval(torch.full_like(target, torch.inf), torch.full_like(target, -torch.inf)) for _ in SIDES]
    for interval in intervals:
        low, high = interval.low, interval.high
        corners = torch.where(CORNERS.to(target)[:, None] > 0, high, low)  # (16, P, 4)
        _add(seen, gradients(target, corners), (corners - target).sign(), None)
    shared, enclosing = torch.zeros_like(target), torch.zeros_like(target)
    if meets.any():
        around = Interval(whole.low[meets], whole.high[meets])
        _add_points_beside(seen, target, within, around)
        shared[meets], enclosing[meets] = _parts_at_edges(target[meets], around.middle)
        shared, enclosing = (part.where(within, 0) for part in (shared, enclosing))
    return _branches(target, exact, seen, within, shared, enclosing)


def gradients(target: Tensor, predicted: Tensor) -> Tensor:
    """Return the gradients (.., P, 4) of CIoU in the predicted boxes (LOSS-BOX-1)."""
    leaf = predicted.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(ciou(target, leaf).sum(), leaf)
    return gradient


def _add(seen: list[Interval], values: Tensor, position: Tensor, rows: Tensor | None) -> None:
    """Widen the interval of each position by gradients (N, P, 4) with the positions (N, P, 4) of their own edges.

    `rows` (P,) bool selects the rows of the intervals that the gradients belong to; None: all.
    """
    for number, side in enumerate(SIDES):
        at = position == side
        low, high = values.where(at, torch.inf).amin(0), values.where(at, -torch.inf).amax(0)
        if rows is not None:
            low = torch.full_like(seen[number].low, torch.inf).masked_scatter(rows[:, None], low)
            high = torch.full_like(seen[number].high, -torch.inf).masked_scatter(rows[:, None], high)
        seen[number] = seen[number].joined(Interval(low, high))


def _add_points_beside(seen: list[Interval], target: Tensor, within: Tensor, around: Interval) -> None:
    """Add gradients at points where one edge is equal or next to the target's, and the others are at the ends.

    Args:
        seen: intervals of the gradients on all edges (P, 4), which are widened.
        target: (P, 4) target boxes.
        within: (P, 4) edges that may meet the target's.
        around: (Q, 4) interval of the predicted boxes of the Q rows with such an edge.
    """
    meets = within.any(1)  # (P,)
    own, near = target[meets], within[meets]  # (Q, 4) twice
    signs = CORNERS.to(target)[:, None]  # (16, 1, 4)
    corners = torch.where(signs > 0, around.high, around.low)  # (16, Q, 4)
    past = torch.nextafter(own.expand_as(corners), (signs * torch.inf).expand_as(corners))
    for edge in range(4):
        only = torch.arange(4, device=target.device) == edge  # (4,)
        for values in (past, own.expand_as(corners)):
            points = torch.where(only & near, values, corners)
            # NaN is counted in no group
            position = (points - own).sign().masked_fill(~(only & near), torch.nan)
            _add(seen, gradients(own, points), position, meets)


def _parts_at_edges(target: Tensor, middle: Tensor) -> tuple[Tensor, Tensor]:
    """Return the parts of CIoU's gradient (Q, 4) by the intersection just inside and by the enclosing box just outside.

    Args:
        target: (Q, 4) target boxes.
        middle: (Q, 4) predicted boxes.
    """
    shared, enclosing = torch.zeros_like(target), torch.zeros_like(target)
    for edge, inward in enumerate(INWARD):
        for result, direction in ((shared, inward), (enclosing, -inward)):
            points = middle.clone()
            points[:, edge] = torch.nextafter(
                target[:, edge], torch.full_like(target[:, edge], direction * torch.inf)
            )
            by_shared, by_enclosing = (points.clone().requires_grad_() for _ in range(2))
            cut = intersection(target, by_shared)
            areas = sum(
                ((box[:, 2:] - box[:, :2]).prod(1) for box in (target, points)), torch.zeros_like(cut)
            )
            sides = torch.maximum(target[:, 2:], by_enclosing[:, 2:]) - torch.minimum(
                target[:, :2], by_enclosing[:, :2]
            )
            apart = (target[:, :2] + target[:, 2:] - points[:, :2] - points[:, 2:]) / 2
            penalty = apart.square().sum(1) / (sides.square().sum(1) + EPS)
            if result is shared:
                (part,) = torch.autograd.grad((cut / (areas - cut + EPS)).sum(), by_shared)
            else:
                (part,) = torch.autograd.grad(-penalty.sum(), by_enclosing)
            result[:, edge] = part[:, edge]
    return shared, enclosing


def _branches(
    target: Tensor, exact: Tensor, seen: list[Interval], within: Tensor, shared: Tensor, enclosing: Tensor
) -> EdgeBranches:
    """Return the branches from the intervals of the gradients at each position of their own edges."""
    value, position = gradients(target, exact), (exact - target).sign()  # (P, 4) twice
    centres, radii, possible = [value], [torch.zeros_like(value)], [torch.ones_like(within)]
    for side, interval in zip(SIDES, seen, strict=True):
        own, reached = position == side, interval.low <= interval.high
        farthest = interval.distance_from(value)
        radii[0] = torch.where(own & reached, farthest.clamp(min=0), radii[0])
        centres.append(interval.middle.nan_to_num().where(reached, 0))
        radii.append(interval.radius.where(reached, 0))
        possible.append(reached & ~own)
    # Where both edges are equal, a maximum and a minimum by comparison move neither box, or both.
    inside, outside = (_at_inward(seen, sign) for sign in (1.0, -1.0))  # (P, 4) intervals
    known = within & (inside.low <= inside.high) & (outside.low <= outside.high)
    for base, moved in ((inside, -shared), (outside, shared)):
        centres.append((base.middle + moved).where(known, 0))
        radii.append((inside.radius + outside.radius).where(known, 0))
        possible.append(known)
    return EdgeBranches(
        value, torch.stack(centres), torch.stack(radii), torch.stack(possible), shared.abs(), enclosing.abs()
    )


def _at_inward(seen: list[Interval], sign: float) -> Interval:
    """Return the interval of the gradients at edges inside (sign 1) or outside (sign -1) the target's edge."""
    above = seen[2].low.new_tensor(INWARD) * sign > 0  # (4,) inside is above
    return Interval(
        torch.where(above, seen[2].low, seen[0].low), torch.where(above, seen[2].high, seen[0].high)
    )
