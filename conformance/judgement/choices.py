"""The admissible choices of an assignment (specification section 6): what must, may and must not be selected and owned.

Values are known up to rounding, as ranges [low, high]; a range of width zero is an exact value. Where two ranges
overlap, either order is admissible (T4); where two exact values are equal, either is (T1, T2, T3).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations, islice, product
from typing import NamedTuple

import numpy as np
import torch
from scipy.optimize import Bounds, LinearConstraint, milp
from scipy.sparse import csr_array
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
        fewest: (M,) places that show at least.
        most: (M,) places that show at most.
    """

    must: Tensor
    may: Tensor
    fewest: Tensor
    most: Tensor


def top_k_choices(value: Range, shows: Tensor, may_show: Tensor, k: int) -> Selection:
    """What the k largest of each row can be, of which only those that are candidates show.

    Every row takes exactly k distinct places; those that are no candidate take part with the value zero and do not
    show. For exact values `must`, `may` and the counts together say exactly which selections are reachable (any set
    between `must` and `may` of a size between `fewest` and `most`). For ranges they are necessary, not sufficient:
    in a chain a < b < c of overlapping ranges more sets are accepted than there are orders. The error is on the side
    of accepting.

    Args:
        value: (M, A) ranges of the metric; zero off candidates.
        shows: (M, A) the place is a candidate for sure.
        may_show: (M, A) the place is a candidate, or may be one; includes `shows`.
        k: places that each row takes.
    """
    low, high = value  # (M, A)
    places = low.shape[1]
    sorted_low, sorted_high = low.sort(1).values, high.sort(1).values
    surely_above = places - torch.searchsorted(sorted_low, high.contiguous(), right=True)  # (M, A)
    perhaps_above = places - torch.searchsorted(sorted_high, low.contiguous(), right=False) - 1  # (M, A), without itself
    never, always = surely_above >= k, perhaps_above < k  # (M, A)
    must = always & shows
    may = ~never & may_show
    hidden_at_most = (~never & ~shows).sum(1)  # (M,)
    hidden_at_least = (always & ~may_show).sum(1)  # (M,)
    fewest = torch.maximum(k - hidden_at_most, must.sum(1))
    most = torch.minimum(k - hidden_at_least, may.sum(1))
    return Selection(must, may, fewest, most)


def may_own(overlap: Range) -> Tensor:
    """TAL-CONF-1: the ground truths (M, A) whose overlap can be the largest of their anchor's column."""
    return overlap.high >= overlap.low.amax(0)


@dataclass(frozen=True)
class Owners:
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


def is_reachable(selection: Selection, owner_may_be: Tensor, owners: Owners) -> bool:
    """Whether some admissible selection leads to these owners (TAL-CONF-1).

    An anchor that no ground truth selects is background; one that a single ground truth selects is its own; one that
    several select belongs to any ground truth with the largest overlap. The first try is the smallest selection that
    these rules force; where it has the wrong size the joint question, rows against columns, is decided exactly as a
    0/1 feasibility problem.
    """
    truths = len(selection.must)
    owned = owners.positives(truths)  # (M, A)
    if (selection.must & ~owners.foreground).any():
        return False
    contested_ok = (owner_may_be & owned).any(0)  # (A,) the owner may have won it
    alone = owners.foreground & ~contested_ok  # (A,) must have been selected by its owner and nobody else
    may = selection.may & torch.where(alone, owned, owners.foreground)
    if (selection.must & ~may).any() or (owners.foreground & ~may.any(0)).any():
        return False
    forced = selection.must | (owned & may)  # (M, A)
    enough = ~owners.foreground | (forced & owned).any(0) | (forced.sum(0) > 1)  # (A,)
    counts = forced.sum(1)
    if enough.all() and ((counts >= selection.fewest) & (counts <= selection.most)).all():
        return True
    return _feasible(selection.must, may, owned, selection.fewest, selection.most)


def _feasible(must: Tensor, may: Tensor, owned: Tensor, fewest: Tensor, most: Tensor) -> bool:
    """Is there a selection x, must <= x <= may, with row sums in [fewest, most], whose columns lead to `owned`?

    A foreground column holds its owner, or at least two others. That "or" takes one more 0/1 variable y a column:
    x_owner + y >= 1 and sum x >= 2 y. Solved by SciPy's mixed-integer solver (HiGHS).
    """
    columns = owned.any(0).nonzero().flatten()  # the foreground
    rows, anchors = len(may), len(columns)
    if not anchors:
        return bool((fewest <= 0).all())
    lower, upper, is_owner = (mask[:, columns].cpu().numpy().ravel() for mask in (must, may, owned))
    cell = np.arange(rows * anchors)
    column_of, row_of = cell % anchors, cell // anchors
    one = np.ones(len(cell))
    pick_y = rows * anchors + np.arange(anchors)
    width = rows * anchors + anchors
    row_sums = csr_array((one, (row_of, cell)), shape=(rows, width))
    owner_or_y = csr_array(
        (np.concatenate((is_owner.astype(float), np.ones(anchors))),
         (np.concatenate((column_of, np.arange(anchors))), np.concatenate((cell, pick_y)))),
        shape=(anchors, width),
    )  # fmt: skip
    two_if_y = csr_array(
        (np.concatenate((one, np.full(anchors, -2.0))),
         (np.concatenate((column_of, np.arange(anchors))), np.concatenate((cell, pick_y)))),
        shape=(anchors, width),
    )  # fmt: skip
    result = milp(
        np.zeros(width),
        integrality=np.ones(width),
        bounds=Bounds(np.concatenate((lower, np.zeros(anchors))), np.concatenate((upper, np.ones(anchors)))),
        constraints=[
            LinearConstraint(row_sums, fewest.cpu().numpy(), most.cpu().numpy()),
            LinearConstraint(owner_or_y, np.ones(anchors), np.inf),
            LinearConstraint(two_if_y, np.zeros(anchors), np.inf),
        ],
    )
    return bool(result.success)


def assignments(selection: Selection, owner_may_be: Tensor, at_most: int) -> Iterator[Owners]:
    """The admissible assignments of one image, at most so many, for implementations that do not show theirs."""
    rows = [_row_choices(selection, row) for row in range(len(selection.must))]
    seen: set[bytes] = set()
    for picked in islice(product(*rows), at_most):
        selected = torch.stack(picked)  # (M, A)
        contested = selected.sum(0) > 1  # (A,)
        free = contested.nonzero().flatten().tolist()
        winners = [owner_may_be[:, anchor].nonzero().flatten().tolist() for anchor in free]
        for choice in islice(product(*winners), at_most):
            index = selected.int().argmax(0)  # (A,)
            index[free] = torch.tensor(choice, dtype=index.dtype, device=index.device)
            owners = Owners(selected.any(0), index)
            key = torch.where(owners.foreground, index, -1).cpu().numpy().tobytes()
            if key not in seen:
                seen.add(key)
                yield owners


def _row_choices(selection: Selection, row: int) -> list[Tensor]:
    """The selections that one row admits, smallest first, up to a few hundred."""
    must, free = selection.must[row], (selection.may[row] & ~selection.must[row]).nonzero().flatten().tolist()
    taken = int(must.sum())
    choices = []
    for size in range(int(selection.most[row]) - taken, int(selection.fewest[row]) - taken - 1, -1):
        for extra in islice(combinations(free, size), 256):
            choice = must.clone()
            choice[list(extra)] = True
            choices.append(choice)
    return choices
