"""The inputs of one call of a loss, not validated, and facts about them that several findings need.

N is the number of annotation rows, B of images, A of anchors of one image.
"""

from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import torch
from torch import Tensor

from tal_conformance.core import case_file
from tal_conformance.core.case_file import Content, InvalidCase
from tal_conformance.core.circumstances import Circumstances
from tal_conformance.core.geometry import anchors, pixel_boxes
from tal_conformance.core.task import DETECT, TASKS
from tal_reference import NEWEST, Dialect, Hyperparameters
from tal_reference.anchors import Anchors
from tal_reference.assignment import INSIDE, distance_inside
from tal_reference.decoding import decode
from tal_reference.end_to_end import branch_hyperparameters

LISTED = 3
"""Maximum number of rows that a sentence names."""


@dataclass(frozen=True)
class Inputs:
    """The inputs of one call of a loss. They need not be valid: a loss may have raised an error on them.

    Attributes:
        content: content of a case file.
        dialect: dialect of the loss that received the inputs.
        circumstances: circumstances in which the inputs were recorded.
    """

    content: Content
    dialect: Dialect = NEWEST
    circumstances: Circumstances = field(default_factory=Circumstances)

    @property
    def classes(self) -> int:
        """Number of classes C."""
        return self.content.head.classes

    @cached_property
    def maps(self) -> tuple[Tensor, ...]:
        """Feature maps (B, channels, H, W) of all levels, on the CPU."""
        return tuple(level.detach().cpu() for level in self.content.feature_maps)

    @cached_property
    def rows(self) -> Tensor:
        """Annotation rows (N, 6 or more), float64 on the CPU; (0, 6) if the annotations have another shape."""
        rows = self.content.annotations.detach().cpu().double()
        return rows if rows.dim() == 2 and rows.shape[1] >= 6 else rows.new_zeros(0, 6)

    @cached_property
    def well_shaped(self) -> bool:
        """True if every feature map has the dimensions and channels of the head (PRE-1)."""
        head, task = self.content.head, TASKS.get(self.content.task)
        if task is None or len(self.maps) != task.map_count(head) or not self.maps:
            return False
        widths = [task.channels(head)] * (len(self.maps) - len(task.image_fields))
        widths += [field.width(head) for field in task.image_fields]
        return all(
            level.dim() == 4 and level.shape[1] == width and 0 not in level.shape
            for level, width in zip(self.maps, widths, strict=True)
        )

    @property
    def levels(self) -> list[str]:
        """Name of every feature map in messages, such as "stride 8" or "stride 8 of one2one"."""
        return TASKS[self.content.task].map_names(self.content.head)

    @property
    def image_maps(self) -> list[str]:
        """Name of every feature map of a field of the whole image, such as "prototypes"."""
        return [field.quantity for field in TASKS[self.content.task].image_fields]

    @property
    def axis_aligned(self) -> bool:
        """True if boxes of ground truths have no angle: TAL-CAND-1 defines their candidates, for poses too (POSE-1)."""
        return TASKS[self.content.task].box_columns == DETECT.box_columns

    @cached_property
    def hyperparameters(self) -> dict[str, Hyperparameters]:
        """Hyperparameters of every branch of the head by the branch's name, which is "" without branches (E2E-2)."""
        numbers = self.content.hyperparameters
        if not TASKS[self.content.task].branch_task:
            return {"": numbers}
        return branch_hyperparameters(numbers, self.dialect)

    @property
    def images(self) -> int:
        """Number B of images."""
        return self.maps[0].shape[0]

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each level; branches of a head have equal grids."""
        levels = self.maps[: len(self.content.head.strides)]
        return tuple((level.shape[2], level.shape[3]) for level in levels)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels (PRE-2)."""
        rows, columns = self.grids[0]
        stride = self.content.head.strides[0]
        return rows * stride, columns * stride

    @cached_property
    def anchors(self) -> tuple[Tensor, Tensor]:
        """Anchor centres (A, 2) in pixels, and strides (A,)."""
        return anchors(self.grids, self.content.head.strides)

    @cached_property
    def level_starts(self) -> list[int]:
        """Index of the first anchor of every level."""
        counts = [rows * columns for rows, columns in self.grids]
        return [sum(counts[:level]) for level in range(len(counts))]

    @cached_property
    def boxes(self) -> Tensor:
        """Boxes (N, 4) of the rows, float64, xyxy in pixels, without angle (ANN-1)."""
        return pixel_boxes(self.rows, self.size)

    @cached_property
    def normalised(self) -> Tensor:
        """Boxes (N, 4) of the rows, float64, as shares of the input's width and height."""
        return pixel_boxes(self.rows, (1, 1))

    @cached_property
    def finite(self) -> Tensor:
        """Mask (N,) bool: True for rows of finite numbers."""
        return self.rows.isfinite().all(1)

    @cached_property
    def usable(self) -> Tensor:
        """Mask (N,) bool: True for finite rows with an image of the batch and sides of at least zero (ANN-1)."""
        image = self.rows[:, 0]  # (N,)
        return self.finite & (image >= 0) & (image < self.images) & (self.rows[:, 4:6] >= 0).all(1)

    @cached_property
    def real(self) -> Tensor:
        """Mask (N,) bool: True for usable rows that become real ground truths (ANN-3)."""
        return self.usable & (self.boxes.sum(1) > 0)

    @cached_property
    def predicted(self) -> Tensor | None:
        """Predicted boxes (B, A, 4), float32, xyxy in pixels; None with branches or predictions that are not finite."""
        levels = self.maps[: len(self.grids)]  # without the prototypes of a head with masks
        if len(TASKS[self.content.task].branches) > 1 or not all(level.isfinite().all() for level in levels):
            return None
        flat = torch.cat([level.float().flatten(2) for level in levels], 2)  # (B, channels, A)
        centres, strides = self.anchors[0], self.anchors[1][:, None]  # (A, 2), (A, 1)
        bins = self.content.head.reg_max
        boxes = decode(
            flat[:, : 4 * bins].mT, Anchors(centres / strides, strides), bins
        )  # (B, A, 4) grid units
        return boxes * strides

    def candidates(self, row: int) -> Tensor:
        """Return the indices of the candidate anchors of a row's ground truth (TAL-CAND-1, TAL-CAND-2)."""
        box = self.boxes[row][None].float()  # (1, 4) float32, as in official code
        floor = self.dialect.floor(self.content.head.strides)
        (found,) = (distance_inside(box, self.anchors[0], floor)[0] > INSIDE).nonzero(as_tuple=True)
        return found


def read_inputs(path: Path, dialect: Dialect = NEWEST) -> Inputs:
    """Return the inputs of a case file, which need not hold a valid batch.

    Raises:
        InvalidCase: the file is not a case file, or is damaged.
        OSError: the file cannot be read.
    """
    try:
        return Inputs(case_file.read(path), dialect, case_file.read_circumstances(path))
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise InvalidCase(f"cannot read case file {path}: {case_file.format_error(error)}") from error


def listed(mask: Tensor) -> str:
    """Return the rows of a mask (N,) as words: "row 4", "rows 0, 1, 2 and 5 more"."""
    rows = torch.as_tensor(mask).nonzero().flatten().tolist()
    text = ", ".join(map(str, rows[:LISTED]))
    more = f" and {len(rows) - LISTED:,} more" if len(rows) > LISTED else ""
    return f"row{'s' if len(rows) > 1 else ''} {text}{more}"
