"""What the assigner does with a photograph, stage by stage: numbers for the report's walkthrough.

The batch is a recorded one, of a real YOLOv8n in training. Beside it stands how YOLOv5 would have chosen on the same
image: by the shapes of its anchor boxes alone, before training begins, whatever the network predicts.
"""

import base64
import json
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tal_conformance.pictures.picture import drawn
from tal_conformance.pictures.trace import ImageTrace
from tal_conformance.training.photographs import augmented, images_of
from tal_conformance.training.yolov8n import RecordedTraining
from tal_reference import NEWEST, AssignmentTrace
from tal_reports import write_whole

NAME = "walkthrough.json"
SCHEMA = 1
ENLARGED = 2
"""The photograph is shown with this many pixels for each one that the network saw, each way."""
QUALITY = 72
"""Of the JPEG."""
SHOWN = 24
"""Places of the ranking by t that are shown."""
ANCHOR_BOXES: dict[int, tuple[tuple[int, int], ...]] = {
    8: ((10, 13), (16, 30), (33, 23)),
    16: ((30, 61), (62, 45), (59, 119)),
    32: ((116, 90), (156, 198), (373, 326)),
}
"""Widths and heights in pixels of YOLOv5's anchor boxes for COCO, by stride."""
RATIO = 4.0
"""An anchor box fits a ground truth whose sides are less than this many times longer or shorter."""


@dataclass(frozen=True)
class Moment:
    """One recorded step of the training.

    Attributes:
        step: its number.
        place: of its batch among the recorded ones.
    """

    step: int
    place: int


def write_walkthrough(folder: Path, recorded: RecordedTraining) -> Path:
    """Write `walkthrough.json` into a run's folder.

    Raises:
        OSError: it cannot be written.
    """
    path = folder / NAME
    write_whole(path, json.dumps(walkthrough(recorded), separators=(",", ":")) + "\n")
    return path


def walkthrough(recorded: RecordedTraining) -> dict[str, Any]:
    """One image of a recorded batch through all stages, as `walkthrough.schema.json` says."""
    early, late = moments(recorded)
    image = busiest([list(_images(recorded, moment)) for moment in (early, late)])
    explained = ImageTrace.of(recorded.batches[late.place], image, NEWEST)
    trace = explained.trace
    assert trace is not None
    truth = most_contested(trace)
    anchor = int((trace.metric[truth] * trace.positives[truth]).argmax())
    told = dict.fromkeys([*explained.of_truth(truth), *explained.telling([anchor])])
    return {
        "schema": SCHEMA,
        "batch": explained.batch.id,
        "origin": explained.batch.origin,
        "photo": photo(recorded, late, image),
        "names": _names(explained),
        "picture": drawn(explained, None, told),
        "truth": truth,
        "anchor": anchor,
        "decode": _decoded(explained, anchor),
        "candidates": _pairs(explained, trace, truth),
        "conflict": _conflict(recorded, (early, late), image),
        "loss": _losses(explained),
        "moments": [_moment(recorded, moment, image) for moment in (early, late)],
        "static": static_choice(explained),
    }


def moments(recorded: RecordedTraining) -> tuple[Moment, Moment]:
    """The first and the last of the recorded steps that were fed with the same images, as far apart as there are."""
    pool, steps = recorded.schedule.pool, recorded.schedule.recorded
    pairs = [
        (Moment(first, at), Moment(last, to))
        for at, first in enumerate(steps)
        for to, last in enumerate(steps)
        if first <= last and first % pool == last % pool
    ]
    return max(pairs, key=lambda pair: pair[1].step - pair[0].step)


def _images(recorded: RecordedTraining, moment: Moment) -> Iterator[ImageTrace]:
    batch = recorded.batches[moment.place]
    for image in range(batch.images):
        yield ImageTrace.of(batch, image, NEWEST)


def busiest(moments: Sequence[Sequence[ImageTrace]]) -> int:
    """The image with the most contested anchors at some moment; of several, with the most ground truths."""
    every = [explained for images in moments for explained in images]
    return max(every, key=lambda explained: (len(contested(explained)), len(explained.truths))).image


def contested(explained: ImageTrace) -> list[int]:
    """The anchors that several ground truths selected (TAL-CONF-1)."""
    trace = explained.trace
    return [] if trace is None else (trace.selected.sum(0) > 1).nonzero().flatten().tolist()


def most_contested(trace: AssignmentTrace) -> int:
    """The ground truth that fights for the most anchors; of several, the one with the most candidates."""
    contested = trace.selected.sum(0) > 1  # (A,)
    fights = (trace.selected & contested).sum(1)  # (M,)
    return int((fights * (trace.candidates.shape[1] + 1) + trace.candidates.sum(1)).argmax())


def photo(recorded: RecordedTraining, moment: Moment, image: int) -> str:
    """The image that the network saw, enlarged, as a data URL."""
    from ultralytics.utils.patches import imwrite

    schedule = recorded.schedule
    slot = moment.step % schedule.pool
    height, width = schedule.sizes[slot % len(schedule.sizes)]
    images = images_of(augmented(schedule.seed + slot), (ENLARGED * height, ENLARGED * width))
    pixels = (
        (images.pixels[image] * 255).round().to(torch.uint8).flip(0).permute(1, 2, 0)
    )  # (H, W, 3) blue first
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        imwrite(str(path), pixels.contiguous().numpy(), [1, QUALITY])  # 1 is OpenCV's IMWRITE_JPEG_QUALITY
        return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def _names(explained: ImageTrace) -> list[str]:
    """What the objects are called, by the labels made by hand; of others their class."""
    known = _labelled()
    return [known.get(label, f"class {label}") for label in explained.truths.labels.tolist()]


def _labelled() -> dict[int, str]:
    from tal_conformance.training.photographs import LABELS

    photographs = json.loads(LABELS.read_text(encoding="utf-8"))["photographs"].values()
    return {thing["class"]: thing["name"] for one in photographs for thing in one["objects"]}


def _decoded(explained: ImageTrace, anchor: int) -> dict[str, Any]:
    """DEC-1 of one anchor: a distribution over the bins for each side, and its expectation in grid units."""
    predictions, bins = explained.loss.predictions, explained.batch.head.reg_max
    shares = (
        predictions.distances[explained.image, anchor].detach().double().unflatten(0, (4, bins)).softmax(-1)
    )
    distances = shares @ torch.arange(bins, dtype=torch.float64, device=shares.device)  # (4,)
    return {
        "shares": [[round(share, 5) for share in side] for side in shares.tolist()],
        "distances": _rounded(distances),
        "centre": _rounded(predictions.anchors.centres[anchor]),
        "stride": float(predictions.anchors.strides[anchor]),
        "box": _rounded(predictions.boxes[explained.image, anchor]),
    }


def _pairs(explained: ImageTrace, trace: AssignmentTrace, truth: int) -> list[list[float]]:
    """Every candidate of a ground truth with s, u and t, the largest t first: (anchor, s, u, t)."""
    anchors = trace.candidates[truth].nonzero().flatten()
    order = anchors[trace.metric[truth, anchors].argsort(descending=True, stable=True)]
    numbers = torch.stack([stage[truth, order] for stage in (trace.score, trace.overlap, trace.metric)], 1)
    return [[anchor, *_rounded(row)] for anchor, row in zip(order.tolist(), numbers, strict=True)]


def _conflict(recorded: RecordedTraining, steps: Sequence[Moment], image: int) -> dict[str, Any]:
    """The contested anchors of the moment that has most of them: the overlap of each taker, and who got it."""
    told = [(moment, ImageTrace.of(recorded.batches[moment.place], image, NEWEST)) for moment in steps]
    moment, explained = max(told, key=lambda one: len(contested(one[1])))
    trace, owner = explained.trace, explained.loss.targets[image].truth_index
    assert trace is not None
    rows = []
    for anchor in contested(explained):
        takers = trace.selected[:, anchor].nonzero().flatten().tolist()
        overlaps = [[truth, *_rounded(trace.overlap[truth, anchor][None])] for truth in takers]
        rows.append({"anchor": anchor, "overlaps": overlaps, "owner": int(owner[anchor])})
    return {"step": moment.step, "anchors": rows, "counts": [[m.step, len(contested(e))] for m, e in told]}


def _losses(explained: ImageTrace) -> dict[str, Any]:
    """What the positives of each ground truth, and the background, add to the logged box, cls and dfl."""
    facts = explained.facts(range(explained.anchors))["anchors"]
    targets = explained.loss.targets[explained.image]
    terms = torch.tensor([facts[str(anchor)]["loss"] for anchor in range(explained.anchors)])  # (A, 3)
    owners, positive = targets.truth_index.cpu(), targets.foreground.cpu()
    rows = [terms[positive & (owners == truth)].sum(0) for truth in range(len(explained.truths))]
    return {
        "truths": [_rounded(row) for row in rows],
        "background": _rounded(terms[~positive].sum(0)),
        "score_sum": float(sum(one.weights.sum() for one in explained.loss.targets)),
    }


def _moment(recorded: RecordedTraining, moment: Moment, image: int) -> dict[str, Any]:
    """What the image's assignment was at one step, and how good the network was."""
    explained = ImageTrace.of(recorded.batches[moment.place], image, NEWEST)
    progress = recorded.progress[moment.place]
    return {
        "step": moment.step,
        "steps": recorded.schedule.steps,
        "overlap": progress.overlap,
        "score": progress.score,
        "positives": drawn(explained, None, [])["reference"],
    }


def static_choice(explained: ImageTrace) -> dict[str, Any] | None:
    """Which cells YOLOv5 would have made positive; None where the head has not its strides.

    A ground truth is learnt at every level that has an anchor box of about its shape, in the cell that holds its centre
    and in the two nearest neighbours of that cell. Neither scores nor predicted boxes are looked at.
    """
    levels = list(zip(explained.batch.head.strides, explained.batch.feature_maps, strict=True))
    if any(stride not in ANCHOR_BOXES for stride, _ in levels):
        return None
    cells = []
    for truth, box in enumerate(explained.truths.boxes.tolist()):
        for number, (stride, level) in enumerate(levels):
            shapes = fitting(box, stride)
            if shapes:
                rows, columns = level.shape[2:]
                cells += [[truth, number, *cell, shapes] for cell in static_cells(box, stride, rows, columns)]
    return {
        "ratio": RATIO,
        "boxes": [
            {"stride": stride, "sides": [list(sides) for sides in ANCHOR_BOXES[stride]]}
            for stride, _ in levels
        ],
        "cells": cells,
    }


def fitting(box: Sequence[float], stride: int) -> int:
    """How many anchor boxes of a level have about the shape of a ground truth."""
    width, height = box[2] - box[0], box[3] - box[1]
    if min(width, height) <= 0:
        return 0
    ratios = [max(width / w, w / width, height / h, h / height) for w, h in ANCHOR_BOXES[stride]]
    return sum(ratio < RATIO for ratio in ratios)


def static_cells(box: Sequence[float], stride: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """Column and row of the cell that holds a box's centre, and of the nearest one beside and above or below it."""
    x, y = (box[0] + box[2]) / 2 / stride, (box[1] + box[3]) / 2 / stride
    column, row = int(x), int(y)
    beside = column - 1 if x - column < 0.5 else column + 1
    above = row - 1 if y - row < 0.5 else row + 1
    near = [(column, row), (beside, row), (column, above)]
    return [(c, r) for c, r in near if 0 <= c < columns and 0 <= r < rows]


def _rounded(row: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in row.detach().double().tolist()]
