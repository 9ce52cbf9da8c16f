"""The walkthrough page: every stage of the assigner on one photograph, drawn from walkthrough.json."""

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
"""Maximum size in bytes of a walkthrough.json that is read."""
PALETTE = 8
TERMS = ("box", "cls", "dfl")
"""Names of the loss terms, in the order of the columns in walkthrough.json."""
SIDES = ("left", "top", "right", "bottom")
MAX_ROWS = 8
"""Maximum number of rows of a table."""
MAX_BARS = 24
"""Maximum number of candidates in the bar chart of alignment metrics t."""
MIN_DRAWN, MIN_TITLED = 0.002, 0.2
"""A disc is drawn, or has a tooltip, if its value is above these shares of the largest value."""
MIN_DISC = 0.7
"""Smallest radius of a disc, in pixels."""


@dataclass(frozen=True)
class Shape:
    """A rectangle (x, y, width, height) or a disc (x, y, radius), whose `kind` the style sheet defines.

    Attributes:
        kind: `box`, `predicted`, `disc`, `line` or `cell`.
        numbers: position and size, in pixels of the photograph.
        colour: index of the ground truth whose colour the shape has, or None.
        strength: opacity, 0 to 1.
        text: label in the middle of the shape.
        title: tooltip.
    """

    kind: str
    numbers: Sequence[float]
    colour: int | None = None
    strength: float = 1.0
    text: str = ""
    title: str = ""


@dataclass(frozen=True)
class Scene:
    """Shapes over the photograph, with a caption."""

    caption: str
    shapes: list[Shape]


@dataclass(frozen=True)
class Bars:
    """A bar chart.

    Attributes:
        caption: sentence below the chart.
        heights: for each bar its height (0 to 1), True if it is highlighted, and its tooltip.
        mark: position of a vertical line (0 to 1), or None.
        axis: name of the horizontal axis.
    """

    caption: str
    heights: list[tuple[float, bool, str]]
    mark: float | None = None
    axis: str = ""


@dataclass(frozen=True)
class Step:
    """One stage: clauses, explanation, and the values on the photograph as scenes, bar charts and a table."""

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
    """The photograph, and all steps, which draw shapes over the photograph."""

    photo: str | None
    width: float
    height: float
    origin: str
    batch: str
    steps: list[Step]


def read_walkthrough(folder: Path) -> tuple[Walkthrough | None, str | None]:
    """Return (walkthrough, None), or (None, description of the fault) for an invalid file; (None, None) if missing."""
    path = folder / NAME
    if not path.is_file():
        return None, None
    try:
        if path.stat().st_size > MAX_FILE_BYTES:
            return None, f"{NAME} is too large to be read"
        data = json.loads(path.read_bytes().decode())
        wrong = fault(data, "walkthrough") or fault(data["picture"], "log", "picture") or _broken(data)
        return (None, f"{NAME}: {wrong}") if wrong else (walk(data), None)
    except (OSError, ValueError, TypeError, RecursionError, LookupError, ArithmeticError) as error:
        return None, f"{NAME} cannot be read: {error!s:.200}"


def _broken(data: dict[str, Any]) -> str | None:
    """Return a description of the first fault in the data, such as an index out of range; None if valid."""
    picture, truths = data["picture"], len(data["picture"]["truths"])
    anchors = [data["anchor"], *(row[0] for row in data["candidates"])]
    anchors += [row["anchor"] for row in data["conflict"]["anchors"]]
    owners = [data["truth"], *(row["owner"] for row in data["conflict"]["anchors"])]
    owners += [owner for row in data["conflict"]["anchors"] for owner, _ in row["overlaps"]]
    for moment in data["moments"]:
        anchors += [row[0] for row in moment["positives"]]
        owners += [row[1] for row in moment["positives"]]
    if any(place(picture, anchor) is None for anchor in anchors):
        return "the file names an anchor that does not exist"
    if any(owner >= truths for owner in owners) or not (
        len(data["names"]) == truths == len(data["loss"]["truths"])
    ):
        return "the file names a ground truth that does not exist"
    cells = data["static"]["cells"] if data["static"] else []
    if any(row[0] >= truths or row[1] >= len(picture["levels"]) for row in cells):
        return "the file names a cell that does not exist"
    return None


def walk(data: dict[str, Any]) -> Walkthrough:
    """Return the walkthrough with all steps, from the data of walkthrough.json."""
    picture = data["picture"]
    makers = (_image, _decode, _candidates, _metric, _top_k, _conflict, _targets, _weights, _loss, _static)
    steps = [step for make in makers if (step := make(data)) is not None]
    return Walkthrough(
        data["photo"], picture["width"], picture["height"], data["origin"], data["batch"], steps
    )


def _gt(data: dict[str, Any], number: int) -> str:
    return f"GT {number} ({data['names'][number]})"


def _at(data: dict[str, Any], number: int) -> Anchor:
    anchor = place(data["picture"], number)
    if anchor is None:
        raise ValueError(
            f"the walkthrough names anchor {number}, but the picture has no anchor of this number"
        )
    return anchor


def _truths(data: dict[str, Any], only: int | None = None) -> list[Shape]:
    """Return the outlines of all ground truths, or only of ground truth `only`."""
    return [
        Shape("box", _sides(truth["box"]), number, text=f"GT {number}", title=_gt(data, number))
        for number, truth in enumerate(data["picture"]["truths"])
        if only in (None, number)
    ]


def _sides(box: Sequence[float]) -> list[float]:
    return [box[0], box[1], max(box[2] - box[0], 0.0), max(box[3] - box[1], 0.0)]


def _disc(data: dict[str, Any], number: int, colour: int | None, share: float = 1.0, **more: Any) -> Shape:
    """Return a disc at an anchor; `share` is the disc's area divided by the area of the anchor's cell."""
    anchor = _at(data, number)
    radius = max(0.48 * anchor.stride * math.sqrt(max(share, 0.0)), MIN_DISC)
    return Shape("disc", [anchor.x, anchor.y, radius], colour, **more)


def _image(data: dict[str, Any]) -> Step:
    picture = data["picture"]
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
        f"Followed below: {_gt(data, data['truth'])}, and anchor {data['anchor']}, the best of its anchors.",
    ]
    return Step(
        "image",
        "The image and its ground truths",
        "ANN-1, ANC-1",
        text,
        [Scene("Ground truths", _truths(data))],
    )


def _decode(data: dict[str, Any]) -> Step:
    decode, anchor = data["decode"], _at(data, data["anchor"])
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
    shapes = [*_truths(data, data["truth"]), Shape("predicted", _sides(box), title="predicted box")]
    ends = ((box[0], anchor.y), (anchor.x, box[1]), (box[2], anchor.y), (anchor.x, box[3]))
    shapes += [
        Shape("line", [anchor.x, anchor.y, *end], title=side) for side, end in zip(SIDES, ends, strict=True)
    ]
    shapes.append(
        Shape("disc", [anchor.x, anchor.y, 0.2 * stride], data["truth"], title=f"anchor {data['anchor']}")
    )
    left, top, right, bottom = (short(distance, 4) for distance in decode["distances"])
    x, y = (short(number, 4) for number in decode["centre"])
    text = [
        (
            f"The network gives anchor {data['anchor']} a distribution over {len(decode['shares'][0])} bins "
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


def _candidates(data: dict[str, Any]) -> Step:
    truth, rows = data["truth"], data["candidates"]
    strides = Counter(_at(data, row[0]).stride for row in rows)
    by_level = listed([f"{count:,} at stride {stride:g}" for stride, count in sorted(strides.items())])
    discs = [_disc(data, row[0], truth, 0.15) for row in rows]
    text = [
        (
            f"An anchor is a candidate of {_gt(data, truth)} if its centre lies inside the box on all four sides: "
            f"{counted(len(rows), 'candidate')}, {by_level}. No other anchor can be assigned to it."
        )
    ]
    widened = (data["picture"].get("facts") or [{}] * (truth + 1))[truth].get("widened")
    if widened:
        text.append("Its box is smaller than the floor, and widened for this step alone (TAL-CAND-2).")
    return Step(
        "candidates", "Candidates", "TAL-CAND-1", text, [Scene("Candidates", [*_truths(data, truth), *discs])]
    )


def _metric(data: dict[str, Any]) -> Step:
    truth, rows = data["truth"], data["candidates"]
    scenes = []
    for at, symbol, name in ((1, "s", "score s of its class"), (2, "u", "overlap u"), (3, "t", "metric t")):
        top = max((row[at] for row in rows), default=0.0) or 1.0
        seen = [row for row in rows if row[at] > MIN_DRAWN * top]
        discs = [
            _disc(data, row[0], truth, row[at] / top, title=f"anchor {row[0]}: {symbol} {short(row[at])}")
            if row[at] > MIN_TITLED * top
            else _disc(data, row[0], truth, row[at] / top)
            for row in seen
        ]
        scenes.append(Scene(f"Area: {name}, up to {short(top)}", [*_truths(data, truth), *discs]))
    text = [
        (
            "The metric measures how well each candidate already predicts this object: s is its score for the "
            "right class, u the CIoU of its box with the ground truth. The metric t = s^0.5 u^6 is high only if "
            "both are high: an anchor with a good box and a low score, or the reverse, should not learn more of "
            "this object."
        )
    ]
    return Step("metric", "Alignment metric", "TAL-MET-1", text, scenes)


def _top_k(data: dict[str, Any]) -> Step:
    truth, rows, k = data["truth"], data["candidates"], data["picture"].get("k", 10)
    top = max((row[3] for row in rows), default=0.0) or 1.0
    heights = [
        (row[3] / top, rank < k, f"rank {rank + 1}, anchor {row[0]}: t {short(row[3])}")
        for rank, row in enumerate(rows[:MAX_BARS])
    ]
    discs = [
        _disc(data, row[0], truth, 0.8, text=str(rank + 1), title=f"anchor {row[0]}")
        for rank, row in enumerate(rows[:k])
    ]
    rest = [_disc(data, row[0], None, 0.06) for row in rows[k:]]
    text = [
        f"{_gt(data, truth)} takes the {k} anchors with the largest t, "
        + (
            f"here from {short(rows[0][3])} down to {short(rows[k - 1][3])}; the next one has "
            f"{short(rows[k][3])}."
            if len(rows) > k
            else f"but has only {counted(len(rows), 'candidate')}."
        )
    ]
    bars = [Bars(f"t of the best {len(heights)} candidates; dark: selected", heights, None, "rank")]
    return Step(
        "top-k",
        "Top k",
        "TAL-TOPK-1",
        text,
        [Scene("Selected", [*_truths(data, truth), *rest, *discs])],
        bars,
    )


def _conflict(data: dict[str, Any]) -> Step:
    conflict = data["conflict"]
    found = conflict["anchors"]
    counts = listed([f"{count} at step {step}" for step, count in conflict["counts"]])
    text = [
        (
            "Ground truths close to each other may select the same anchor. The anchor is then assigned to the "
            "ground truth that its box overlaps most."
        )
    ]
    text.append(
        f"Number of such anchors on this image: {counts}. The picture has those of step {conflict['step']}."
        if found
        else f"On this image no anchor was selected twice ({counts})."
    )
    shapes = _truths(data) + [
        _disc(data, row["anchor"], row["owner"], text=str(row["owner"]), title=f"anchor {row['anchor']}")
        for row in found
    ]
    rows = [
        [
            str(row["anchor"]),
            *(listed([f"{_gt(data, g)}: u {short(u)}" for g, u in row["overlaps"]]), _gt(data, row["owner"])),
        ]
        for row in found[:MAX_ROWS]
    ]
    scenes = (
        [Scene("Contested anchors, with the number of the ground truth that owns them", shapes)]
        if found
        else []
    )
    columns = ["anchor", "selected by", "assigned to"] if rows else []
    return Step("conflict", "Conflict", "TAL-CONF-1", text, scenes, [], columns, rows)


def _targets(data: dict[str, Any]) -> Step:
    positives = data["picture"]["reference"]
    counts = Counter(owner for _, owner, _ in positives)
    shapes = _truths(data) + [
        _disc(data, anchor, owner, text=str(owner), title=f"anchor {anchor}: {_gt(data, owner)}")
        for anchor, owner, _ in positives
    ]
    anchors = sum(level["rows"] * level["columns"] for level in data["picture"]["levels"])
    shares = [f"{_gt(data, truth)} has {counts[truth]}" for truth in range(len(data["names"]))]
    text = [
        (
            f"{counted(len(positives), 'anchor')} of {anchors:,} are positive: each has the class and the box of "
            f"its ground truth as its target ({listed(shares)}). "
            "All other anchors are background: their target scores are 0."
        )
    ]
    return Step(
        "targets", "Targets", "TAL-TGT-1", text, [Scene("Positives, with their ground truth", shapes)]
    )


def _weights(data: dict[str, Any]) -> Step:
    truth, facts = data["truth"], (data["picture"].get("facts") or [])
    weights = {anchor: weight for anchor, owner, weight in data["picture"]["reference"] if owner == truth}
    shapes = _truths(data) + [
        _disc(data, anchor, owner, weight, title=f"anchor {anchor}: weight {short(weight)}")
        for anchor, owner, weight in data["picture"]["reference"]
    ]
    best = facts[truth] if truth < len(facts) else {}
    text = [
        (
            "The weight of a positive is its t over the best t of its ground truth, times the best overlap: "
            f"w = t u* / t*. For {_gt(data, truth)} t* is {short(best.get('best_metric'))} and u* "
            f"{short(best.get('best_overlap'))}: the target score of its best anchor is the best overlap, and those "
            "of its other anchors are lower. The better the network predicts, the higher its target scores: this "
            "makes the assignment dynamic."
        )
    ]
    rows = [
        [str(anchor), short(s), short(u), short(t), short(weights[anchor])]
        for anchor, s, u, t in data["candidates"]
        if anchor in weights
    ][:MAX_ROWS]
    columns = ["anchor", "s", "u", "t", "weight w"]
    return Step("weights", "Weights", "TAL-NORM-1", text, [Scene("Area: weight", shapes)], [], columns, rows)


def _loss(data: dict[str, Any]) -> Step:
    loss = data["loss"]
    named = [(_gt(data, number), row) for number, row in enumerate(loss["truths"])] + [
        ("background", loss["background"])
    ]
    total = [sum(row[at] for _, row in named) for at in range(len(TERMS))]
    rows = [[name, *map(short, row), short(sum(row))] for name, row in [*named, ("this image", total)]]
    text = [
        (
            "The cls term compares the scores of every anchor with its target scores. The box term (CIoU) and the "
            "dfl term (the two bins around each side's distance) count positives only, multiplied by their weights. "
            "Each term is divided by the sum of the batch's target scores, here "
            f"{short(max(loss['score_sum'], 1.0))}, and multiplied by its gain: 7.5, 0.5 and 1.5."
        ),
        "Contributions of each ground truth's positives to the three numbers that a training logs:",
    ]
    return Step(
        "loss", "Loss terms", "LOSS-SUM-1, LOSS-CLS-1, LOSS-BOX-1, LOSS-DFL-1, LOSS-GAIN-1", text, [], [],
        ["part", *TERMS, "sum"], rows,
    )  # fmt: skip


def _static(data: dict[str, Any]) -> Step | None:
    """Return a step that compares YOLOv5's fixed positives with two assignments; None without the data."""
    static = data["static"]
    if static is None:
        return None
    scenes = [Scene("YOLOv5, at every step", [*_truths(data), *_cells(data, static["cells"])])]
    for moment in data["moments"]:
        discs = [
            _disc(data, anchor, owner, max(weight, 0.15)) for anchor, owner, weight in moment["positives"]
        ]
        scenes.append(Scene(f"YOLOv8 at step {moment['step']}", [*_truths(data), *discs]))
    chosen: Counter[int] = Counter()
    for truth, *_, shapes in static["cells"]:
        chosen[truth] += shapes
    counts = [Counter(owner for _, owner, _ in moment["positives"]) for moment in data["moments"]]
    rows = [
        [_gt(data, number), str(chosen[number]), *(str(count[number]) for count in counts)]
        for number in range(len(data["names"]))
    ]
    boxes = listed([f"{len(level['sides'])} at stride {level['stride']:g}" for level in static["boxes"]])
    text = [
        (
            f"YOLOv5 has anchor boxes of fixed shapes ({boxes}). A ground truth is assigned to the anchor boxes "
            f"whose width and height differ from its own by a factor below {static['ratio']:g}, in the cell that "
            "contains its centre and in the two nearest neighbours of that cell. The article describes it as a "
            "threshold of 0.5 on the overlap of anchor box and ground truth. In either form the assignment is "
            "static: it is fixed before training and does not depend on the network's predictions."
        ),
        (
            "The task-aligned assigner depends on the predictions: as the network learns, it selects other anchors, "
            "with other weights."
        ),
    ]
    if len(data["moments"]) > 1:
        text.append(_learnt(data["moments"]))
    columns = ["positives of", "YOLOv5", *(f"YOLOv8, step {moment['step']}" for moment in data["moments"])]
    return Step("static", "How YOLOv5 would have chosen", "", text, scenes, [], columns, rows)


def _learnt(moments: Sequence[dict[str, Any]]) -> str:
    first, last = moments[0], moments[-1]
    common = {row[0] for row in first["positives"]} & {row[0] for row in last["positives"]}
    return (
        f"From step {first['step']} to step {last['step']} of {last['steps']}, the batch's mean overlap of "
        f"positives went from "
        f"{short(first['overlap'], 2)} to {short(last['overlap'], 2)}; of {len(first['positives'])} positives on "
        f"this image {len(common)} are the same."
    )


def _cells(data: dict[str, Any], cells: Iterable[Sequence[int]]) -> list[Shape]:
    levels = data["picture"]["levels"]
    shapes = []
    for truth, level, column, row, boxes in cells:
        stride = levels[level]["stride"]
        where = f"cell ({column}, {row}) at stride {stride:g}"
        title = f"{_gt(data, truth)}: {where}, {counted(boxes, 'anchor box', 'anchor boxes')}"
        shapes.append(Shape("cell", [column * stride, row * stride, stride, stride], truth, title=title))
    return shapes
