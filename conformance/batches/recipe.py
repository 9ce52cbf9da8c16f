"""Recipe: a batch as one line of Python that can be read, changed and run."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle, islice

import torch
from torch import Tensor

from tal_conformance.batches.content.keypoints import keypoint_columns, predicted_keypoints, true_keypoints
from tal_conformance.batches.content.masks import mask_columns, predicted_masks, true_masks
from tal_conformance.batches.content.prediction_kinds import PREDICTION_KINDS_BY_TASK
from tal_conformance.batches.content.predictions import Copy, Scene, predictions
from tal_conformance.batches.content.truth_kinds import KINDS_BY_TASK
from tal_conformance.batches.content.truths import Canvas, Truth, resolve
from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.batches.one_line_repr import OneLineRepr
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import Grid, anchors, fold
from tal_conformance.core.names import unknown_name
from tal_conformance.core.task import DETECT, TASKS
from tal_reference import Head, Hyperparameters
from tal_reference.end_to_end import branch_hyperparameters

SAME = "same"
"""Value of `Recipe.one2one`: both branches predict the same."""
OTHER_SEEDS = 2**20
"""Difference between the seeds of the two branches' random numbers, more than every seed that a strategy draws."""

Resolved = list[list[tuple[int, tuple[float, ...]]]]
"""Class and pixel box of every ground truth of every image; rotated boxes have an angle as a fifth number."""


@dataclass(frozen=True, repr=False)
class Recipe(OneLineRepr):
    """Description of a batch. Its `repr` is the shortest call that makes an equal recipe, on one line.

    Attributes:
        images: the ground truths of each image, as a sequence or as `ManyTruths`; at least one image.
        cells: rows and columns of the first level's grid.
        strides: pixels per cell of each level; level l has ceil(size / stride) cells.
        classes: number of classes C.
        reg_max: number of bins R.
        predictions: kind of the predictions, a key of `PREDICTION_KINDS`.
        levels: number of different class logits of quantised predictions, which have whole and half distances; None if
            the predictions are not quantised.
        copies: ties to plant.
        shuffled: True if annotation rows are in random order instead of sorted by image.
        seed: seed of the random numbers in the predictions.
        streams: for each image the index of one of the seed's 256 streams of random numbers; by default image i has
            stream i, so that images differ.
        hyperparameters: hyperparameters of assigner and loss.
        class_weights: factors of the classes' cross-entropies (COR-7), repeated for further classes; empty: no class
            weights.
        task: name of the loss family, a key of `TASKS`.
        one2one: kind of the predictions of the branch one2one of an end-to-end head, a key of `PREDICTION_KINDS`;
            "" for the kind `predictions` with other random numbers; "same" for the predictions of the branch one2many.
        keypoints: numbers K and D of keypoints, for poses; None without keypoints.
        keypoint_kind: kind of the true keypoints, a key of `KEYPOINT_KINDS`.
        keypoint_sigmas: standard deviations of the keypoints, repeated for further keypoints; empty: by POSE-IN-3.
        prototypes: number n of prototypes, for masks; None without masks.
        mask_kind: kind of the true masks, a key of `MASK_KINDS`.
        mask_ratio: pixels of the input for each pixel of a true mask, in both directions.
        prototype_ratio: pixels of the input for each pixel of a prototype.
        overlapping_masks: True if the masks of an image are stored as one picture (SEG-IN-2).
    """

    images: tuple[Sequence[Truth], ...] = ((),)
    cells: tuple[int, int] = (4, 4)
    strides: tuple[int, ...] = (8,)
    classes: int = 1
    reg_max: int = 16
    predictions: str = "random"
    levels: int | None = None
    copies: tuple[Copy, ...] = ()
    shuffled: bool = False
    seed: int = 0
    streams: tuple[int, ...] = ()
    hyperparameters: Hyperparameters = Hyperparameters()
    class_weights: tuple[float, ...] = ()
    task: str = DETECT.name
    one2one: str = ""
    keypoints: tuple[int, int] | None = None
    keypoint_kind: str = "labelled"
    keypoint_sigmas: tuple[float, ...] = ()
    prototypes: int | None = None
    mask_kind: str = "ellipses"
    mask_ratio: int = 4
    prototype_ratio: int = 4
    overlapping_masks: bool = True

    @property
    def head(self) -> Head:
        """The head that the batch is for."""
        weights = tuple(islice(cycle(self.class_weights), self.classes)) or None
        count = 0 if self.keypoints is None else self.keypoints[0]
        sigmas = tuple(islice(cycle(self.keypoint_sigmas), count)) or None
        head = Head(self.strides, self.classes, self.reg_max, weights, self.keypoints, sigmas)
        if self.prototypes is not None:
            size, encoding = self.in_pixels_of(self.mask_ratio), self.overlapping_masks
            head = replace(head, prototypes=self.prototypes, masks=size, overlapping_masks=encoding)
        return replace(head, parts_assign=True) if TASKS[self.task].parts_assign else head

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels."""
        return self.cells[0] * self.strides[0], self.cells[1] * self.strides[0]

    def in_pixels_of(self, ratio: int) -> tuple[int, int]:
        """Return height and width of the input in larger pixels, of `ratio` pixels of the input; at least 1 each."""
        height, width = self.size
        return max(height // ratio, 1), max(width // ratio, 1)

    @property
    def grids(self) -> tuple[Grid, ...]:
        """Rows and columns of each level."""
        return grids(self.cells, self.strides)

    def build(self) -> Batch:
        """Return the batch: float32, on the CPU, identical in every run and on every machine.

        Raises:
            ValueError: the recipe has no image or cell, the numbers of streams and images differ, or a kind,
                class, copied ground truth or task does not exist.
        """
        if self.task not in KINDS_BY_TASK:
            raise ValueError(unknown_name("task", str(self.task), KINDS_BY_TASK))
        if not self.images or min(self.cells) < 1:
            raise ValueError(f"a recipe needs at least one image and one cell: {self}")
        if TASKS[self.task].branch_task:
            return self._with_branches(TASKS[self.task].branch_task)
        streams = self.streams or range(len(self.images))
        if len(streams) != len(self.images):
            raise ValueError(
                "a recipe needs one random stream for each image, "
                f"got {len(streams)} for {len(self.images)} images: {self}"
            )
        generators = tuple(torch.Generator().manual_seed(256 * self.seed + stream) for stream in streams)
        head = self.head
        height, width = self.size
        canvas = Canvas(width, height, self.strides)
        resolved = [resolve(truths, canvas, self.classes, KINDS_BY_TASK[self.task]) for truths in self.images]
        turned = "angle" in TASKS[self.task].box_columns
        scene = _scene(head, (height, width), resolved, self.grids, generators, turned)
        kinds = PREDICTION_KINDS_BY_TASK[self.task]
        distances, logits, *others = predictions(
            scene, self.predictions, self.levels, self.copies, self.hyperparameters, kinds
        )
        rows = _annotations(resolved, (height, width), turned)
        if self.keypoints is not None:
            truths = true_keypoints(scene, self.keypoint_kind, self.keypoints[0])  # (B, M, K, 3)
            rows = torch.cat((rows, keypoint_columns(scene, truths)), dim=1)  # (N, 6 + 3K)
            others = [predicted_keypoints(scene, truths, self.keypoints[1])]  # (B, A, K D)
        of_image: list[Tensor] = []
        if head.prototypes is not None and head.masks is not None:
            masks = true_masks(scene, self.mask_kind, head.masks, self.overlapping_masks)  # (B, M, h_m, w_m)
            rows = torch.cat((rows, mask_columns(scene, masks)), dim=1)  # (N, 6 + h_m w_m)
            size = self.in_pixels_of(self.prototype_ratio)
            coefficients, *of_image = predicted_masks(scene, masks, head.prototypes, size)
            others = [coefficients]  # (B, A, n)
        if self.shuffled:
            rows = _shuffled(rows, scene.uniform(len(rows))[0])
        maps = fold(distances, logits, self.grids, *others)
        batch = Batch((*maps, *of_image), rows, head, self.hyperparameters, repr(self), task=self.task)
        return replace(batch, hazards=hazards_of(batch))

    def _with_branches(self, task: str) -> Batch:
        """Return the batch of an end-to-end head, made of one batch of the given task for each branch (E2E-2)."""
        numbers = branch_hyperparameters(self.hyperparameters)
        many = replace(self, task=task, one2one="", hyperparameters=numbers["one2many"]).build()
        maps = many.feature_maps
        if self.one2one != SAME:
            other = replace(self, task=task, one2one="", hyperparameters=numbers["one2one"])
            kind, seed = self.one2one or self.predictions, self.seed + OTHER_SEEDS
            maps = replace(other, predictions=kind, seed=seed).build().feature_maps
        both = Batch(
            (*many.feature_maps, *maps),
            many.annotations,
            many.head,
            self.hyperparameters,
            repr(self),
            task=self.task,
        )
        return replace(both, hazards=hazards_of(both))


def grids(cells: tuple[int, int], strides: Sequence[int]) -> tuple[Grid, ...]:
    """Return the rows and columns of each level: ceil(input size / stride).

    The input size is `cells`, rows and columns of the first level, times the first stride.
    """
    rows, columns = (count * strides[0] for count in cells)
    return tuple((-(-rows // stride), -(-columns // stride)) for stride in strides)


def _scene(
    head: Head,
    size: tuple[int, int],
    resolved: Resolved,
    grids: tuple[Grid, ...],
    generators: tuple[torch.Generator, ...],
    turned: bool,
) -> Scene:
    most = max(1, *map(len, resolved))
    nothing: tuple[int, tuple[float, ...]] = (0, (0.0,) * (4 + turned))
    padded = [truths + [nothing] * (most - len(truths)) for truths in resolved]
    boxes = torch.tensor([[box for _, box in truths] for truths in padded], dtype=torch.float32)
    centres, strides = anchors(grids, head.strides)
    return Scene(
        head,
        size,
        centres,
        strides,
        boxes=boxes[..., :4],  # (B, M, 4)
        labels=torch.tensor([[label for label, _ in truths] for truths in padded]),  # (B, M)
        present=torch.arange(most) < torch.tensor([[len(truths)] for truths in resolved]),  # (B, M)
        generators=generators,
        turns=boxes[..., 4] if turned else None,  # (B, M)
    )


def _annotations(resolved: Resolved, size: tuple[int, int], turned: bool) -> Tensor:
    """Return the normalised annotation rows (N, 6) or (N, 7) of all images, sorted by image (ANN-1, OBB-ANN-1)."""
    height, width = size
    rows = [
        (
            image,
            label,
            (x1 + x2) / 2 / width,
            (y1 + y2) / 2 / height,
            (x2 - x1) / width,
            (y2 - y1) / height,
            *turn,
        )
        for image, truths in enumerate(resolved)
        for label, (x1, y1, x2, y2, *turn) in truths
    ]
    return torch.tensor(rows, dtype=torch.float32).reshape(-1, 6 + turned)


def _shuffled(rows: Tensor, lots: Tensor) -> Tensor:
    """Return the annotation rows in the order of the random numbers `lots` (N,).

    If there are several images, rows are never sorted by image.
    """
    rows = rows[lots.argsort(stable=True)]
    in_order = bool((rows[1:, 0] >= rows[:-1, 0]).all())
    return rows.flip(0) if in_order else rows
