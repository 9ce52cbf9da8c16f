"""Data of the report's walkthrough, which explains the assignment of a photograph stage by stage.

An anchor is contested if several ground truths selected it (TAL-CONF-1).

The batch was recorded in a training of YOLOv8n. For comparison, the data includes the positives of YOLOv5 on the same
image, which depend only on the shapes of its anchor boxes and not on the network's predictions.
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

from tal_conformance.pictures.trace import ImageTrace, trace_as_dict
from tal_conformance.training.photographs import augmented, images_of
from tal_conformance.training.yolov8n import RecordedTraining
from tal_reference import NEWEST, AssignmentTrace
from tal_reports import write_whole

NAME = "walkthrough.json"
SCHEMA = 1
ENLARGED = 2
"""Factor by which the photograph is enlarged in the report, compared with the network's input."""
QUALITY = 72
"""Quality of the JPEG."""
ANCHOR_BOXES: dict[int, tuple[tuple[int, int], ...]] = {
    8: ((10, 13), (16, 30), (33, 23)),
    16: ((30, 61), (62, 45), (59, 119)),
    32: ((116, 90), (156, 198), (373, 326)),
}
"""Widths and heights in pixels of YOLOv5's anchor boxes for COCO, by stride."""
RATIO = 4.0
"""Largest ratio of the sides of a ground truth and an anchor box that fits it (YOLOv5)."""


@dataclass(frozen=True)
class Moment:
    """One recorded step of the training.

    Attributes:
        step: number of the step.
        place: index of the step's batch among the recorded batches.
    """

    step: int
    place: int


def write_walkthrough(folder: Path, recorded: RecordedTraining) -> Path:
    """Write `walkthrough.json` into a run's folder.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / NAME
    write_whole(path, json.dumps(walkthrough(recorded), separators=(",", ":")) + "\n")
    return path


def walkthrough(recorded: RecordedTraining) -> dict[str, Any]:
    """Return the data of one image of a recorded batch at all stages, following `walkthrough.schema.json`."""
    early, late = moments(recorded)
    image = most_contested_image([list(_images(recorded, moment)) for moment in (early, late)])
    trace = ImageTrace.of(recorded.batches[late.place], image, NEWEST)
    stages = trace.trace
    assert stages is not None
    truth = most_contested_truth(stages)
    anchor = int((stages.metric[truth] * stages.positives[truth]).argmax())
    anchors = dict.fromkeys([*trace.relevant_anchors_of(truth), *trace.most_relevant_anchors([anchor])])
    return {
        "schema": SCHEMA,
        "batch": trace.batch.id,
        "origin": trace.batch.origin,
        "photo": photo(recorded, late, image),
        "names": _names(trace),
        "picture": trace_as_dict(trace, None, anchors),
        "truth": truth,
        "anchor": anchor,
        "decode": _decoded(trace, anchor),
        "candidates": _pairs(trace, stages, truth),
        "conflict": _conflict(recorded, (early, late), image),
        "loss": _losses(trace),
        "moments": [_moment(recorded, moment, image) for moment in (early, late)],
        "static": static_choice(trace),
    }


def moments(recorded: RecordedTraining) -> tuple[Moment, Moment]:
    """Return the two recorded steps on the same images that are farthest apart, the earlier step first."""
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


def most_contested_image(moments: Sequence[Sequence[ImageTrace]]) -> int:
    """Return the index of the image with the most contested anchors; on a tie, of the image with most ground truths."""
    traces = [trace for images in moments for trace in images]
    return max(traces, key=lambda trace: (len(contested_anchors(trace)), len(trace.truths))).image


def contested_anchors(trace: ImageTrace) -> list[int]:
    """Return the anchors that several ground truths selected (TAL-CONF-1)."""
    stages = trace.trace
    return [] if stages is None else (stages.selected.sum(0) > 1).nonzero().flatten().tolist()


def most_contested_truth(stages: AssignmentTrace) -> int:
    """Return the ground truth that selected the most contested anchors; on a tie, with most candidates."""
    contested = stages.selected.sum(0) > 1  # (A,)
    counts = (stages.selected & contested).sum(1)  # (M,)
    return int((counts * (stages.candidates.shape[1] + 1) + stages.candidates.sum(1)).argmax())


def photo(recorded: RecordedTraining, moment: Moment, image: int) -> str:
    """Return one of the network's input images at a recorded step, enlarged, as a data URL of a JPEG."""
    from ultralytics.utils.patches import imwrite

    schedule = recorded.schedule
    slot = moment.step % schedule.pool
    height, width = schedule.sizes[slot % len(schedule.sizes)]
    images = images_of(augmented(schedule.seed + slot), (ENLARGED * height, ENLARGED * width))
    pixels = (images.pixels[image] * 255).round().to(torch.uint8)  # (3, H, W) RGB
    pixels = pixels.flip(0).permute(1, 2, 0)  # (H, W, 3) BGR
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "photo.jpg"
        imwrite(str(path), pixels.contiguous().numpy(), [1, QUALITY])  # 1 is OpenCV's IMWRITE_JPEG_QUALITY
        return "data:image/jpeg;base64," + base64.b64encode(path.read_bytes()).decode()


def _names(trace: ImageTrace) -> list[str]:
    """Return the class name of every ground truth, or its class number if the class has no known name."""
    names = _names_by_class()
    return [names.get(label, f"class {label}") for label in trace.truths.labels.tolist()]


def _names_by_class() -> dict[int, str]:
    from tal_conformance.training.photographs import LABELS

    photographs = json.loads(LABELS.read_text(encoding="utf-8"))["photographs"].values()
    return {
        labelled["class"]: labelled["name"]
        for photograph in photographs
        for labelled in photograph["objects"]
    }


def _decoded(trace: ImageTrace, anchor: int) -> dict[str, Any]:
    """Return an anchor's distribution over the bins for each side, and its expectation in grid units (DEC-1)."""
    predictions, bins = trace.loss.predictions, trace.batch.head.reg_max
    shares = predictions.distances[trace.image, anchor].detach().double().unflatten(0, (4, bins)).softmax(-1)
    distances = shares @ torch.arange(bins, dtype=torch.float64, device=shares.device)  # (4,)
    return {
        "shares": [[round(share, 5) for share in side] for side in shares.tolist()],
        "distances": _rounded(distances),
        "centre": _rounded(predictions.anchors.centres[anchor]),
        "stride": float(predictions.anchors.strides[anchor]),
        "box": _rounded(predictions.boxes[trace.image, anchor]),
    }


def _pairs(trace: ImageTrace, stages: AssignmentTrace, truth: int) -> list[list[float]]:
    """Return every candidate of a ground truth as (anchor, score s, overlap u, metric t), by descending t."""
    anchors = stages.candidates[truth].nonzero().flatten()
    order = anchors[stages.metric[truth, anchors].argsort(descending=True, stable=True)]
    numbers = torch.stack([stage[truth, order] for stage in (stages.score, stages.overlap, stages.metric)], 1)
    return [[anchor, *_rounded(row)] for anchor, row in zip(order.tolist(), numbers, strict=True)]


def _conflict(recorded: RecordedTraining, steps: Sequence[Moment], image: int) -> dict[str, Any]:
    """Return data of the step with most contested anchors: these anchors, their overlaps and assigned ground truths."""
    traces = [(moment, ImageTrace.of(recorded.batches[moment.place], image, NEWEST)) for moment in steps]
    counts = [[moment.step, len(contested_anchors(trace))] for moment, trace in traces]
    moment, trace = max(traces, key=lambda pair: len(contested_anchors(pair[1])))
    stages, owner = trace.trace, trace.loss.targets[image].truth_index
    assert stages is not None
    rows = []
    for anchor in contested_anchors(trace):
        rivals = stages.selected[:, anchor].nonzero().flatten().tolist()
        overlaps = [[truth, *_rounded(stages.overlap[truth, anchor][None])] for truth in rivals]
        rows.append({"anchor": anchor, "overlaps": overlaps, "owner": int(owner[anchor])})
    return {"step": moment.step, "anchors": rows, "counts": counts}


def _losses(trace: ImageTrace) -> dict[str, Any]:
    """Return the contributions of each ground truth's positives, and of the background, to the logged loss items."""
    facts = trace.facts(range(trace.anchors))["anchors"]
    targets = trace.loss.targets[trace.image]
    terms = torch.tensor([facts[str(anchor)]["loss"] for anchor in range(trace.anchors)])  # (A, 3)
    owners, positive = targets.truth_index.cpu(), targets.foreground.cpu()
    rows = [terms[positive & (owners == truth)].sum(0) for truth in range(len(trace.truths))]
    return {
        "truths": [_rounded(row) for row in rows],
        "background": _rounded(terms[~positive].sum(0)),
        "score_sum": float(sum(image.weights.sum() for image in trace.loss.targets)),
    }


def _moment(recorded: RecordedTraining, moment: Moment, image: int) -> dict[str, Any]:
    """Return the image's positives at one step, and the quality of the network's predictions."""
    trace = ImageTrace.of(recorded.batches[moment.place], image, NEWEST)
    progress = recorded.progress[moment.place]
    return {
        "step": moment.step,
        "steps": recorded.schedule.steps,
        "overlap": progress.overlap,
        "score": progress.score,
        "positives": trace_as_dict(trace, None, [])["reference"],
    }


def static_choice(trace: ImageTrace) -> dict[str, Any] | None:
    """Return the cells of an image that are positive in YOLOv5; None for other strides than YOLOv5's.

    A ground truth has positives at every level with an anchor box of similar shape: the cell that contains its centre,
    and the two nearest neighbours of that cell. They depend neither on scores nor on predicted boxes.
    """
    levels = list(zip(trace.batch.head.strides, trace.batch.levels, strict=True))
    if any(stride not in ANCHOR_BOXES for stride, _ in levels):
        return None
    cells = []
    for truth, box in enumerate(trace.truths.boxes.tolist()):
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
    """Return the number of a level's anchor boxes whose sides are similar to a ground truth's.

    Args:
        box: xyxy in pixels.
        stride: stride of the level, in pixels.
    """
    width, height = box[2] - box[0], box[3] - box[1]
    if min(width, height) <= 0:
        return 0
    ratios = [max(width / w, w / width, height / h, h / height) for w, h in ANCHOR_BOXES[stride]]
    return sum(ratio < RATIO for ratio in ratios)


def static_cells(box: Sequence[float], stride: int, rows: int, columns: int) -> list[tuple[int, int]]:
    """Return column and row of the cell with a box's centre, and of this cell's nearest neighbours in x and in y.

    Args:
        box: xyxy in pixels.
        stride: stride of the level, in pixels.
        rows: number of rows of the level.
        columns: number of columns of the level.
    """
    x, y = (box[0] + box[2]) / 2 / stride, (box[1] + box[3]) / 2 / stride
    column, row = int(x), int(y)
    beside = column - 1 if x - column < 0.5 else column + 1
    above = row - 1 if y - row < 0.5 else row + 1
    near = [(column, row), (beside, row), (column, above)]
    return [(c, r) for c, r in near if 0 <= c < columns and 0 <= r < rows]


def _rounded(row: Tensor) -> list[float]:
    return [float(f"{value:.6g}") for value in row.detach().double().tolist()]
