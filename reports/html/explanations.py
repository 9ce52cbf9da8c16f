"""Explanations in words of an anchor's assignment, from the values that a picture stores.

The report and `tal-conformance explain` show the same lines.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import degrees
from typing import Any, NamedTuple

from tal_reports.text import counted, listed, real, short

DIGITS = 6
"""Number of significant digits of score, overlap, metric and weight."""

DENSE_TERM = "cls"
"""The loss term to which every anchor contributes; for other terms a contribution of zero is left out."""


class Anchor(NamedTuple):
    """Position of an anchor: centre and stride in pixels, and column and row of its cell."""

    x: float
    y: float
    stride: float
    column: int
    row: int


class Pair(NamedTuple):
    """A pair of an anchor and a ground truth, which contains the anchor's centre or is assigned to the anchor.

    Attributes:
        truth: index of the ground truth.
        score, overlap, metric: predicted class score s, overlap u and alignment metric t (TAL-MET-1).
        rank: rank of t among all anchors of the ground truth, from 1; 0 if the anchor's centre is outside the ground
            truth.
        equal: number of other anchors with the same t for this ground truth.
        selected: True if the ground truth selected the anchor (TAL-TOPK-1).
        unclamped: overlap before it was clamped at 0 (IOU-1); NaN if unknown.
    """

    truth: int
    score: float
    overlap: float
    metric: float
    rank: int
    equal: int
    selected: bool
    unclamped: float = float("nan")


@dataclass(frozen=True)
class AnchorFacts:
    """The values of one anchor in a picture."""

    number: int
    where: Anchor
    box: str
    pairs: list[Pair]
    loss: Sequence[Any]
    outside: Sequence[Any] | None
    reference: Sequence[Any] | None
    implementation: Sequence[Any] | None

    @property
    def takers(self) -> list[Pair]:
        """The (ground truth, anchor) pairs of this anchor, one for each ground truth that selected it."""
        return [pair for pair in self.pairs if pair.selected]


def place(picture: dict[str, Any], number: int) -> Anchor | None:
    """Return the position of an anchor (numbered level by level, row by row), or None if it does not exist."""
    for level in picture["levels"]:
        cells = level["rows"] * level["columns"]
        if number < cells:
            row, column = divmod(number, level["columns"])
            stride = level["stride"]
            return Anchor((column + 0.5) * stride, (row + 0.5) * stride, stride, column, row)
        number -= cells
    return None


def anchor_facts(picture: dict[str, Any], number: int) -> AnchorFacts | None:
    """Return the values of an anchor, or None if the picture does not contain values of this anchor."""
    facts, where = (picture.get("anchors") or {}).get(str(number)), place(picture, number)
    if facts is None or where is None:
        return None
    sides = [
        next((rest for anchor, *rest in picture[side] or () if anchor == number), None)
        for side in ("reference", "implementation")
    ]
    unclamped = facts.get("unclamped") or [None] * len(facts["pairs"])
    pairs = [_pair(row, overlap) for row, overlap in zip(facts["pairs"], unclamped, strict=False)]
    return AnchorFacts(
        number, where, box_words(facts), pairs, facts["loss"], facts.get("outside"), sides[0], sides[1]
    )


def _pair(row: Sequence[Any], unclamped: Any) -> Pair:
    truth, score, overlap, metric, rank, equal, selected = row
    numbers = _float(score), _float(overlap), _float(metric)
    return Pair(int(truth), *numbers, int(rank), int(equal), bool(selected), _float(unclamped))


def anchor_lines(picture: dict[str, Any], number: int, who: str = "The implementation") -> list[str]:
    """Return sentences that explain an anchor's assignment; [] if the picture lacks the anchor's values.

    Args:
        picture: the field `picture` of a log line.
        number: index of the anchor.
        who: name of the implementation, at the beginning of a sentence.
    """
    anchor = anchor_facts(picture, number)
    if anchor is None:
        return []
    lines = [
        _where(picture, anchor),
        *_candidates(picture, anchor),
        *_contest(anchor),
        _result(picture, anchor),
    ]
    lines += _loss(picture, anchor) + _implementation(picture, anchor, who)
    return [line for line in lines if line]


def _where(picture: dict[str, Any], anchor: AnchorFacts) -> str:
    at = anchor.where
    return (
        f"Anchor {anchor.number} of image {picture.get('image', 0)}{_branch(picture)}: stride {at.stride:g}, column "
        f"{at.column}, row {at.row}, centre ({_n(at.x)}, {_n(at.y)}); it predicts {anchor.box}."
    )


def box_words(fields: dict[str, Any]) -> str:
    """Return corners of an upright box in words; of a rotated box its sides, its turn in degrees and its centre."""
    if not fields.get("turned"):
        x1, y1, x2, y2 = fields["box"]
        return f"({_n(x1)}, {_n(y1)})-({_n(x2)}, {_n(y2)})"
    x, y, width, height, angle = fields["turned"]
    turn = degrees(real(angle) or 0.0)
    return f"{_n(width)} x {_n(height)} px at ({_n(x)}, {_n(y)}), turned by {short(turn, 4)} degrees"


def _branch(picture: dict[str, Any]) -> str:
    """Return words that name the branch of an end-to-end head; "" for other heads."""
    return f" of branch {picture['branch']}" if picture.get("branch") else ""


def _candidates(picture: dict[str, Any], anchor: AnchorFacts) -> list[str]:
    if not anchor.pairs:
        if anchor.outside is None:
            return ["The image has no ground truth (TAL-EMPTY-1)."]
        truth, pixels = anchor.outside
        if pixels <= 0:
            border = f"the border of GT {truth}{_widened(picture, truth)}, which counts as outside"
            return [f"Its centre lies in no ground truth, but on {border} ({_inside(picture)})."]
        near = f"the nearest is GT {truth}{_widened(picture, truth)}, {_n(pixels)} px away"
        return [f"Its centre lies in no ground truth ({_inside(picture)}); {near}."]
    return [_candidate(picture, pair) for pair in anchor.pairs]


def _candidate(picture: dict[str, Any], pair: Pair) -> str:
    if not pair.rank:
        truth = f"GT {pair.truth}{_class(picture, pair.truth)}"
        overlap = f"{_measure(picture)} {_overlap(pair)}"
        return f"Not a candidate of {truth}: its centre lies outside; {overlap} (TAL-CONF-1)."
    facts = _facts(picture, pair.truth)
    numbers = f"score s {_n(pair.score)}, {_measure(picture)} {_overlap(pair)}, metric t {_n(pair.metric)}"
    state = "selected" if pair.selected else "not selected"
    return (
        f"Candidate of GT {pair.truth}{_class(picture, pair.truth)}{_widened(picture, pair.truth)}: {numbers}, "
        f"rank {pair.rank:,} by t; {_against(facts, pair, picture.get('k', 0))}: {state} (TAL-TOPK-1)."
    )


def _is_turned(picture: dict[str, Any]) -> bool:
    """Return True if the picture's ground truths are rotated boxes."""
    return any(truth.get("turned") for truth in picture["truths"])


def _inside(picture: dict[str, Any]) -> str:
    """Return the clause that decides whether a ground truth contains an anchor's centre."""
    return "OBB-CAND-1" if _is_turned(picture) else "TAL-CAND-1"


def _measure(picture: dict[str, Any]) -> str:
    """Return the name of the overlap: of rotated boxes it is the probIoU (OBB-MET-1)."""
    return "probIoU" if _is_turned(picture) else "overlap"


def _against(facts: dict[str, Any], pair: Pair, k: int) -> str:
    """Return words that compare the pair's metric t with the ground truth's k-th largest metric."""
    kth = real(facts.get("kth")) or 0.0
    gap = abs(pair.metric - kth)
    if pair.metric == 0 == kth:
        return f"the {_nth(k)} place has t 0 as well, and which anchors with t 0 fill it is not defined (T1)"
    if pair.rank <= k < pair.rank + pair.equal:
        others = counted(pair.equal, "other anchor")
        return (
            f"{others} with the same t at the {_nth(k)} place: which of them is selected is not defined (T1)"
        )
    if kth == 0:
        return f"fewer than k = {k} anchors have t above 0 for GT {pair.truth}"
    if gap == 0:
        return f"it has the {_nth(k)} place, the last one to be selected"
    return f"t is {_n(gap)} {'above' if pair.metric > kth else 'below'} the {_nth(k)} place's {_n(kth)}"


def _contest(anchor: AnchorFacts) -> list[str]:
    """Return sentences that say which ground truth won the contested anchor, and why (TAL-CONF-1)."""
    takers = anchor.takers
    if len(takers) < 2:
        return []
    named = listed([f"GT {pair.truth}" for pair in sorted(takers)])
    ordered = sorted(anchor.pairs, key=lambda pair: -pair.overlap)
    best, second = ordered[0], ordered[1]
    owner = anchor.reference[0] if anchor.reference else None
    if best.overlap == 0:
        return [f"Selected by {named}, with overlap 0: the image's first ground truth owns it (TAL-CONF-1)."]
    if best.overlap == second.overlap:
        return [
            (
                f"Selected by {named}. GT {best.truth} and GT {second.truth} overlap it equally, and which of them "
                f"owns it is not defined (T2): here GT {owner}."
            )
        ]
    unselected = "" if best.selected else ", although it did not select it"
    return [
        (
            f"Selected by {named}: contested. GT {best.truth} overlaps it most, u {_n(best.overlap)}, "
            f"{_n(best.overlap - second.overlap)} more than GT {second.truth}, and wins{unselected} (TAL-CONF-1)."
        )
    ]


def _result(picture: dict[str, Any], anchor: AnchorFacts) -> str:
    if anchor.reference is None:
        if anchor.takers:
            limit = f"keeps the best topk2 = {picture.get('kept')} of its anchors, not this one"
            return f"Its ground truth {limit} (TAL-CONF-2): background, weight 0."
        return "Background: no ground truth selected it, and its target scores are all 0."
    truth, weight = anchor.reference
    facts = _facts(picture, truth)
    pair = next((pair for pair in anchor.pairs if pair.truth == truth), None)
    metric = 0.0 if pair is None else pair.metric
    best = f"t {_n(metric)} × u* {_n(facts.get('best_overlap'))} / (t* {_n(facts.get('best_metric'))} + 1e-9)"
    return f"Assigned to GT {truth} with weight {_n(weight)} = {best} (TAL-NORM-1)."


def _loss(picture: dict[str, Any], anchor: AnchorFacts) -> list[str]:
    items = picture.get("items") or {}
    parts = []
    for name, value in zip(items, anchor.loss, strict=False):
        part, whole = real(value), real(items.get(name))
        if part is not None and (part or name == DENSE_TERM):
            share = f" ({_percent(part / whole)} of it)" if whole else ""
            parts.append(f"{name} {_n(part)}{share}")
    return [f"It adds to the batch's loss: {', '.join(parts)}."] if parts else []


def _implementation(picture: dict[str, Any], anchor: AnchorFacts, who: str) -> list[str]:
    if picture["implementation"] is None:
        return []
    expected, observed = anchor.reference, anchor.implementation
    if expected is None and observed is None:
        return [f"{who}: also background."]
    result = "background" if observed is None else f"GT {observed[0]} with weight {_n(observed[1])}"
    agrees = expected is not None and observed is not None and expected[0] == observed[0]
    return [f"{who}{'' if agrees else ' differs'}: {result}."]


def truth_lines(picture: dict[str, Any], number: int) -> list[str]:
    """Return a line for each anchor that ground truth `number` selected, won, or lost to another ground truth."""
    truth, facts = picture["truths"][number], _facts(picture, number)
    image = f"{picture.get('image', 0)}{_branch(picture)}"
    what = f"GT {number}{_class(picture, number)} of image {image}: {box_words(truth)}"
    if not truth.get("real", True):
        summed = "coordinates, sides and angle" if truth.get("turned") else "corner coordinates"
        clause = "OBB-ANN-3" if truth.get("turned") else "ANN-3"
        return [f"{what}. The sum of its {summed} is not above 0: it is dropped ({clause})."]
    k = picture.get("k", 0)
    candidates = facts.get("candidates", 0)
    if real(facts.get("kth")) == 0:
        selection = f"fewer than k = {k} of them with t above 0: these are selected, and anchors with t 0 fill up (T1)"
    else:
        selection = f"of which the {k} with the largest t are selected"
    lines = [
        f"{what}{_widened(picture, number)}.",
        f"{counted(candidates, 'candidate')} ({_inside(picture)}), {selection} (TAL-TOPK-1):",
    ]
    anchors = [
        anchor
        for key in picture.get("anchors") or {}
        if (anchor := anchor_facts(picture, int(key))) is not None
    ]
    rows = [(pair, anchor) for anchor in anchors for pair in anchor.pairs if pair.truth == number]
    for pair, anchor in sorted(rows, key=lambda row: (row[0].rank, row[1].number)):
        lines.append(_row(pair, anchor, number))
    best = f"best t* {_n(facts.get('best_metric'))}, best u* {_n(facts.get('best_overlap'))}"
    lines.append(f"{counted(facts.get('positives', 0), 'positive')} in the end: {best} (TAL-NORM-1).")
    return lines


def _row(pair: Pair, anchor: AnchorFacts, number: int) -> str:
    numbers = f"s {_n(pair.score)}, {_overlap(pair)}, t {_n(pair.metric)}"
    owner = anchor.reference
    if owner is not None and owner[0] == number:
        state = f"weight {_n(owner[1])}" + ("" if pair.selected else ", won without being selected")
    elif not pair.selected:
        state = "not selected"
    elif owner is None:
        state = "selected, then dropped (TAL-CONF-2)"
    else:
        rival = next((other for other in anchor.pairs if other.truth == owner[0]), None)
        u = "" if rival is None else f", whose u is {_n(rival.overlap)}"
        state = f"lost to GT {owner[0]}{u} (TAL-CONF-1)"
    cell = f"stride {anchor.where.stride:g}, column {anchor.where.column}, row {anchor.where.row}"
    return f"  {pair.rank or '–':>4}. anchor {anchor.number} ({cell}): {numbers}: {state}"


def _overlap(pair: Pair) -> str:
    """Return the overlap u in words, and its value before the clamp if the clamp changed it (TAL-MET-1)."""
    before = f" ({_n(pair.unclamped)} before the clamp)" if pair.unclamped < 0 <= pair.overlap else ""
    return f"u {_n(pair.overlap)}{before}"


def _facts(picture: dict[str, Any], truth: int) -> dict[str, Any]:
    facts = picture.get("facts") or []
    return facts[truth] if truth < len(facts) else {}


def _class(picture: dict[str, Any], truth: int) -> str:
    label = picture["truths"][truth].get("label") if truth < len(picture["truths"]) else None
    return "" if label is None else f" (class {label})"


def _widened(picture: dict[str, Any], truth: int) -> str:
    facts = _facts(picture, truth)
    if facts.get("widened") is None:
        return ""
    clause = "OBB-CAND-1" if facts.get("turned") else "TAL-CAND-2"
    return f", widened to {box_words({'box': facts['widened'], 'turned': facts.get('turned')})} ({clause})"


def _percent(share: float) -> str:
    percent = 100 * share
    return f"{percent:.0f} %" if percent >= 9.5 else f"{percent:.2g} %"


def _nth(k: int) -> str:
    ending = "th" if k % 100 in (11, 12, 13) else {1: "st", 2: "nd", 3: "rd"}.get(k % 10, "th")
    return f"{k}{ending}"


def _float(value: Any) -> float:
    number = real(value)
    return float("nan") if number is None else number


def _n(value: Any) -> str:
    return short(value, DIGITS)


def short_line(picture: dict[str, Any], number: int) -> str:
    """Return the values of anchor `number` in a few words, as its tooltip."""
    anchor = anchor_facts(picture, number)
    if anchor is None or not anchor.pairs:
        return "in no ground truth"
    return "; ".join(
        f"GT {pair.truth}: s {short(pair.score)}, u {short(pair.overlap)}, t {short(pair.metric)}, rank {pair.rank}"
        for pair in anchor.pairs
    )
