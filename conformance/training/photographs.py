"""Photographs from the ultralytics package as real input, with labels made by hand."""

import json
import random
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.ultralytics_environment import configure_ultralytics

LABELS = Path(__file__).parent / "photographs.json"
"""File with the objects of each photograph. The file also says how the objects were labelled."""
GREY = 114 / 255
"""Value of the padding of a letterboxed image."""
SHARE_KEPT = 0.1
"""An object remains in a crop if at least this share of its area is visible."""
EMPTY_BELOW = 0.21
"""Share of the height of bus.jpg above which no object is labelled."""

Crop = tuple[float, float, float, float]
"""A crop: x1, y1, x2, y2 as shares of the photograph's width and height."""


@dataclass(frozen=True, eq=False)
class Photograph:
    """A photograph with its labelled objects.

    Attributes:
        name: file name.
        pixels: (3, height, width) uint8, red first.
        labels: (M,) int64 class indices of COCO.
        boxes: (M, 4) float32, xyxy in the photograph's pixels.
    """

    name: str
    pixels: Tensor
    labels: Tensor
    boxes: Tensor


@dataclass(frozen=True)
class View:
    """A part of a photograph, optionally mirrored.

    Attributes:
        name: name of the photograph.
        crop: the part: x1, y1, x2, y2 as shares of the photograph's width and height.
        mirrored: True if left and right are exchanged.
    """

    name: str
    crop: Crop = (0.0, 0.0, 1.0, 1.0)
    mirrored: bool = False


@dataclass(frozen=True, eq=False)
class Images:
    """Input of a training step, in the format of a data loader.

    Attributes:
        pixels: (B, 3, height, width) float32 in [0, 1].
        annotations: (N, 6) float32 rows (image, class, cx, cy, w, h), the last four normalised (ANN-1).
    """

    pixels: Tensor
    annotations: Tensor

    def to(self, device: str) -> "Images":
        """Return the same input on another device."""
        return Images(self.pixels.to(device), self.annotations.to(device))


@cache
def photograph(name: str) -> Photograph:
    """Return a photograph of the installed ultralytics package, with its labels.

    Raises:
        UnknownImplementation: ultralytics is not installed, or its photograph differs from the labelled photograph.
        KeyError: the photograph has no labels.
    """
    made: dict[str, Any] = json.loads(LABELS.read_text(encoding="utf-8"))["photographs"][name]
    pixels = _read(name)
    height, width = pixels.shape[1:]
    if (width, height) != (made["width"], made["height"]):
        raise UnknownImplementation(
            f"the photograph {name} of the installed ultralytics has {width}x{height} px, expected "
            f"{made['width']}x{made['height']} px: this project's labels belong to a photograph of this size"
        )
    labels = torch.tensor([thing["class"] for thing in made["objects"]])  # (M,)
    shares = torch.tensor([thing["box"] for thing in made["objects"]])  # (M, 4) cx, cy, w, h
    centre, half = shares[:, :2], shares[:, 2:] / 2
    boxes = torch.cat((centre - half, centre + half), dim=1) * torch.tensor([width, height] * 2)  # (M, 4)
    return Photograph(name, pixels, labels, boxes)


def _read(name: str) -> Tensor:
    configure_ultralytics()
    try:
        from ultralytics.utils import ASSETS
        from ultralytics.utils.patches import imread
    except ImportError as error:
        raise UnknownImplementation(
            f"cannot import ultralytics, whose photographs are needed: {error}"
        ) from error
    rows = imread(str(ASSETS / name))  # (height, width, 3), blue first
    if rows is None:
        raise UnknownImplementation(f"cannot read the photograph {name} of the installed ultralytics")
    return torch.from_numpy(rows).permute(2, 0, 1).flip(0).contiguous()  # (3, height, width)


def render(view: View, size: tuple[int, int]) -> tuple[Tensor, Tensor]:
    """Return a view as an image of `size` (height, width) pixels: scaled to fit, centred, the rest grey.

    Returns:
        pixels: (3, height, width) float32 in [0, 1].
        rows: (M, 5) float32 class, cx, cy, w, h of its objects, normalised to the image. Boxes are clipped to the
            crop; objects of which too little is visible are left out.
    """
    source = photograph(view.name)
    scale = torch.tensor(source.pixels.shape[:0:-1]).repeat(2)  # (4,) width, height, width, height
    x1, y1, x2, y2 = (torch.tensor(view.crop) * scale).round().int().tolist()
    part = source.pixels[:, y1:y2, x1:x2].float() / 255  # (3, h, w)
    whole = source.boxes - torch.tensor([x1, y1, x1, y1])  # (M, 4) seen from the crop's corner
    boxes = whole.clamp(torch.zeros(4), torch.tensor([x2 - x1, y2 - y1] * 2).float())  # (M, 4)
    kept = _areas(boxes) > SHARE_KEPT * _areas(whole)  # (M,)
    labels, boxes = source.labels[kept], boxes[kept]
    if view.mirrored:
        part = part.flip(2)
        boxes = torch.tensor([x2 - x1, 0, x2 - x1, 0]) + boxes[:, [2, 1, 0, 3]] * torch.tensor([-1, 1, -1, 1])
    pixels, shift, factor = letterbox(part, size)
    boxes = boxes * factor.repeat(2) + shift.repeat(2)  # (M, 4) in the image's pixels
    shares = boxes / torch.tensor(size[::-1]).repeat(2)  # (M, 4) xyxy, normalised
    left_top, right_bottom = shares.split(2, dim=1)
    rows = torch.cat((labels[:, None], (left_top + right_bottom) / 2, right_bottom - left_top), dim=1)
    return pixels, rows  # (3, height, width), (M, 5)


def letterbox(part: Tensor, size: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
    """Scale an image (3, h, w) to fit into `size` (height, width), centred on grey.

    Returns:
        pixels: (3, height, width) the scaled image with its grey border.
        shift: (2,) x and y of the scaled image's top left corner, in pixels.
        factor: (2,) scale factors of x and y.
    """
    sides = torch.tensor(part.shape[1:])  # (2,) h, w
    scale = (torch.tensor(size) / sides).min()
    rows, columns = (sides * scale).round().int().tolist()
    scaled = functional.interpolate(part[None], size=(rows, columns), mode="bilinear", antialias=True)[0]
    pixels = torch.full((3, *size), GREY)
    top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
    pixels[:, top : top + rows, left : left + columns] = scaled.clamp(0, 1)
    return pixels, torch.tensor([left, top]).float(), torch.tensor([columns, rows]) / sides.flip(0)


def _areas(boxes: Tensor) -> Tensor:
    return (boxes[:, 2:] - boxes[:, :2]).prod(1)  # (M,)


def images_of(views: list[View], size: tuple[int, int]) -> Images:
    """Return views as one batch of images of `size` (height, width) pixels."""
    rendered = [render(view, size) for view in views]
    rows = [
        torch.cat((torch.full_like(r[:, :1], i), r), dim=1) for i, (_, r) in enumerate(rendered)
    ]  # (M, 6) each
    return Images(torch.stack([pixels for pixels, _ in rendered]), torch.cat(rows))


def augmented(seed: int) -> list[View]:
    """Return four views: both photographs almost whole, a part of one of them, and one without any object.

    A seed gives the same views on every machine. The number of objects varies from image to image and from seed to
    seed, some boxes end at the border, and one image has no object.
    """
    source = random.Random(seed)
    wide = [_crop(source, "bus.jpg", 0.75, 1.0), _crop(source, "zidane.jpg", 0.75, 1.0)]
    close = _crop(source, "bus.jpg" if source.random() < 0.5 else "zidane.jpg", 0.4, 0.7)
    left = source.random() / 2
    empty = View("bus.jpg", (left, 0.0, left + 0.5, EMPTY_BELOW), source.random() < 0.5)
    return [*wide, close, empty]


def _crop(source: random.Random, name: str, least: float, most: float) -> View:
    """Return a random part of the photograph `name`, mirrored with probability 0.5.

    The part's sides are between `least` and `most` times the sides of the photograph.
    """
    side = least + (most - least) * source.random()
    left, top = (1 - side) * source.random(), (1 - side) * source.random()
    return View(name, (left, top, left + side, top + side), source.random() < 0.5)
