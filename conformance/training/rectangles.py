"""Generate a small synthetic data set, and the recorded batches of this project from a training on it.

    python -m tal_conformance.training.rectangles FOLDER     # writes FOLDER/recorded and FOLDER/recorded-mixed

The images show coloured rectangles on noise, in two classes by colour. Ultralytics' own trainer trains on these images.
"""

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from tal_conformance.implementations.ultralytics_environment import configure_ultralytics

SIDE = 64
"""Height and width of the images in pixels."""
COLOURS = ((230, 40, 40), (40, 60, 230))
"""Colours of the two classes, red first."""
IMAGES = {"train": 24, "val": 4}
EPOCHS, TOGETHER = 8, 2
"""Number of epochs, and of images in a batch."""
LAST_EPOCH = IMAGES["train"] // TOGETHER * (EPOCHS - 1)
"""Number of the first step of the last epoch."""


def draw_image(number: int) -> tuple[Tensor, list[tuple[float, ...]]]:
    """Return the image with the given number: noise, and zero to four rectangles.

    Returns:
        (3, SIDE, SIDE) uint8 pixels, red first, and class, cx, cy, w, h of each rectangle, normalised.
    """
    source = torch.Generator().manual_seed(number)
    pixels = torch.randint(60, 120, (3, SIDE, SIDE), generator=source, dtype=torch.uint8)
    rows: list[tuple[float, ...]] = []
    for _ in range(number % 5):  # every fifth image has no rectangle
        label = int(torch.randint(2, (), generator=source))
        width, height = (torch.randint(5, SIDE // 2, (2,), generator=source)).tolist()
        left, top = (int(torch.randint(SIDE - side, (), generator=source)) for side in (width, height))
        pixels[:, top : top + height, left : left + width] = torch.tensor(
            COLOURS[label], dtype=torch.uint8
        ).reshape(3, 1, 1)
        rows.append(
            (label, (left + width / 2) / SIDE, (top + height / 2) / SIDE, width / SIDE, height / SIDE)
        )
    return pixels, rows


def write_dataset(folder: Path) -> Path:
    """Write the data set into a folder, as Ultralytics reads it, and return the path of its description."""
    return write_images(folder, draw_image)


def write_images(folder: Path, draw: Callable[[int], tuple[Tensor, Sequence[tuple[float, ...]]]]) -> Path:
    """Write drawn images and their labels into a folder, and return the path of the data set's description.

    Args:
        folder: folder of the data set.
        draw: returns the pixels of the image with a number, and its rows: a class and normalised coordinates each.
    """
    from ultralytics.utils.patches import imwrite

    for part, count in IMAGES.items():
        images, labels = folder / "images" / part, folder / "labels" / part
        images.mkdir(parents=True)
        labels.mkdir(parents=True)
        for number in range(count):
            pixels, rows = draw(number if part == "train" else 1000 + number)
            imwrite(str(images / f"{number:03d}.png"), pixels.flip(0).permute(1, 2, 0).numpy())  # blue first
            text = "".join(f"{label} {' '.join(f'{share:.6f}' for share in box)}\n" for label, *box in rows)
            (labels / f"{number:03d}.txt").write_text(text, encoding="utf-8")
    description = folder / "data.yaml"
    description.write_text(
        f"path: {folder.resolve()}\ntrain: images/train\nval: images/val\nnames: [red, blue]\n",
        encoding="utf-8",
    )
    return description


def training_options(folder: Path, description: Path) -> dict[str, object]:
    """Return options of Ultralytics' trainer for a small training on the CPU without network, plots or validation."""
    return {
        "data": str(description), "epochs": EPOCHS, "imgsz": SIDE, "batch": TOGETHER, "device": "cpu", "workers": 0,
        "project": str(folder / "runs"), "name": "drawn", "plots": False, "val": False, "save": False, "seed": 0,
        "optimizer": "SGD", "lr0": 0.02, "mosaic": 0.3, "pretrained": False, "verbose": False,
    }  # fmt: skip


def main(folder: Path) -> None:
    """Write the data set, record a training on it, and record further steps under mixed precision.

    The mixed-precision steps do not use the trainer, which supports mixed precision on GPUs only.
    """
    configure_ultralytics()
    from ultralytics import YOLO
    from ultralytics.utils import ROOT

    from tal_conformance.training.recorder import recording

    folder.mkdir(parents=True)
    description = write_dataset(folder)
    torch.set_num_threads(1)
    with recording(folder / "recorded", every=LAST_EPOCH, limit_mb=0.23):
        model = YOLO(str(ROOT / "cfg" / "models" / "v8" / "yolov8n.yaml"), verbose=False)
        model.train(**training_options(folder, description))
    trainer = model.trainer
    with recording(folder / "recorded-mixed", every=0, limit_mb=0.05):
        for images in trainer.train_loader:
            with torch.autocast("cpu", torch.bfloat16):
                total, _ = trainer.model(trainer.preprocess_batch(images))
            total.sum().backward()


def new_folder(module: str, description: str, content: str) -> Path:
    """Return the folder that the command line of a module of this package names; end the program if it exists.

    Args:
        module: name of the module.
        description: description of the command.
        content: content of the folder in words.
    """
    parser = argparse.ArgumentParser(
        prog=f"python -m tal_conformance.training.{module}", description=description
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help=f"new folder for {content}")
    folder: Path = parser.parse_args().folder
    if folder.exists():
        parser.error(f"{folder} already exists: name another folder")
    return folder


if __name__ == "__main__":
    main(
        new_folder(
            "rectangles", "Make the recorded batches of this project again.", "data set, training and batches"
        )
    )
