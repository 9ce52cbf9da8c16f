"""Findings on ground truths and anchors: candidates, reach of the bins, and numbers of anchors (TAL-*, LOSS-DFL-1)."""

from torch import Tensor

from tal_conformance.core.geometry import sides_to
from tal_conformance.core.selection_limits import excessive_selections
from tal_conformance.doctor.finding import Finding, Severity
from tal_conformance.doctor.inputs import Inputs
from tal_reference.varied_boxes import MEASURES

SIDES = ("left", "top", "right", "bottom")


def candidate_findings(inputs: Inputs) -> list[Finding]:
    """Return the findings on ground truths and their candidate anchors."""
    rows = inputs.real.nonzero().flatten().tolist()
    if not rows:
        return []
    found = [_too_few_anchors(inputs, len(rows))]
    if inputs.axis_aligned:
        candidates = {row: inputs.candidates(row) for row in rows}
        found += [
            _no_candidate(inputs, candidates),
            _crowded(inputs, candidates),
            _beyond_bins(inputs, candidates),
            _no_overlap(inputs, candidates),
        ]
    return [finding for finding in found if finding is not None]


def name_of(inputs: Inputs, row: int) -> str:
    """Return a ground truth in words: its row, image, and sides in pixels."""
    left, top, right, bottom = inputs.boxes[row].tolist()
    image = int(inputs.rows[row, 0])
    return f"row {row} (image {image}, {right - left:.4g}x{bottom - top:.4g} px at {left:.4g}, {top:.4g})"


def _too_few_anchors(inputs: Inputs, rows: int) -> Finding | None:
    """Return a finding if the dialect selects more anchors than an image has, and so must raise (TAL-TOPK-2)."""
    count = len(inputs.anchors[1])
    excessive = [
        (name if len(inputs.hyperparameters) == 1 else f"{name} of {branch}", k)
        for branch, numbers in inputs.hyperparameters.items()
        for name, k in excessive_selections(numbers, count, inputs.dialect).items()
    ]
    if not excessive:
        return None
    name, k = excessive[0]
    grids = ", ".join(f"{height}x{width}" for height, width in inputs.grids)
    sentence = (
        f"{name} is {k}, but an image has only {count} anchors (grids {grids}): an implementation of dialect "
        f"{inputs.dialect.name} must raise an error. Use a larger input, more levels or a smaller k"
    )
    return Finding(
        "fewer anchors than k", "TAL-TOPK-2", Severity.RAISES, sentence, rows, rows, "ground truths"
    )


def _no_candidate(inputs: Inputs, candidates: dict[int, Tensor]) -> Finding | None:
    """Return a finding about ground truths inside the image without a candidate (TAL-CAND-1, TAL-CAND-2)."""
    box = inputs.normalised
    inside = ((box[:, :2] < 1) & (box[:, 2:] > 0)).all(1)
    lonely = [row for row, found in candidates.items() if not len(found) and inside[row]]
    if not lonely:
        return None
    floor = inputs.dialect.floor(inputs.content.head.strides)[1]
    widening = f"even with sides widened to {floor} px" if floor else "and this dialect widens no side"
    sentence = (
        f"no anchor has its centre inside the ground truth of {name_of(inputs, lonely[0])}, {widening} "
        "(TAL-CAND-2): it has no candidate and is never learnt"
    )
    return Finding(
        "no candidate",
        "TAL-CAND-1",
        Severity.NOT_LEARNT,
        sentence,
        len(lonely),
        len(candidates),
        "ground truths",
    )


def _crowded(inputs: Inputs, candidates: dict[int, Tensor]) -> Finding | None:
    """Return a finding if ground truths of an image outnumber the anchors that they share (TAL-CONF-1)."""
    losers: list[int] = []
    for image in range(inputs.images):
        rows = [row for row in candidates if int(inputs.rows[row, 0]) == image and len(candidates[row])]
        losers += unmatched({row: candidates[row].tolist() for row in rows})
    if not losers:
        return None
    row = losers[0]
    image, own = int(inputs.rows[row, 0]), set(candidates[row].tolist())
    rivals = sum(
        int(inputs.rows[other, 0]) == image and bool(own & set(found.tolist()))
        for other, found in candidates.items()
    )
    sentence = (
        f"image {image} has more ground truths than anchors around {name_of(inputs, row)}: {rivals} ground truths "
        f"compete for its {len(own)} candidate{'s' * (len(own) != 1)}, and an anchor learns only one of them. At least "
        f"{len(losers)} cannot be learnt, whatever is predicted"
    )
    return Finding(
        "more ground truths than anchors", "TAL-CONF-1", Severity.NOT_LEARNT, sentence, len(losers), len(candidates),
        "ground truths",
    )  # fmt: skip


def unmatched(candidates: dict[int, list[int]]) -> list[int]:
    """Return ground truths that are left over if every anchor takes at most one of its ground truths.

    The matching is a largest one (augmenting paths), so that no assignment leaves fewer ground truths over.

    Args:
        candidates: candidate anchors of every ground truth.
    """
    owner: dict[int, int] = {}
    return [truth for truth in candidates if not _placed(truth, candidates, owner)]


def _placed(truth: int, candidates: dict[int, list[int]], owner: dict[int, int]) -> bool:
    """Give a ground truth an anchor, moving others if necessary; return False if that is impossible."""
    came_from: dict[int, int] = {}  # anchor: ground truth that reached it
    waiting = [truth]
    for current in waiting:  # grows while it is iterated: breadth first
        for anchor in candidates[current]:
            if anchor in came_from:
                continue
            came_from[anchor] = current
            if anchor in owner:
                waiting.append(owner[anchor])
                continue
            _shift(anchor, came_from, owner, truth)
            return True
    return False


def _shift(anchor: int, came_from: dict[int, int], owner: dict[int, int], truth: int) -> None:
    """Move owners along the path that ends at a free anchor, until `truth` has an anchor."""
    held = {ground_truth: place for place, ground_truth in owner.items()}
    while True:
        mover = came_from[anchor]
        owner[anchor] = mover
        if mover == truth:
            return
        anchor = held[mover]


def _beyond_bins(inputs: Inputs, candidates: dict[int, Tensor]) -> Finding | None:
    """Return a finding about ground truths with a side that no candidate's bins reach (LOSS-DFL-1)."""
    bins = inputs.content.head.reg_max
    if bins <= 1:
        return None
    farthest = {row: _nearest_reach(inputs, row, found) for row, found in candidates.items() if len(found)}
    beyond = {row: (side, anchor) for row, (side, anchor, units) in farthest.items() if units > bins - 1}
    if not beyond:
        return None
    row, (side, anchor) = next(iter(beyond.items()))
    stride = float(inputs.anchors[1][anchor])
    distance = farthest[row][2] * stride
    reach = f"{bins - 1} bin{'s' * (bins > 2)} of stride {stride:g} reach {(bins - 1) * stride:g} px"
    sentence = (
        f"the ground truth of {name_of(inputs, row)} is larger than any of its anchors can predict: even from the "
        f"best, its {SIDES[side]} side is {distance:.4g} px away, and {reach}: LOSS-DFL-1 "
        "clamps it. Use a larger stride or reg_max, or a smaller input"
    )
    return Finding(
        "beyond the bins",
        "LOSS-DFL-1",
        Severity.NOT_LEARNT,
        sentence,
        len(beyond),
        len(farthest),
        "ground truths",
    )


def _no_overlap(inputs: Inputs, candidates: dict[int, Tensor]) -> Finding | None:
    """Return a finding if no prediction of a batch overlaps its ground truth: no box is learnt (TAL-MET-1)."""
    boxes = inputs.predicted
    if boxes is None or inputs.dialect.signed_overlap:
        return None
    measure = MEASURES[inputs.dialect.overlap]
    overlaps = {
        row: measure(inputs.boxes[row].float(), boxes[int(inputs.rows[row, 0]), found])
        for row, found in candidates.items()
        if len(found)
    }
    if not overlaps or any(bool((overlap > 0).any()) for overlap in overlaps.values()):
        return None
    row, best = next((row, float(overlap.max())) for row, overlap in overlaps.items())
    sentence = (
        "no ground truth has a candidate whose predicted box overlaps it. The largest overlap of the "
        f"{len(candidates[row])} candidates of {name_of(inputs, row)} is {best:.3g}, which is clamped to 0: "
        "every alignment metric and weight is 0, and this step teaches no box. After the first steps, "
        "predictions are on another scale than the ground truths: compare strides, reg_max and initialisation"
    )
    return Finding(
        "no overlap", "TAL-MET-1", Severity.REMARK, sentence, len(overlaps), len(candidates), "ground truths"
    )


def _nearest_reach(inputs: Inputs, row: int, candidates: Tensor) -> tuple[int, int, float]:
    """Return side, anchor and distance in grid units of the farthest side, at the candidate where it is nearest."""
    centres, strides = inputs.anchors[0][candidates], inputs.anchors[1][candidates]
    sides = sides_to(inputs.boxes[row].float(), centres, strides)  # (P, 4)
    farthest, side = sides.max(1)  # (P,), (P,)
    best = int(farthest.argmin())
    return int(side[best]), int(candidates[best]), float(farthest[best])
