"""Record batches of all tasks but detection from short trainings on drawn rectangles.

    python -m tal_conformance.training.drawn_families FOLDER     # writes FOLDER/e2e, obb, segment and pose

Ultralytics' own trainer trains a YOLO26n on upright rectangles, and a YOLOv8n-OBB, a YOLO26n-OBB, a YOLOv8n-seg and a
YOLOv8n-pose on turned ones, from random weights and without network. The two branches of YOLO26n-OBB are recorded one
by one, as rotated boxes. The true mask of a turned rectangle is the rectangle, and its keypoints are its corners.
"""

import math
import shutil
from pathlib import Path
from typing import Final, NamedTuple

import torch
from torch import Tensor

from tal_conformance.core.task import E2E, OBB, POSE, SEGMENT
from tal_conformance.implementations.ultralytics_environment import configure_ultralytics
from tal_conformance.training.rectangles import (
    COLOURS,
    IMAGES,
    SIDE,
    TOGETHER,
    new_folder,
    training_options,
    write_dataset,
    write_images,
)

EPOCHS: Final = 5
"""Epochs of each training: the weights of end-to-end losses are 0.8, 0.625, 0.45, 0.275 and 0.1 (E2E-4)."""
REGULAR: Final = IMAGES["train"] // TOGETHER * 2
"""Number of steps between two regular batches: the first steps of the first, third and fifth epoch."""


class Training(NamedTuple):
    """A training from which batches are recorded."""

    task: str
    """Name of the task whose batches are recorded."""
    model: str
    """Description of the model, a path in Ultralytics' folder of models."""
    turned: bool
    """True to train on turned rectangles: their corners are rotated boxes, outlines of masks, or keypoints."""
    images: int
    """Number of images of a batch."""
    limit_mb: float
    """Size limit of the recorded files in MB."""


TRAININGS: Final = (
    Training(E2E.name, "26/yolo26n.yaml", False, TOGETHER, 0.06),
    Training(OBB.name, "v8/yolov8n-obb.yaml", True, 1, 0.03),
    Training(OBB.name, "26/yolo26n-obb.yaml", True, TOGETHER, 0.035),
    Training(SEGMENT.name, "v8/yolov8n-seg.yaml", True, 1, 0.4),
    Training(POSE.name, "v8/yolov8n-pose.yaml", True, 1, 0.2),
)


def draw_turned(number: int) -> tuple[Tensor, list[tuple[float, ...]]]:
    """Return the image with the given number: noise, and zero to four turned rectangles.

    Returns:
        (3, SIDE, SIDE) uint8 pixels, red first, and for each rectangle its class and the x and y of its four corners,
        normalised.
    """
    source = torch.Generator().manual_seed(number)
    pixels = torch.randint(60, 120, (3, SIDE, SIDE), generator=source, dtype=torch.uint8)
    centres = torch.arange(SIDE) + 0.5
    y, x = torch.meshgrid(centres, centres, indexing="ij")  # (SIDE, SIDE) twice
    rows = []
    for _ in range(number % 5):  # every fifth image has no rectangle
        label = int(torch.randint(2, (), generator=source))
        width, height = (6 + 24 * torch.rand(2, generator=source)).tolist()
        turn = math.pi * float(torch.rand((), generator=source))
        centre_x, centre_y = (16 + 32 * torch.rand(2, generator=source)).tolist()
        cosine, sine = math.cos(turn), math.sin(turn)
        along = (x - centre_x) * cosine + (y - centre_y) * sine
        across = (y - centre_y) * cosine - (x - centre_x) * sine
        inside = (along.abs() <= width / 2) & (across.abs() <= height / 2)
        pixels[:, inside] = torch.tensor(COLOURS[label], dtype=torch.uint8).reshape(3, 1)
        corners = [
            coordinate
            for i, j in ((-1, -1), (1, -1), (1, 1), (-1, 1))
            for coordinate in (
                (centre_x + (i * width * cosine - j * height * sine) / 2) / SIDE,
                (centre_y + (i * width * sine + j * height * cosine) / 2) / SIDE,
            )
        ]
        rows.append((label, *(min(max(corner, 0.0), 1.0) for corner in corners)))
    return pixels, rows


def draw_cornered(number: int) -> tuple[Tensor, list[tuple[float, ...]]]:
    """Return a drawn image as `draw_turned` does, with a row of pose for each rectangle.

    Returns:
        (3, SIDE, SIDE) pixels, and for each rectangle its class, cx, cy, w and h of the upright box around its corners,
        and x, y and visibility of each corner: 2, or 0 with both coordinates 0 for corners on the image's border.
    """
    pixels, turned = draw_turned(number)
    rows = []
    for label, *corners in turned:
        points = list(zip(corners[::2], corners[1::2], strict=True))
        (left, right), (top, bottom) = ((min(each), max(each)) for each in zip(*points, strict=True))
        inside = [0 < x < 1 and 0 < y < 1 for x, y in points]
        keypoints = [
            number
            for (x, y), seen in zip(points, inside, strict=True)
            for number in ((x, y, 2.0) if seen else (0.0, 0.0, 0.0))
        ]
        rows.append((label, (left + right) / 2, (top + bottom) / 2, right - left, bottom - top, *keypoints))
    return pixels, rows


def write_drawn(folder: Path, training: Training) -> Path:
    """Write the data set of a training into a folder, and return the path of its description."""
    if training.task != POSE.name:
        return write_images(folder, draw_turned) if training.turned else write_dataset(folder)
    description = write_images(folder, draw_cornered)
    with description.open("a", encoding="utf-8") as file:
        file.write("kpt_shape: [4, 3]\n")
    return description


def record(folder: Path, training: Training, number: int) -> None:
    """Train a model on drawn images, and add its recorded batches to the folder of its task."""
    from ultralytics import YOLO
    from ultralytics.utils import ROOT

    from tal_conformance.training.recorder import recording

    own = folder / f"training-{number}"
    own.mkdir(parents=True)
    description = write_drawn(own, training)
    torch.set_num_threads(1)
    with recording(own / "recorded", every=REGULAR, limit_mb=training.limit_mb):
        model = YOLO(str(ROOT / "cfg" / "models" / training.model), verbose=False)
        model.train(**training_options(own, description) | {"epochs": EPOCHS, "batch": training.images})
    (folder / training.task).mkdir(exist_ok=True)
    for path in sorted((own / "recorded").rglob("*.safetensors")):
        shutil.copy(path, folder / training.task / path.name)


def main(folder: Path) -> None:
    """Train all models, and record their batches."""
    configure_ultralytics()
    for number, training in enumerate(TRAININGS):
        record(folder, training, number)


if __name__ == "__main__":
    main(
        new_folder(
            "drawn_families",
            "Make the recorded batches of all tasks but detection again.",
            "data sets, trainings and batches",
        )
    )
