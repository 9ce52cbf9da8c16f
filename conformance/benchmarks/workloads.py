"""The timed batches: sizes of real trainings, with predictions as in the middle of a training.

Batches of detection are made here, to resemble a training closely. Those of other tasks are made by a recipe whose
anchors predict boxes near the ground truths.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from tal_conformance.batches.content.truths import ManyTruths
from tal_conformance.batches.recipe import Recipe, grids
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import Grid, anchors, depth, encode, fold, sides_to
from tal_conformance.core.task import DETECT, E2E, OBB, POSE, SEGMENT
from tal_reference import Head

STRIDES = (8, 16, 32)
SHORTEST = 0.02
"""Shortest side of a ground truth, as a share of the image: 13 of 640 pixels."""
LONGEST = 0.6
"""Longest side of a ground truth, as a share of the image, in images with few ground truths."""
CROWD = 3.0
"""Constant of the limit CROWD / sqrt(M) of the longest side among M ground truths: crowded objects are small."""


COCO = 80
"""Number of classes of most models, which the name of a case omits."""
FURTHER_FIELDS: dict[str, dict[str, Any]] = {
    OBB.name: {},
    E2E.name: {},
    POSE.name: {"keypoints": (17, 3)},
    SEGMENT.name: {"prototypes": 32},
}
"""Sizes of the further head fields of official models, by the tasks that are timed besides detection."""


@dataclass(frozen=True)
class Case:
    """A batch on which implementations are timed, described by its sizes.

    Attributes:
        images: number of images B.
        pixels: side of the square input.
        truths: number of ground truths in each image.
        classes: number of classes C.
        crowd: number of ground truths in the first image; 0 for the same number as in the other images.
        task: name of the loss family.
    """

    images: int
    pixels: int
    truths: int
    classes: int = 80
    crowd: int = 0
    task: str = DETECT.name

    @property
    def name(self) -> str:
        """Name of the case in the log and the report."""
        crowd = f" and {self.crowd}gt" if self.crowd else ""
        classes = f" {self.classes}c" if self.classes != COCO else ""
        task = "" if self.task == DETECT.name else f" {self.task}"
        return f"{self.images}x{self.pixels} {self.truths}gt{crowd}{classes}{task}"

    @property
    def head(self) -> Head:
        """The head that the batch is for."""
        return Head(STRIDES, self.classes) if self.task == DETECT.name else self.recipe.head

    @property
    def recipe(self) -> Recipe:
        """The recipe of the batch, for another task than detection."""
        side, turned = self.pixels // STRIDES[0], self.task == OBB.name
        return Recipe(
            images=tuple(
                ManyTruths(self.truths, image, self.classes, ("ordinary",), turned)
                for image in range(self.images)
            ),
            cells=(side, side),
            strides=STRIDES,
            classes=self.classes,
            predictions="near",
            task=self.task,
            **FURTHER_FIELDS[self.task],
        )

    def build(self) -> Batch:
        """Return the batch of the case: float32, on the CPU, identical on each call.

        The latest batch is cached; it may take 80 MB. Images are made one by one, so that making them needs no more
        memory than the batch.
        """
        return _build(self)


SMALL = Case(2, 160, 8)
TRAINING = (Case(16, 640, 10), Case(16, 640, 50), Case(16, 640, 150))
CROWDED = Case(16, 640, 10, crowd=1000)
"""A case with one crowded image. Padding extends the other fifteen images to the same number of ground truths."""
CURVES = (
    *(Case(16, 640, truths) for truths in (1, 300)),
    *(Case(16, pixels, 50) for pixels in (160, 320)),
    *(Case(images, 640, 50) for images in (1, 4)),
    *(Case(16, 640, 50, classes=classes) for classes in (1, 20)),
)
"""Variants of the case 16x640 50gt with one parameter changed. They show how the cost grows with each parameter."""
SMALL_OF_TASKS = tuple(Case(2, 160, 8, task=task) for task in FURTHER_FIELDS)
"""A small case of every other task than detection."""
TRAINING_OF_TASKS = tuple(Case(16, 640, 10, task=task) for task in FURTHER_FIELDS)
"""A case of the size of a training of every other task than detection."""
CASES = {
    case.name: case for case in (SMALL, *SMALL_OF_TASKS, *TRAINING, CROWDED, *TRAINING_OF_TASKS, *CURVES)
}
"""The timed cases by name."""


@lru_cache(maxsize=1)
def _build(case: Case) -> Batch:
    if case.task != DETECT.name:
        return case.recipe.build()
    head = case.head
    levels = grids((case.pixels // STRIDES[0],) * 2, STRIDES)
    generator = torch.Generator().manual_seed(0)
    images = [_image(case, index, head, levels, generator) for index in range(case.images)]
    distances, logits, rows = (torch.cat(parts) for parts in zip(*images, strict=True))
    return Batch(fold(distances, logits, levels), rows, head, origin=f"benchmark {case.name}")


def _image(
    case: Case, index: int, head: Head, levels: tuple[Grid, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance logits (1, A, 4, R), class logits (1, A, C) and annotation rows (M, 6) of one image."""
    truths = case.crowd if case.crowd and not index else case.truths
    centres, sides = _truths(truths, generator)  # (M, 2), (M, 2)
    labels = torch.randint(case.classes, (truths,), generator=generator)  # (M,)
    boxes = torch.cat((centres - sides / 2, centres + sides / 2), dim=1) * case.pixels  # (M, 4)
    distances, logits = _predictions(boxes, labels, head, levels, generator)
    rows = torch.cat((torch.stack((torch.full_like(labels, index), labels), dim=1), centres, sides), dim=1)
    return distances[None], logits[None], rows


def _truths(count: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Return centres (M, 2) and sides (M, 2) of random boxes within the image, as shares of its width and height."""
    longest = min(LONGEST, CROWD / count**0.5)
    size = SHORTEST * (longest / SHORTEST) ** torch.rand(count, 1, generator=generator)  # (M, 1)
    slim = _wobble((count, 1), generator)  # (M, 1)
    sides = (size * torch.cat((0.7 * slim, -0.7 * slim), dim=1).exp()).clamp(max=0.95)  # (M, 2)
    return sides / 2 + torch.rand(count, 2, generator=generator) * (1 - sides), sides


def _predictions(
    boxes: Tensor, labels: Tensor, head: Head, levels: tuple[Grid, ...], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Return distance logits (A, 4, R) and class logits (A, C) as in the middle of a training.

    Anchors inside or beside a ground truth predict it, with an error of up to a fifth of each side and scores of its
    class from 0.05 to 0.95. All other anchors predict boxes of a few cells. Other scores are below 0.02.
    """
    places, strides = anchors(levels, head.strides)  # (A, 2), (A,)
    close = depth(places, boxes) > -strides  # (M, A)
    owner = (close + torch.rand(close.shape, generator=generator)).argmax(0)  # (A,)
    aimed = close.any(0)  # (A,)
    exact = sides_to(boxes[owner], places, strides)  # (A, 4)
    off = 1 + 0.2 * _wobble(exact.shape, generator)  # (A, 4)
    wanted = torch.where(aimed[:, None], exact * off, 3 * torch.rand(exact.shape, generator=generator))
    noise = 0.5 * torch.rand(*exact.shape, head.reg_max, generator=generator)  # (A, 4, R)
    logits = _wobble((len(places), head.classes), generator) - 5  # (A, C)
    own = 3 * _wobble((len(places),), generator)  # (A,)
    logits[aimed, labels[owner[aimed]]] = own[aimed]
    return encode(wanted, head.reg_max, noise), logits


def _wobble(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return a random tensor of the given shape, with numbers in (-1, 1), most of them near 0."""
    return torch.rand(shape, generator=generator) - torch.rand(shape, generator=generator)
