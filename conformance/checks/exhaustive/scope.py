"""Scopes: sets of small images, defined as data and counted exactly, of which every image is judged.

An image of a scope has up to two ground truths with corners on a lattice, and one of a few predictions (guesses) at
every anchor.
All values are exact in float32: anchors, borders and predicted boxes lie on whole and half cells, so that equal values
are bitwise equal and ties are frequent. B images, A anchors, C classes, R bins, G guesses.
"""

from dataclasses import dataclass, replace
from functools import cached_property
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.batches.recipe import grids
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import Grid, encode, fold
from tal_reference import Head, Hyperparameters


class Guess(NamedTuple):
    """One possible prediction of an anchor.

    Attributes:
        sides: distances to left, top, right and bottom in cells; multiples of one half.
        logits: class logits, C values.
    """

    sides: tuple[float, float, float, float]
    logits: tuple[float, ...]


SMALL = Guess((0.5, 0.5, 0.5, 0.5), (1.0, -1.0))
LARGE = Guess((1.0, 1.0, 1.0, 1.0), (-1.0, 1.0))
RIGHT_DOWN = Guess((0.5, 0.5, 1.5, 1.5), (0.0, 0.0))
LEFT_UP = Guess((1.5, 1.5, 0.5, 0.5), (-3.0, 0.0))


@dataclass(frozen=True)
class Scope:
    """A set of small images: all images with the given properties, numbered from 0.

    Attributes:
        name: name in reports.
        strides: pixels per cell, for each level.
        cells: rows and columns of the first level.
        lattice: pixels between possible corners.
        truths: maximum number of ground truths of an image, at most 2; all ordered selections of at most that number of
            ground truths are included.
        guesses: possible predictions of each anchor, independent of the other anchors.
        topk: number k of anchors that each ground truth selects.
        reg_max: number R of bins of the distribution of each distance.
        margin: pixels beyond the input's border within which corners may lie.
    """

    name: str
    strides: tuple[int, ...]
    cells: tuple[int, int]
    lattice: int
    truths: int
    guesses: tuple[Guess, ...]
    topk: int
    reg_max: int = 4
    margin: int = 0

    @property
    def head(self) -> Head:
        """Head of every image."""
        return Head(self.strides, len(self.guesses[0].logits), self.reg_max)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Default hyperparameters with the scope's k."""
        return Hyperparameters(topk=self.topk)

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """Number of rows and columns of each level."""
        return grids(self.cells, self.strides)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.cells[0] * self.strides[0], self.cells[1] * self.strides[0]

    @cached_property
    def boxes(self) -> Tensor:
        """Every possible box of a ground truth, xyxy in pixels, (N, 4) float64."""
        height, width = self.size
        columns, rows = (
            list(combinations(range(-self.margin, end + self.margin + 1, self.lattice), 2))
            for end in (width, height)
        )
        boxes = [(x1, y1, x2, y2) for (x1, x2), (y1, y2) in product(columns, rows)]
        return torch.tensor(boxes, dtype=torch.float64)

    @property
    def labelled(self) -> int:
        """Number of different ground truths that an image can have: boxes times classes."""
        return len(self.boxes) * self.head.classes

    @property
    def scenes(self) -> int:
        """Number of different combinations of ground truths that an image can have."""
        return sum(self.labelled**count for count in range(self.truths + 1))

    @property
    def anchors(self) -> int:
        """Number of anchors, A."""
        return sum(rows * columns for rows, columns in self.grids)

    def describe(self) -> str:
        """Return all properties of the scope in one line."""
        height, width = self.size
        beyond = f" up to {self.margin} px beyond the border" if self.margin else ""
        return (
            f"{len(self):,} images of {width}x{height} px, strides {'/'.join(map(str, self.strides))}: up to"
            f" {self.truths} GT of {self.head.classes} classes with corners every {self.lattice} px{beyond},"
            f" {len(self.guesses)} guesses an anchor, k {self.topk}"
        )

    def __len__(self) -> int:
        """Return the number of images."""
        return int(self.scenes * len(self.guesses) ** self.anchors)

    def images(self, indices: Tensor) -> "Images":
        """Return the images with the given numbers.

        Consecutive numbers differ in their ground truths first, so that a batch mixes images with zero, one and two
        ground truths.

        Args:
            indices: numbers (B,) from 0 to `len(self) - 1`.
        """
        scene, guess = indices % self.scenes, indices // self.scenes  # (B,) twice
        powers = len(self.guesses) ** torch.arange(self.anchors)  # (A,)
        guesses = guess[:, None] // powers % len(self.guesses)  # (B, A)
        pair = scene - 1 - self.labelled  # (B,) negative for fewer than two ground truths
        first = torch.where(pair >= 0, pair // self.labelled, scene - 1)
        second = torch.where(pair >= 0, pair % self.labelled, -1)
        truths = torch.stack((first, second), dim=1)[:, : self.truths]  # (B, M)
        boxes, labels = truths // self.head.classes, truths % self.head.classes  # (B, M) twice
        return Images(self, indices, boxes, labels, truths >= 0, guesses)

    def batch(self, indices: Tensor) -> Batch:
        """Return a batch of the scope's images with the given numbers (B,): float32, on the CPU."""
        images = self.images(indices)
        distances = torch.tensor([guess.sides for guess in self.guesses])  # (G, 4)
        logits = torch.tensor([guess.logits for guess in self.guesses])  # (G, C)
        distances = encode(distances, self.reg_max)  # (G, 4, R)
        maps = fold(distances[images.guesses], logits[images.guesses], self.grids)
        image, row = images.present.nonzero().unbind(1)  # (N,) twice
        height, width = self.size
        left, top, right, bottom = self.boxes[images.boxes[image, row]].unbind(1)  # (N,) each
        centres = (left + right) / 2 / width, (top + bottom) / 2 / height  # (N,) twice
        sides = (right - left) / width, (bottom - top) / height  # (N,) twice
        labels = images.labels[image, row]  # (N,)
        rows = torch.stack((image.double(), labels.double(), *centres, *sides), dim=1)  # (N, 6)
        numbers = f"tensor({indices.tolist()})" if len(indices) <= MAX_LISTED else f"{len(indices)} images"
        origin = f"SCOPES[{self.name!r}].batch({numbers})"
        return Batch(maps, rows.float().reshape(-1, 6), self.head, self.hyperparameters, origin)

    def image(self, index: int) -> Batch:
        """Return a batch of the image with the given number, labelled with its hazards."""
        batch = self.batch(torch.tensor([index]))
        origin = f"SCOPES[{self.name!r}].image({index})"
        return replace(batch, origin=origin, hazards=hazards_of(batch))


MAX_LISTED = 16
"""Largest number of images whose numbers the origin of a batch lists."""


@dataclass(frozen=True)
class Images:
    """Some images of a scope, as indices of their boxes, classes and predictions.

    Attributes:
        scope: the set of images that the indices refer to.
        indices: (B,) numbers of the images.
        boxes: (B, M) index of each ground truth's box.
        labels: (B, M) class of each ground truth.
        present: (B, M) bool: True for an existing ground truth; box and label of padding are undefined.
        guesses: (B, A) index of each anchor's guess.
    """

    scope: Scope
    indices: Tensor
    boxes: Tensor
    labels: Tensor
    present: Tensor
    guesses: Tensor


HALF_CELLS, CELLS = 4, 8
_ONE: dict[str, Any] = {"strides": (8,), "cells": (2, 2)}
_TWO: dict[str, Any] = {"strides": (8, 16), "cells": (2, 2)}
_ROW: dict[str, Any] = {"strides": (8,), "cells": (1, 2)}
_CELL: dict[str, Any] = {"strides": (8,), "cells": (1, 1)}


def _scopes(name: str, topk: tuple[int, ...], **properties: Any) -> tuple[Scope, ...]:
    return tuple(Scope(f"{name}, k {k}", topk=k, **properties) for k in topk)


_FIRST = _scopes("pairs on cells", (2,), **_ONE, lattice=CELLS, truths=2, guesses=(SMALL, LARGE))
_MORE = (
    *_scopes("pairs on cells", (3,), **_ONE, lattice=CELLS, truths=2, guesses=(SMALL, RIGHT_DOWN)),
    *_scopes("singles on half cells", (1, 4), **_ONE, lattice=HALF_CELLS, truths=1, guesses=(SMALL, LARGE)),
    *_scopes("singles of two levels", (2,), **_TWO, lattice=HALF_CELLS, truths=1, guesses=(SMALL, LARGE)),
    *_scopes("pairs in a row", (1, 2), **_ROW, lattice=HALF_CELLS, truths=2, guesses=(SMALL, LEFT_UP)),
    *_scopes(
        "singles beyond the border",
        (1,),
        **_CELL,
        lattice=HALF_CELLS,
        truths=1,
        margin=12,
        guesses=(SMALL, LEFT_UP),
        reg_max=2,
    ),
)
_ALL = (
    *_scopes("pairs on half cells", (2,), **_ONE, lattice=HALF_CELLS, truths=2, guesses=(SMALL, LARGE)),
    *_scopes(
        "pairs of two levels",
        (2,),
        **_TWO,
        lattice=CELLS,
        truths=2,
        guesses=(SMALL, LARGE, RIGHT_DOWN, LEFT_UP),
    ),
)
PROFILES: dict[str, tuple[Scope, ...]] = {
    "dev": _FIRST,
    "ci": (*_FIRST, *_MORE),
    "nightly": (*_FIRST, *_MORE, *_ALL),
}
"""Scopes of each profile."""
SCOPES = {scope.name: scope for scope in PROFILES["nightly"]}
"""Every scope, by name."""
