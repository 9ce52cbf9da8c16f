"""The admissible choices of an assignment (specification section 6): what may be selected and owned.

Values are known up to rounding, as ranges [low, high]; a range of width zero is an exact value. If two ranges overlap,
either of the two values may be the larger one (T4); if two exact values are equal, either may be chosen (T1, T2, T3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from tal_conformance.core.verdicts import Undecided

FEASIBILITY_SECONDS = 20.0
"""Time limit in seconds for one exact feasibility problem (`is_reachable`); then the owners are undecided.

Problems of generated batches take less than 0.01 s. One of 200 ground truths that tie for 2,000 anchors, more than any
batch of the suite has, takes 5 s on one core; the rest is for slower machines. Presolving is not interrupted.
"""
INFEASIBLE = 2
"""Status of SciPy's `milp` for a problem that has no solution."""


class Range(NamedTuple):
    """Smallest and largest possible value of each element of a tensor."""

    low: Tensor
    high: Tensor

    @classmethod
    def exact(cls, value: Tensor) -> "Range":
        """Return the ranges [value, value] of exactly known values."""
        return cls(value, value)


@dataclass(frozen=True)
class Selection:
    """The admissible results of a top-k over each of M rows (ground truths) of A places (anchors) (TAL-TOPK-1).

    A place is visible if it is a candidate. Other places may be selected, but are not visible in the result.

    Attributes:
        must: (M, A) bool: the place is selected and visible in every admissible result.
        may: (M, A) bool: the place is selected and visible in some admissible result; includes `must`.
        min_count: (M,) smallest number of visible places.
        max_count: (M,) largest number of visible places.
    """

    must: Tensor
    may: Tensor
    min_count: Tensor
    max_count: Tensor


def top_k_choices(value: Range, shows: Tensor, may_show: Tensor, k: int) -> Selection:
    """Return the top-k selections that are admissible for each row, given a range for every value.

    Every row selects exactly k distinct places. Non-candidates compete with the value zero but are not visible in the
    result. For exact values `must`, `may` and the counts together describe exactly the reachable selections (any set
    between `must` and `may` of a size between `min_count` and `max_count`). For ranges these conditions are necessary,
    not sufficient: for a chain a < b < c of overlapping ranges, more sets are accepted than there are orders. So some
    unreachable selections are accepted, but no reachable selection is refused.

    Args:
        value: (M, A) ranges of the metric; zero off candidates.
        shows: (M, A) the place is certainly a candidate.
        may_show: (M, A) the place may be a candidate; includes `shows`.
        k: number of places that each row selects.
    """
    low, high = value  # (M, A)
    never = high < kth_largest(low, k)  # (M, A) k other values are certainly larger
    alone = low > kth_largest(high, k + 1)  # (M, A) fewer than k other values can be larger, or equal
    always = alone | low.isnan()
    must = always & shows
    may = ~never & may_show
    hidden_at_most = (~never & ~shows).sum(1)  # (M,)
    hidden_at_least = (always & ~may_show).sum(1)  # (M,)
    min_count = torch.maximum(k - hidden_at_most, must.sum(1))
    max_count = torch.minimum(k - hidden_at_least, may.sum(1))
    return Selection(must, may, min_count, max_count)


def kth_largest(value: Tensor, k: int) -> Tensor:
    """Return the k-th largest value of each row, (M, 1); minus infinity if a row has fewer values.

    NaN counts as larger than every number.
    """
    if k > value.shape[1]:
        return value.new_full((len(value), 1), -torch.inf)
    return value.topk(k, dim=1).values[:, -1:]


def may_own(overlap: Range) -> Tensor:
    """Return (M, A) bool: True if the overlap of ground truth and anchor may be the anchor's largest (TAL-CONF-1)."""
    return overlap.high >= overlap.low.amax(0)


@dataclass(frozen=True)
class Ownership:
    """The outputs of an assignment of one image: positives, and the ground truth that owns each positive (its owner).

    Attributes:
        foreground: (A,) bool.
        index: (A,) int64, ground truth that owns the anchor; undefined off the foreground.
    """

    foreground: Tensor
    index: Tensor

    def positives(self, truths: int) -> Tensor:
        """Return True for each pair (M, A) in which the ground truth owns the anchor."""
        rows = torch.arange(truths, device=self.index.device)[:, None]  # (M, 1)
        return (rows == self.index) & self.foreground


@dataclass(frozen=True)
class TopK2Rule:
    """The second top-k, among the anchors that each ground truth owns after the resolution of conflicts (TAL-CONF-2).

    Attributes:
        metric: (M, A) ranges of the alignment metric t.
        k: `topk2`, the number of anchors that each ground truth keeps; anchors with t = 0 compete too.
    """

    metric: Range
    k: int

    def may_be_dropped(self, positives: Tensor) -> Tensor | None:
        """Return (M, A) bool: True where the ground truth may have owned the anchor and dropped it.

        Return None if a ground truth has more than k positives, which is not admissible. A ground truth with k
        positives may have dropped any anchors whose metric t is at most the smallest t of these positives. A ground
        truth with fewer positives also picked anchors with t = 0, and can only have dropped anchors with t = 0.

        Args:
            positives: (M, A) bool: positives after TAL-CONF-2.
        """
        count = positives.sum(1, keepdim=True)  # (M, 1)
        if (count > self.k).any():
            return None
        worst = self.metric.high.where(positives, torch.inf).amin(
            1, keepdim=True
        )  # (M, 1) smallest kept value
        return (self.metric.low <= worst.where(count == self.k, 0)) & ~positives.any(0)

    @property
    def most_dropped(self) -> int:
        """Largest number of anchors that one ground truth can have dropped: all but the k that it selects."""
        return self.metric.low.shape[1] - self.k


def is_reachable(
    selection: Selection, owner_may_be: Tensor, owners: Ownership, topk2_rule: TopK2Rule | None = None
) -> bool:
    """Return True if an admissible selection leads to the given owners (TAL-CONF-1, and TAL-CONF-2 with `topk2_rule`).

    An anchor that no ground truth selects is background; an anchor that a single ground truth selects belongs to it;
    an anchor that several select belongs to any ground truth with the largest overlap. With TAL-CONF-2 a background
    anchor may also have been owned and dropped. The first try is the smallest selection that these rules force. If it
    selects a wrong number of anchors for a ground truth, the conditions on ground truths and anchors together are
    solved as a 0/1 feasibility problem.

    For exact values the answer is exact. If values are known only as ranges, some unreachable owners are
    accepted too: `selection` is only a necessary condition (see `top_k_choices`), and each value is considered
    independently of the others.

    Args:
        selection: admissible selections.
        owner_may_be: (M, A) ground truths that may own an anchor if several select it.
        owners: the assignment to explain.
        topk2_rule: the second top-k, if the head has one.

    Raises:
        Undecided: the exact feasibility was not decided within `FEASIBILITY_SECONDS`.
    """
    owned = owners.positives(len(selection.must))  # (M, A)
    foreground = owners.foreground
    dropped = torch.zeros_like(owned) if topk2_rule is None else topk2_rule.may_be_dropped(owned)
    if dropped is None:
        return False
    could_own = torch.where(foreground, owned, dropped & (owner_may_be | selection.may))  # (M, A)
    alone = ~(owner_may_be & could_own).any(0)  # (A,) was certainly selected by its owner alone
    may = selection.may & torch.where(alone, could_own, could_own.any(0))
    if (selection.must & ~may).any() or (foreground & ~may.any(0)).any():
        return False
    forced = selection.must | (owned & may)  # (M, A)
    claims = forced.sum(0)  # (A,)
    settled = could_own & torch.where(
        claims > 1, owner_may_be, forced
    )  # (M, A) the owner if nothing more is selected
    enough = settled.any(0) | ((claims == 0) & ~foreground)  # (A,)
    counts, lost = forced.sum(1), (claims > 0) & ~foreground
    fits = (counts >= selection.min_count) & (counts <= selection.max_count)  # (M,)
    if enough.all() and fits.all() and (topk2_rule is None or lost.sum() <= topk2_rule.most_dropped):
        return True
    most_dropped = 0 if topk2_rule is None else topk2_rule.most_dropped
    return _feasible(replace(selection, may=may), owner_may_be, could_own, foreground, most_dropped)


def _feasible(
    selection: Selection, owner_may_be: Tensor, could_own: Tensor, foreground: Tensor, most_dropped: int
) -> bool:
    """Return True if an admissible selection leads to owners that `could_own` and `foreground` allow.

    A selection x (M, A) is admissible if must <= x <= may and its row sums lie in [min_count, max_count]. The variable
    p is the owner of each anchor before TAL-CONF-2: it lies within `could_own`, and every foreground anchor has an
    owner. Either the owner has selected its anchor, alone unless it has the largest overlap; or it has the
    largest overlap and two other ground truths have selected the anchor (then the anchor's variable y is 1). All
    variables are 0 or 1. SciPy's mixed-integer solver (HiGHS) decides.

    Raises:
        Undecided: the solver reached its time limit, or gave up for another reason.
    """
    columns = selection.may.any(0).nonzero().flatten()  # the other anchors cannot be selected
    if not len(columns):
        return bool((selection.min_count <= 0).all())
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second to import, and rarely needed
    from scipy.sparse import diags_array, kron

    must, may, largest, owner, owned_by_any = (
        mask[..., columns].cpu().numpy().astype(float)
        for mask in (selection.must, selection.may, owner_may_be, could_own, foreground)
    )
    rows, anchors = may.shape
    cells, per_anchor, per_row = (diags_array(np.ones(count)) for count in (may.size, anchors, rows))
    along = kron(per_row, np.ones((1, anchors)))  # sums over a ground truth's anchors
    down = kron(np.ones((1, rows)), per_anchor)  # sums over an anchor's ground truths
    dropped = kron(per_row, 1 - owned_by_any[None])
    not_largest, of_largest = (diags_array(mask.ravel()) for mask in (1 - largest, largest))
    constraints = (  # blocks of x (rows anchors), p (rows anchors) and y (anchors), lower bound, upper bound
        ((along, None, None), selection.min_count.cpu().numpy(), selection.max_count.cpu().numpy()),
        ((None, down, None), owned_by_any, 1),
        ((None, dropped, None), 0, most_dropped),
        ((down, -rows * down, None), -np.inf, 0),  # a selected anchor has an owner
        (
            (down, (rows - 1) * down @ not_largest, None),
            -np.inf,
            rows,
        ),  # without the largest overlap, the owner is the only one that selects the anchor
        ((cells, -cells, of_largest @ down.T), 0, np.inf),  # the owner has selected the anchor, or
        ((down, None, -2 * per_anchor), 0, np.inf),  # two other ground truths have
    )
    zero, one = np.zeros(anchors), np.ones(anchors)
    result = milp(
        np.zeros(2 * may.size + anchors),
        integrality=np.ones(2 * may.size + anchors),
        bounds=Bounds(
            np.concatenate((must.ravel(), 0 * may.ravel(), zero)),
            np.concatenate((may.ravel(), owner.ravel(), one)),
        ),
        constraints=[
            LinearConstraint(_side_by_side(blocks, (may.size, may.size, anchors)), low, high)
            for blocks, low, high in constraints
        ],
        options={"time_limit": FEASIBILITY_SECONDS},
    )
    if result.x is not None:
        return True  # every solution is as good as the best one: there is no objective
    if result.status == INFEASIBLE:
        return False
    raise Undecided(
        "no admissible selection was found for an assignment, and none was ruled out, within "
        f"{FEASIBILITY_SECONDS:g} s (status {result.status} of the solver HiGHS)"
    )


def _side_by_side(blocks: Sequence[Any], widths: Sequence[int]) -> Any:
    """Concatenate matrices with the same rows horizontally; None stands for a block of zeros of the given width."""
    from scipy.sparse import csr_array, hstack

    height = next(block.shape[0] for block in blocks if block is not None)
    filled = [
        csr_array((height, width)) if block is None else block
        for block, width in zip(blocks, widths, strict=True)
    ]
    return hstack(filled, format="csr")


def assignments(
    selection: Selection, owner_may_be: Tensor, at_most: int, topk2_rule: TopK2Rule | None = None
) -> Iterator[Ownership]:
    """Yield up to `at_most` admissible assignments of one image, for an implementation that does not expose its own.

    Equal assignments may be yielded twice. If fewer than `at_most` are yielded, no others are admissible.
    """
    rows = [_row_choices(selection, row, at_most) for row in range(len(selection.must))]
    every = (
        owners
        for picked in product(*rows)
        for settled in _settled(torch.stack(picked), owner_may_be)
        for owners in ([settled] if topk2_rule is None else _with_topk2(settled, topk2_rule, at_most))
    )
    return islice(every, at_most)


def _settled(selected: Tensor, owner_may_be: Tensor) -> Iterator[Ownership]:
    """Yield every admissible assignment that follows from a given selection (M, A) (TAL-CONF-1)."""
    contested = (selected.sum(0) > 1).nonzero().flatten().tolist()
    for winners in product(*[owner_may_be[:, anchor].nonzero().flatten().tolist() for anchor in contested]):
        index = selected.int().argmax(0)  # (A,)
        index[contested] = index.new_tensor(winners)
        yield Ownership(selected.any(0), index)


def _with_topk2(owners: Ownership, topk2_rule: TopK2Rule, at_most: int) -> Iterator[Ownership]:
    """Yield up to `at_most` admissible results of the second top-k for given owners (TAL-CONF-2)."""
    own = owners.positives(len(topk2_rule.metric.low))  # (M, A)
    value = Range(topk2_rule.metric.low * own, topk2_rule.metric.high * own)
    choices = top_k_choices(value, own, own, topk2_rule.k)
    for choice in product(*[_row_choices(choices, row, at_most) for row in range(len(own))]):
        yield Ownership(torch.stack(choice).any(0), owners.index)


def _row_choices(selection: Selection, row: int, at_most: int) -> list[Tensor]:
    """Return admissible selections of one ground truth, largest first, at most `at_most` of each size."""
    must, free = selection.must[row], (selection.may[row] & ~selection.must[row]).nonzero().flatten().tolist()
    taken = int(must.sum())
    choices = []
    for size in range(int(selection.max_count[row]) - taken, int(selection.min_count[row]) - taken - 1, -1):
        for extra in islice(combinations(free, size), at_most):
            choice = must.clone()
            choice[list(extra)] = True
            choices.append(choice)
    return choices
