"""The admissible choices of an assignment (specification section 6): what must, may and must not be selected and owned.

Values are known up to rounding, as ranges [low, high]; a range of width zero is an exact value. Where two ranges
overlap, either order is admissible (T4); where two exact values are equal, either is (T1, T2, T3).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, islice, product
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor


class Range(NamedTuple):
    """Smallest and largest value that each number can have, elementwise."""

    low: Tensor
    high: Tensor

    @classmethod
    def exact(cls, value: Tensor) -> "Range":
        """Numbers that are known."""
        return cls(value, value)


@dataclass(frozen=True)
class Selection:
    """What a top-k over each row admits (TAL-TOPK-1, TAL-CONF-2), for M rows of A places.

    Attributes:
        must: (M, A) the place is taken and shows, whatever the choice.
        may: (M, A) the place can be taken and show; includes `must`.
        min_count: (M,) places that show at least.
        max_count: (M,) places that show at most.
    """

    must: Tensor
    may: Tensor
    min_count: Tensor
    max_count: Tensor


def top_k_choices(value: Range, shows: Tensor, may_show: Tensor, k: int) -> Selection:
    """What the k largest of each row can be, of which only those that are candidates show.

    Every row takes exactly k distinct places; those that are no candidate take part with the value zero and do not
    show. For exact values `must`, `may` and the counts together say exactly which selections are reachable (any set
    between `must` and `may` of a size between `min_count` and `max_count`). For ranges they are necessary, not
    sufficient:
    in a chain a < b < c of overlapping ranges more sets are accepted than there are orders. The error is on the side
    of accepting.

    Args:
        value: (M, A) ranges of the metric; zero off candidates.
        shows: (M, A) the place is a candidate for sure.
        may_show: (M, A) the place is a candidate, or may be one; includes `shows`.
        k: places that each row takes.
    """
    low, high = value  # (M, A)
    never = high < kth_largest(low, k)  # (M, A) k others are surely above it
    alone = low > kth_largest(high, k + 1)  # (M, A) fewer than k others can be above it, or equal
    always = alone | low.isnan()
    must = always & shows
    may = ~never & may_show
    hidden_at_most = (~never & ~shows).sum(1)  # (M,)
    hidden_at_least = (always & ~may_show).sum(1)  # (M,)
    min_count = torch.maximum(k - hidden_at_most, must.sum(1))
    max_count = torch.minimum(k - hidden_at_least, may.sum(1))
    return Selection(must, may, min_count, max_count)


def kth_largest(value: Tensor, k: int) -> Tensor:
    """The k-th largest of each row, (M, 1), NaN above all; below every number where a row has fewer."""
    if k > value.shape[1]:
        return value.new_full((len(value), 1), -torch.inf)
    return value.topk(k, dim=1).values[:, -1:]


def may_own(overlap: Range) -> Tensor:
    """TAL-CONF-1: the ground truths (M, A) whose overlap can be the largest of their anchor's column."""
    return overlap.high >= overlap.low.amax(0)


@dataclass(frozen=True)
class Ownership:
    """An assignment as its outputs show it.

    Attributes:
        foreground: (A,) bool.
        index: (A,) int64 owner; read on foreground alone.
    """

    foreground: Tensor
    index: Tensor

    def positives(self, truths: int) -> Tensor:
        """(M, A) which ground truth owns which anchor."""
        rows = torch.arange(truths, device=self.index.device)[:, None]  # (M, 1)
        return (rows == self.index) & self.foreground


@dataclass(frozen=True)
class TopK2Rule:
    """TAL-CONF-2: what each ground truth keeps of the anchors that are its own after TAL-CONF-1.

    Attributes:
        metric: (M, A) ranges of the metric that decides.
        k: places that each ground truth takes in that second top-k, `topk2`; zeros of the whole row compete again.
    """

    metric: Range
    k: int

    def may_be_dropped(self, kept: Tensor) -> Tensor | None:
        """The anchors (M, A) that a ground truth may have owned and dropped, where it kept these (M, A).

        A full row drops what is no better than all that it kept; one that is not full was filled up with zeros, and
        drops zeros alone. None where a row kept more than `k`.
        """
        count = kept.sum(1, keepdim=True)  # (M, 1)
        if (count > self.k).any():
            return None
        worst = self.metric.high.where(kept, torch.inf).amin(1, keepdim=True)  # (M, 1) of those kept
        return (self.metric.low <= worst.where(count == self.k, 0)) & ~kept.any(0)

    @property
    def most_dropped(self) -> int:
        """Anchors that a ground truth can have dropped at most: the k places that it took are others."""
        return self.metric.low.shape[1] - self.k


def is_reachable(
    selection: Selection, owner_may_be: Tensor, owners: Ownership, keeps: TopK2Rule | None = None
) -> bool:
    """Whether some admissible selection leads to these owners (TAL-CONF-1, and TAL-CONF-2 where `keeps` is given).

    An anchor that no ground truth selects is background; one that a single ground truth selects is its own; one that
    several select belongs to any ground truth with the largest overlap. With TAL-CONF-2 a background anchor may also
    have been somebody's and dropped. The first try is the smallest selection that these rules force; where it has
    the wrong size the joint question, rows against columns, is decided exactly as a 0/1 feasibility problem.

    For exact values the answer is exact. For ranges it accepts what it must and sometimes more: it takes `selection`
    at its word (see `top_k_choices`), and asks of each value alone whether it can be as needed, not of all at once.
    """
    owned = owners.positives(len(selection.must))  # (M, A)
    foreground = owners.foreground
    dropped = torch.zeros_like(owned) if keeps is None else keeps.may_be_dropped(owned)
    if dropped is None:
        return False
    could_own = torch.where(foreground, owned, dropped & (owner_may_be | selection.may))  # (M, A)
    alone = ~(owner_may_be & could_own).any(0)  # (A,) must have been selected by its owner and nobody else
    may = selection.may & torch.where(alone, could_own, could_own.any(0))
    if (selection.must & ~may).any() or (foreground & ~may.any(0)).any():
        return False
    forced = selection.must | (owned & may)  # (M, A)
    claims = forced.sum(0)  # (A,)
    settled = could_own & torch.where(
        claims > 1, owner_may_be, forced
    )  # (M, A) who owns it if no more is selected
    enough = settled.any(0) | ((claims == 0) & ~foreground)  # (A,)
    counts, lost = forced.sum(1), (claims > 0) & ~foreground
    fits = (counts >= selection.min_count) & (counts <= selection.max_count)  # (M,)
    if enough.all() and fits.all() and (keeps is None or lost.sum() <= keeps.most_dropped):
        return True
    most_dropped = 0 if keeps is None else keeps.most_dropped
    return _feasible(replace(selection, may=may), owner_may_be, could_own, foreground, most_dropped)


def _feasible(
    selection: Selection, owner_may_be: Tensor, could_own: Tensor, foreground: Tensor, most_dropped: int
) -> bool:
    """Is there a selection x, must <= x <= may, with row sums in [fewest, most], that leads to such owners?

    p says who owns an anchor before TAL-CONF-2: it is within `could_own`, and on the foreground it is somebody. An
    owner has selected its anchor, and is the only one if it has not the largest overlap; or it has the largest overlap,
    and two others have selected it (y). All are 0 or 1; SciPy's mixed-integer solver (HiGHS) decides.
    """
    columns = selection.may.any(0).nonzero().flatten()  # nobody may select any other
    if not len(columns):
        return bool((selection.min_count <= 0).all())
    from scipy.optimize import Bounds, LinearConstraint, milp  # half a second to import, and rarely needed
    from scipy.sparse import diags_array, kron

    must, may, largest, owner, somebody = (
        mask[..., columns].cpu().numpy().astype(float)
        for mask in (selection.must, selection.may, owner_may_be, could_own, foreground)
    )
    rows, anchors = may.shape
    cells, per_anchor, per_row = (diags_array(np.ones(count)) for count in (may.size, anchors, rows))
    along = kron(per_row, np.ones((1, anchors)))  # sums over a ground truth's anchors
    down = kron(np.ones((1, rows)), per_anchor)  # sums over an anchor's ground truths
    dropped = kron(per_row, 1 - somebody[None])
    not_largest, of_largest = (diags_array(mask.ravel()) for mask in (1 - largest, largest))
    constraints = (  # blocks of x (rows anchors), p (rows anchors) and y (anchors), lower bound, upper bound
        ((along, None, None), selection.min_count.cpu().numpy(), selection.max_count.cpu().numpy()),
        ((None, down, None), somebody, 1),
        ((None, dropped, None), 0, most_dropped),
        ((down, -rows * down, None), -np.inf, 0),  # what is selected is owned
        (
            (down, (rows - 1) * down @ not_largest, None),
            -np.inf,
            rows,
        ),  # an owner by selection is the only one
        ((cells, -cells, of_largest @ down.T), 0, np.inf),  # an owner has selected it, or
        ((down, None, -2 * per_anchor), 0, np.inf),  # two others have
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
    )
    return bool(result.success)


def _side_by_side(blocks: Sequence[Any], widths: Sequence[int]) -> Any:
    """One matrix of blocks with these widths; None is a block of zeros."""
    from scipy.sparse import csr_array, hstack

    height = next(block.shape[0] for block in blocks if block is not None)
    filled = [
        csr_array((height, width)) if block is None else block
        for block, width in zip(blocks, widths, strict=True)
    ]
    return hstack(filled, format="csr")


def assignments(
    selection: Selection, owner_may_be: Tensor, at_most: int, keeps: TopK2Rule | None = None
) -> Iterator[Ownership]:
    """The admissible assignments of one image, for implementations that do not show theirs.

    Every choice leads to one; two choices may lead to the same. Fewer than `at_most` are all there are.
    """
    rows = [_row_choices(selection, row, at_most) for row in range(len(selection.must))]
    every = (
        owners
        for picked in product(*rows)
        for settled in _settled(torch.stack(picked), owner_may_be)
        for owners in ([settled] if keeps is None else _kept(settled, keeps, at_most))
    )
    return islice(every, at_most)


def _settled(selected: Tensor, owner_may_be: Tensor) -> Iterator[Ownership]:
    """TAL-CONF-1: every way to settle a selection (M, A)."""
    contested = (selected.sum(0) > 1).nonzero().flatten().tolist()
    for winners in product(*[owner_may_be[:, anchor].nonzero().flatten().tolist() for anchor in contested]):
        index = selected.int().argmax(0)  # (A,)
        index[contested] = index.new_tensor(winners)
        yield Ownership(selected.any(0), index)


def _kept(owners: Ownership, keeps: TopK2Rule, at_most: int) -> Iterator[Ownership]:
    """TAL-CONF-2: every way to keep some of the anchors."""
    own = owners.positives(len(keeps.metric.low))  # (M, A)
    value = Range(keeps.metric.low * own, keeps.metric.high * own)
    choices = top_k_choices(value, own, own, keeps.k)
    for kept in product(*[_row_choices(choices, row, at_most) for row in range(len(own))]):
        yield Ownership(torch.stack(kept).any(0), owners.index)


def _row_choices(selection: Selection, row: int, at_most: int) -> list[Tensor]:
    """The selections that one row admits, largest first, at most so many of each size."""
    must, free = selection.must[row], (selection.may[row] & ~selection.must[row]).nonzero().flatten().tolist()
    taken = int(must.sum())
    choices = []
    for size in range(int(selection.max_count[row]) - taken, int(selection.min_count[row]) - taken - 1, -1):
        for extra in islice(combinations(free, size), at_most):
            choice = must.clone()
            choice[list(extra)] = True
            choices.append(choice)
    return choices
