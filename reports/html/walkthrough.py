"""The walkthrough: one photograph through every stage of the assigner, drawn from walkthrough.json."""

import json
import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tal_reports.html.explanations import Anchor, place
from tal_reports.log.schemas import fault
from tal_reports.text import counted, listed, short

NAME = "walkthrough.json"
MAX_FILE_BYTES = 4 * 2**20
"""Bytes of a walkthrough that is still read."""
PALETTE = 8
SIDES = ("left", "top", "right", "bottom")
MAX_ROWS = 8
"""Rows of a table."""
MAX_BARS = 24
"""Places of the ranking by t that are drawn."""
VISIBLE, TOLD = 0.002, 0.2
"""Shares of the largest number from which on a disc is drawn, and says what it is."""
LEAST_DISC = 0.7
"""Radius in pixels of a disc that stands for almost nothing."""


@dataclass(frozen=True)
class Shape:
    """A rectangle (x, y, width, height) or a disc (x, y, radius), of a kind that the style knows.

    Attributes:
        kind: `box`, `disc`, `line` or `cell`.
        numbers: where.
        colour: the ground truth's, or None.
        strength: 0 to 1, how opaque.
        text: in its middle.
        title: what it is.
    """

    kind: str
    numbers: Sequence[float]
    colour: int | None = None
    strength: float = 1.0
    text: str = ""
    title: str = ""


@dataclass(frozen=True)
class Scene:
    """A picture over the photograph."""

    says: str
    shapes: list[Shape]


@dataclass(frozen=True)
class Bars:
    """A bar chart: heights of 0 to 1, which of them stand out, and what is below."""

    says: str
    heights: list[tuple[float, bool, str]]
    mark: float | None = None
    axis: str = ""


@dataclass(frozen=True)
class Step:
    """One stage: its clauses, what happens in words, and how it looks here."""

    id: str
    name: str
    clauses: str
    text: list[str]
    scenes: list[Scene] = field(default_factory=list)
    bars: list[Bars] = field(default_factory=list)
    columns: list[str] = field(default_factory=list)
    rows: list[list[str]] = field(default_factory=list)


@dataclass(frozen=True)
class Walkthrough:
    """All steps, and the photograph that they are drawn over."""

    photo: str | None
    width: float
    height: float
    origin: str
    batch: str
    steps: list[Step]


def read_walkthrough(folder: Path) -> tuple[Walkthrough | None, str | None]:
    """The walkthrough that a run left, or what is wrong with it; neither, if it left none."""
    path = folder / NAME
    if not path.is_file():
        return None, None
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None, f"{NAME} is too large to be read"
        told = json.loads(path.read_bytes().decode())
        wrong = fault(told, "walkthrough") or fault(told["picture"], "log", "picture") or _broken(told)
    except (OSError, ValueError, RecursionError) as error:
        return None, f"{NAME} cannot be read: {error}"
    return (None, f"{NAME}: {wrong}") if wrong else (walk(told), None)


def _broken(told: dict[str, Any]) -> str | None:
    """What a schema cannot say: indices that point at nothing."""
    picture, truths = told["picture"], len(told["picture"]["truths"])
    anchors = [told["anchor"], *(row[0] for row in told["candidates"])]
    anchors += [row["anchor"] for row in told["conflict"]["anchors"]]
    owners = [told["truth"], *(row["owner"] for row in told["conflict"]["anchors"])]
    owners += [owner for row in told["conflict"]["anchors"] for owner, _ in row["overlaps"]]
    for moment in told["moments"]:
        anchors += [row[0] for row in moment["positives"]]
        owners += [row[1] for row in moment["positives"]]
    if any(place(picture, anchor) is None for anchor in anchors):
        return "it names an anchor that is not there"
    if any(owner >= truths for owner in owners) or not (
        len(told["names"]) == truths == len(told["loss"]["truths"])
    ):
        return "it names a ground truth that is not there"
    cells = told["static"]["cells"] if told["static"] else []
    if any(row[0] >= truths or row[1] >= len(picture["levels"]) for row in cells):
        return "it names a cell that is not there"
    return None


def walk(told: dict[str, Any]) -> Walkthrough:
    """Every step, in the article's order."""
    picture = told["picture"]
    makers = (_image, _decode, _candidates, _metric, _top_k, _conflict, _targets, _weights, _loss, _static)
    steps = [step for make in makers if (step := make(told)) is not None]
    return Walkthrough(
        told["photo"], picture["width"], picture["height"], told["origin"], told["batch"], steps
    )


def _gt(told: dict[str, Any], number: int) -> str:
    return f"GT {number} ({told['names'][number]})"


def _at(told: dict[str, Any], number: int) -> Anchor:
    anchor = place(told["picture"], number)
    assert anchor is not None  # `_broken` looked
    return anchor


def _truths(told: dict[str, Any], only: int | None = None) -> list[Shape]:
    """The ground truths, or one of them."""
    return [
        Shape("box", _sides(truth["box"]), number, text=f"GT {number}", title=_gt(told, number))
        for number, truth in enumerate(told["picture"]["truths"])
        if only in (None, number)
    ]


def _sides(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], max(box[2] - box[0], 0.0), max(box[3] - box[1], 0.0)]


def _disc(told: dict[str, Any], number: int, colour: int | None, share: float = 1.0, **more: Any) -> Shape:
    """A disc at an anchor, whose area is a share of what its level has room for."""
    anchor = _at(told, number)
    radius = max(0.48 * anchor.stride * math.sqrt(max(share, 0.0)), LEAST_DISC)
    return Shape("disc", [anchor.x, anchor.y, radius], colour, **more)


def _image(told: dict[str, Any]) -> Step:
    picture = told["picture"]
    levels = listed(
        [f"{level['columns']}×{level['rows']} cells of {level['stride']:g} px" for level in picture["levels"]]
    )
    anchors = sum(level["rows"] * level["columns"] for level in picture["levels"])
    text = [
        (
            f"The data loader hands over {counted(len(picture['truths']), 'labelled box', 'labelled boxes')}. "
            f"The network sees "
            f"{picture['width']:g}×{picture['height']:g} px and predicts at {counted(anchors, 'anchor')}: the "
            f"centres of {levels}."
        ),
        f"Followed below: {_gt(told, told['truth'])}, and anchor {told['anchor']}, the best of its anchors.",
    ]
    return Step(
        "image",
        "The image and its ground truths",
        "ANN-1, ANC-1",
        text,
        [Scene("Ground truths", _truths(told))],
    )


def _decode(told: dict[str, Any]) -> Step:
    decode, anchor = told["decode"], _at(told, told["anchor"])
    stride = decode["stride"]
    bars = []
    for side, shares, distance in zip(SIDES, decode["shares"], decode["distances"], strict=True):
        top = max(shares) or 1.0
        heights = [(share / top, False, f"bin {k}: {short(share)}") for k, share in enumerate(shares)]
        mark = distance / max(len(shares) - 1, 1)
        bars.append(
            Bars(
                f"{side}: {short(distance, 4)} cells = {short(distance * stride, 4)} px",
                heights,
                mark,
                "bins",
            )
        )
    box = [edge * stride for edge in decode["box"]]
    shapes = [*_truths(told, told["truth"]), Shape("predicted", _sides(box), title="predicted box")]
    ends = ((box[0], anchor.y), (anchor.x, box[1]), (box[2], anchor.y), (anchor.x, box[3]))
    shapes += [
        Shape("line", [anchor.x, anchor.y, *end], title=side) for side, end in zip(SIDES, ends, strict=True)
    ]
    shapes.append(
        Shape("disc", [anchor.x, anchor.y, 0.2 * stride], told["truth"], title=f"anchor {told['anchor']}")
    )
    left, top, right, bottom = (short(distance, 4) for distance in decode["distances"])
    x, y = (short(number, 4) for number in decode["centre"])
    text = [
        (
            f"The network gives anchor {told['anchor']} a distribution over {len(decode['shares'][0])} bins "
            f"for each side. "
            "A side's distance is its expectation: every bin times its share, added up (DEC-1; the line in "
            "each chart)."
        ),
        (
            f"Box in cells (DEC-2): ({x} − {left}, {y} − {top}) to ({x} + {right}, {y} + {bottom}); "
            f"times the stride, {stride:g}, in pixels."
        ),
    ]
    return Step(
        "decode",
        "Decode: from distributions to a box",
        "DEC-1, DEC-2",
        text,
        [Scene("Predicted box", shapes)],
        bars,
    )


def _candidates(told: dict[str, Any]) -> Step:
    truth, rows = told["truth"], told["candidates"]
    strides = Counter(_at(told, row[0]).stride for row in rows)
    by_level = listed([f"{count:,} at stride {stride:g}" for stride, count in sorted(strides.items())])
    discs = [_disc(told, row[0], truth, 0.15) for row in rows]
    text = [
        (
            f"An anchor is a candidate of {_gt(told, truth)} if its centre lies inside the box on all four sides: "
            f"{counted(len(rows), 'candidate')}, {by_level}. Nothing else may learn it."
        )
    ]
    widened = (told["picture"].get("facts") or [{}] * (truth + 1))[truth].get("widened")
    if widened:
        text.append("Its box is smaller than the floor, and widened for this step alone (TAL-CAND-2).")
    return Step(
        "candidates", "Candidates", "TAL-CAND-1", text, [Scene("Candidates", [*_truths(told, truth), *discs])]
    )


def _metric(told: dict[str, Any]) -> Step:
    truth, rows = told["truth"], told["candidates"]
    scenes = []
    for at, symbol, name in ((1, "s", "score s of its class"), (2, "u", "overlap u"), (3, "t", "metric t")):
        top = max((row[at] for row in rows), default=0.0) or 1.0
        seen = [row for row in rows if row[at] > VISIBLE * top]
        discs = [
            _disc(told, row[0], truth, row[at] / top, title=f"anchor {row[0]}: {symbol} {short(row[at])}")
            if row[at] > TOLD * top
            else _disc(told, row[0], truth, row[at] / top)
            for row in seen
        ]
        scenes.append(Scene(f"Area: {name}, up to {short(top)}", [*_truths(told, truth), *discs]))
    text = [
        (
            "How well does each candidate already predict this object? s is its score for the right class, u "
            "the CIoU of "
            "its box with the ground truth. The metric t = s^0.5 u^6 is high only where both are good: an "
            "anchor with a "
            "fair box and no idea of the class, or the other way round, is none that should learn more of it."
        )
    ]
    return Step("metric", "Alignment metric", "TAL-MET-1", text, scenes)


def _top_k(told: dict[str, Any]) -> Step:
    truth, rows, k = told["truth"], told["candidates"], told["picture"].get("k", 10)
    top = max((row[3] for row in rows), default=0.0) or 1.0
    heights = [
        (row[3] / top, rank < k, f"rank {rank + 1}, anchor {row[0]}: t {short(row[3])}")
        for rank, row in enumerate(rows[:MAX_BARS])
    ]
    discs = [
        _disc(told, row[0], truth, 0.8, text=str(rank + 1), title=f"anchor {row[0]}")
        for rank, row in enumerate(rows[:k])
    ]
    rest = [_disc(told, row[0], None, 0.06) for row in rows[k:]]
    text = [
        f"{_gt(told, truth)} takes the {k} anchors with the largest t, "
        + (
            f"here from {short(rows[0][3])} down to {short(rows[k - 1][3])}; the next one has "
            f"{short(rows[k][3])}."
            if len(rows) > k
            else f"and has only {counted(len(rows), 'candidate')}."
        )
    ]
    bars = [Bars(f"t of the best {len(heights)} candidates; dark: selected", heights, None, "rank")]
    return Step(
        "top-k",
        "Top k",
        "TAL-TOPK-1",
        text,
        [Scene("Selected", [*_truths(told, truth), *rest, *discs])],
        bars,
    )


def _conflict(told: dict[str, Any]) -> Step:
    conflict = told["conflict"]
    found = conflict["anchors"]
    counts = listed([f"{count} at step {step}" for step, count in conflict["counts"]])
    text = [
        (
            "Ground truths that stand close together may take the same anchor. It goes to the one that it "
            "overlaps most."
        )
    ]
    text.append(
        f"On this image that happened to so many anchors: {counts}. Shown: step {conflict['step']}."
        if found
        else f"On this image no anchor was taken twice ({counts})."
    )
    shapes = _truths(told) + [
        _disc(told, row["anchor"], row["owner"], text=str(row["owner"]), title=f"anchor {row['anchor']}")
        for row in found
    ]
    rows = [
        [
            str(row["anchor"]),
            *(listed([f"{_gt(told, g)}: u {short(u)}" for g, u in row["overlaps"]]), _gt(told, row["owner"])),
        ]
        for row in found[:MAX_ROWS]
    ]
    scenes = [Scene("Contested anchors, with the number of who got them", shapes)] if found else []
    columns = ["anchor", "taken by", "goes to"] if rows else []
    return Step("conflict", "Conflict", "TAL-CONF-1", text, scenes, [], columns, rows)


def _targets(told: dict[str, Any]) -> Step:
    positives = told["picture"]["reference"]
    counts = Counter(owner for _, owner, _ in positives)
    shapes = _truths(told) + [
        _disc(told, anchor, owner, text=str(owner), title=f"anchor {anchor}: {_gt(told, owner)}")
        for anchor, owner, _ in positives
    ]
    every = sum(level["rows"] * level["columns"] for level in told["picture"]["levels"])
    text = [
        (
            f"{counted(len(positives), 'anchor')} of {every:,} are positive: each learns the class and the box "
            f"of its ground "
            f"truth ({listed([f'{_gt(told, g)} has {counts[g]}' for g in range(len(told['names']))])}). "
            "The others are background, and learn that no class is there."
        )
    ]
    return Step(
        "targets", "Targets", "TAL-TGT-1", text, [Scene("Positives, with their ground truth", shapes)]
    )


def _weights(told: dict[str, Any]) -> Step:
    truth, facts = told["truth"], (told["picture"].get("facts") or [])
    weights = {anchor: weight for anchor, owner, weight in told["picture"]["reference"] if owner == truth}
    shapes = _truths(told) + [
        _disc(told, anchor, owner, weight, title=f"anchor {anchor}: weight {short(weight)}")
        for anchor, owner, weight in told["picture"]["reference"]
    ]
    best = facts[truth] if truth < len(facts) else {}
    text = [
        (
            "How much should a positive learn? Its t over the best t of its ground truth, times the best overlap: "
            f"w = t u* / t*. For {_gt(told, truth)} t* is {short(best.get('best_metric'))} and u* "
            f"{short(best.get('best_overlap'))}, "
            "so its best anchor must learn a score as high as the best overlap, and the others less. "
            "The better the network predicts, the higher the scores that it is asked for: that is what makes "
            "it dynamic."
        )
    ]
    rows = [
        [str(anchor), short(s), short(u), short(t), short(weights[anchor])]
        for anchor, s, u, t in told["candidates"]
        if anchor in weights
    ][:MAX_ROWS]
    columns = ["anchor", "s", "u", "t", "weight w"]
    return Step("weights", "Weights", "TAL-NORM-1", text, [Scene("Area: weight", shapes)], [], columns, rows)


def _loss(told: dict[str, Any]) -> Step:
    loss = told["loss"]
    named = [(_gt(told, number), row) for number, row in enumerate(loss["truths"])] + [
        ("background", loss["background"])
    ]
    total = [sum(row[at] for _, row in named) for at in range(3)]
    rows = [[name, *map(short, row), short(sum(row))] for name, row in [*named, ("this image", total)]]
    text = [
        (
            "Every anchor is asked for its target scores (cls); positives also for the box, by its CIoU (box) "
            "and by the two "
            "bins around each side's distance (dfl), each times its weight. All is divided by the sum of the "
            "target scores of "
            f"the batch, here {short(max(loss['score_sum'], 1.0))}, and multiplied by the gains 7.5, 0.5 and 1.5."
        ),
        "What each ground truth's positives add to the three numbers that a training logs:",
    ]
    return Step(
        "loss", "Loss terms", "LOSS-SUM-1, LOSS-CLS-1, LOSS-BOX-1, LOSS-DFL-1, LOSS-GAIN-1", text, [], [],
        ["part", "box", "cls", "dfl", "together"], rows,
    )  # fmt: skip


def _static(told: dict[str, Any]) -> Step | None:
    """How YOLOv5 would have chosen, beside this image's assignment at two steps of the training."""
    static = told["static"]
    if static is None:
        return None
    scenes = [Scene("YOLOv5, at every step", [*_truths(told), *_cells(told, static["cells"])])]
    for moment in told["moments"]:
        discs = [
            _disc(told, anchor, owner, max(weight, 0.15)) for anchor, owner, weight in moment["positives"]
        ]
        scenes.append(Scene(f"YOLOv8 at step {moment['step']}", [*_truths(told), *discs]))
    chosen: Counter[int] = Counter()
    for truth, *_, shapes in static["cells"]:
        chosen[truth] += shapes
    counts = [Counter(owner for _, owner, _ in moment["positives"]) for moment in told["moments"]]
    rows = [
        [_gt(told, number), str(chosen[number]), *(str(count[number]) for count in counts)]
        for number in range(len(told["names"]))
    ]
    boxes = listed([f"{len(level['sides'])} at stride {level['stride']:g}" for level in static["boxes"]])
    text = [
        (
            f"YOLOv5 has anchor boxes of fixed shapes ({boxes}). A ground truth is learnt by those whose width "
            f"and height "
            f"are less than {static['ratio']:g} times off, in the cell that holds its centre and in the two "
            f"nearest neighbours of "
            "that cell. The article puts it as a threshold of 0.5 on the overlap of anchor box and ground "
            "truth. Either way it "
            "is static: settled before training, whatever the network predicts."
        ),
        (
            "The task-aligned assigner asks the network: as it learns, other anchors are chosen, with other "
            "weights."
        ),
    ]
    if len(told["moments"]) > 1:
        text.append(_learnt(told["moments"]))
    columns = ["positives of", "YOLOv5", *(f"YOLOv8, step {moment['step']}" for moment in told["moments"])]
    return Step("static", "How YOLOv5 would have chosen", "", text, scenes, [], columns, rows)


def _learnt(moments: Sequence[dict[str, Any]]) -> str:
    first, last = moments[0], moments[-1]
    kept = {row[0] for row in first["positives"]} & {row[0] for row in last["positives"]}
    return (
        f"From step {first['step']} to step {last['step']} of {last['steps']}, the batch's mean overlap of "
        f"positives went from "
        f"{short(first['overlap'], 2)} to {short(last['overlap'], 2)}; of {len(first['positives'])} "
        f"positives on this image "
        f"{len(kept)} are the same."
    )


def _cells(told: dict[str, Any], cells: Iterable[Sequence[int]]) -> list[Shape]:
    levels = told["picture"]["levels"]
    shapes = []
    for truth, level, column, row, boxes in cells:
        stride = levels[level]["stride"]
        where = f"cell ({column}, {row}) at stride {stride:g}"
        title = f"{_gt(told, truth)}: {where}, {counted(boxes, 'anchor box', 'anchor boxes')}"
        shapes.append(Shape("cell", [column * stride, row * stride, stride, stride], truth, title=title))
    return shapes
