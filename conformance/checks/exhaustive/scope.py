"""Scopes: sets of images so small that every one of them can be judged, written down as data and counted exactly.

An image of a scope has up to two ground truths with their corners on a lattice, and at every anchor one of a few
guesses. All of it is exact in float32: anchors, borders and predicted boxes lie on whole and half cells, so that what
is equal is equal to the bit, and ties are everywhere. B images, A anchors, C classes, R bins, G guesses.
"""

from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, product
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tal_conformance.batches.hazards import hazards_of
from tal_conformance.batches.recipe import grids
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import Grid, encode, fold
from tal_reference import Head, Hyperparameters


class Guess(NamedTuple):
    """What an anchor may predict.

    Attributes:
        sides: left, top, right, bottom in cells; whole or half ones.
        logits: of the classes.
    """

    sides: tuple[float, float, float, float]
    logits: tuple[float, ...]


SMALL = Guess((0.5, 0.5, 0.5, 0.5), (1.0, -1.0))
LARGE = Guess((1.0, 1.0, 1.0, 1.0), (-1.0, 1.0))
RIGHT_DOWN = Guess((0.5, 0.5, 1.5, 1.5), (0.0, 0.0))
LEFT_UP = Guess((1.5, 1.5, 0.5, 0.5), (-3.0, 0.0))


@dataclass(frozen=True)
class Scope:
    """All images with these properties.

    Attributes:
        name: what reports call it.
        strides: pixels per cell of each level.
        cells: rows and columns of the first level.
        lattice: pixels between possible corners.
        truths: most ground truths of an image, at most 2; none, one, and ordered pairs are all there.
        guesses: what each anchor may predict, whatever the others do.
        topk: k.
        reg_max: R.
        margin: pixels beyond the input's border where corners may still lie.
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
        """The head that all images have."""
        return Head(self.strides, len(self.guesses[0].logits), self.reg_max)

    @property
    def hyperparameters(self) -> Hyperparameters:
        """Those of the loss, with this k."""
        return Hyperparameters(topk=self.topk)

    @cached_property
    def grids(self) -> tuple[Grid, ...]:
        """Rows and columns of each level."""
        return grids(self.cells, self.strides)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.cells[0] * self.strides[0], self.cells[1] * self.strides[0]

    @cached_property
    def boxes(self) -> Tensor:
        """(N, 4) float64 every box, xyxy in pixels."""
        height, width = self.size
        columns, rows = (
            list(combinations(range(-self.margin, end + self.margin + 1, self.lattice), 2))
            for end in (width, height)
        )
        every = [(x1, y1, x2, y2) for (x1, x2), (y1, y2) in product(columns, rows)]
        return torch.tensor(every, dtype=torch.float64)

    @property
    def labelled(self) -> int:
        """Number of different ground truths: boxes times classes."""
        return len(self.boxes) * self.head.classes

    @property
    def scenes(self) -> int:
        """Number of different sets of ground truths of an image."""
        return sum(self.labelled**count for count in range(self.truths + 1))

    @property
    def anchors(self) -> int:
        """A."""
        return sum(rows * columns for rows, columns in self.grids)

    def describe(self) -> str:
        """All that makes an image, in one line."""
        height, width = self.size
        beyond = f" up to {self.margin} px beyond the border" if self.margin else ""
        return (
            f"{len(self):,} images of {width}x{height} px, strides {'/'.join(map(str, self.strides))}: up to"
            f" {self.truths} GT of {self.head.classes} classes with corners every {self.lattice} px{beyond},"
            f" {len(self.guesses)} guesses an anchor, k {self.topk}"
        )

    def __len__(self) -> int:
        """Number of images."""
        return int(self.scenes * len(self.guesses) ** self.anchors)

    def images(self, indices: Tensor) -> "Images":
        """The images with these numbers (B,), from 0 to `len(self) - 1`.

        Numbers that follow each other differ in their ground truths first, so that an image without any and images
        with one and two stand side by side.
        """
        scene, guess = indices % self.scenes, indices // self.scenes  # (B,) twice
        powers = len(self.guesses) ** torch.arange(self.anchors)  # (A,)
        guesses = guess[:, None] // powers % len(self.guesses)  # (B, A)
        pair = scene - 1 - self.labelled  # (B,) negative where there are fewer than two
        first = torch.where(pair >= 0, pair // self.labelled, scene - 1)
        second = torch.where(pair >= 0, pair % self.labelled, -1)
        truths = torch.stack((first, second), dim=1)[:, : self.truths]  # (B, M)
        boxes, labels = truths // self.head.classes, truths % self.head.classes  # (B, M) twice
        return Images(self, indices, boxes, labels, truths >= 0, guesses)

    def batch(self, indices: Tensor) -> Batch:
        """One batch of the images with these numbers (B,): float32, on the CPU."""
        images = self.images(indices)
        sides = torch.tensor([guess.sides for guess in self.guesses])  # (G, 4)
        logits = torch.tensor([guess.logits for guess in self.guesses])  # (G, C)
        distances = encode(sides, self.reg_max)  # (G, 4, R)
        maps = fold(distances[images.guesses], logits[images.guesses], self.grids)
        image, row = images.present.nonzero().unbind(1)  # (N,) twice
        height, width = self.size
        left, top, right, bottom = self.boxes[images.boxes[image, row]].unbind(1)  # (N,) each
        rows = torch.stack(
            (
                image.double(), images.labels[image, row].double(), (left + right) / 2 / width,
                (top + bottom) / 2 / height, (right - left) / width, (bottom - top) / height,
            ),
            dim=1,
        )  # fmt: skip
        numbers = f"tensor({indices.tolist()})" if len(indices) <= SPELLED else f"{len(indices)} images"
        origin = f"SCOPES[{self.name!r}].batch({numbers})"
        return Batch(maps, rows.float().reshape(-1, 6), self.head, self.hyperparameters, origin)

    def image(self, index: int) -> Batch:
        """A batch of one image, with its hazards."""
        batch = self.batch(torch.tensor([index]))
        return Batch(
            batch.feature_maps, batch.annotations, batch.head, batch.hyperparameters,
            f"SCOPES[{self.name!r}].image({index})", hazards_of(batch),
        )  # fmt: skip


SPELLED = 16
"""Images of a batch that its origin names one by one."""


@dataclass(frozen=True)
class Images:
    """What images of a scope consist of, as indices.

    Attributes:
        scope: the scope.
        indices: (B,) numbers of the images.
        boxes: (B, M) index of each ground truth's box.
        labels: (B, M) its class.
        present: (B, M) there is such a ground truth; where not, box and label mean nothing.
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
        "singles beyond the border", (1,), **_CELL, lattice=HALF_CELLS, truths=1, margin=12,
        guesses=(SMALL, LEFT_UP), reg_max=2,
    ),
)  # fmt: skip
_ALL = (
    *_scopes("pairs on half cells", (2,), **_ONE, lattice=HALF_CELLS, truths=2, guesses=(SMALL, LARGE)),
    *_scopes(
        "pairs of two levels", (2,), **_TWO, lattice=CELLS, truths=2, guesses=(SMALL, LARGE, RIGHT_DOWN, LEFT_UP)
    ),
)  # fmt: skip
PROFILES: dict[str, tuple[Scope, ...]] = {
    "dev": _FIRST,
    "ci": (*_FIRST, *_MORE),
    "nightly": (*_FIRST, *_MORE, *_ALL),
}
"""What each profile judges, every image of it."""
SCOPES = {scope.name: scope for scope in PROFILES["nightly"]}
"""Every scope by its name."""
