"""The description of one choice in which dialects differ: its clause and the meaning of its values in words."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from tal_reference.variations import Overlap

DETECT, END_TO_END, ROTATED = "detect", "e2e", "obb"
"""Names of the tasks that follow choices: detection, heads with two branches, rotated boxes."""
UPRIGHT = DETECT, END_TO_END
"""Tasks with boxes that are not turned, which follow the choices of detection."""


@dataclass(frozen=True)
class Choice:
    """Description of one choice in which dialects differ.

    Attributes:
        clause: clause of the specification.
        words: meaning of every value, as part of a sentence; for a number, of the two values that releases have.
        short: shorter meaning of a value, to follow the word "with"; for a missing value, `words` is used.
        tasks: names of the tasks whose reference follows the choice.
    """

    clause: str
    words: Mapping[Any, str]
    short: Mapping[Any, str] = field(default_factory=dict)
    tasks: tuple[str, ...] = UPRIGHT


OVERLAP_NAMES = {
    Overlap.CIOU: "CIoU",
    Overlap.IOU: "plain IoU",
    Overlap.GIOU: "GIoU",
    Overlap.DIOU: "DIoU",
    Overlap.V_SQUARED: "CIoU with v squared",
    Overlap.IOU_SQUARED: "squared IoU",
}
"""Names of overlaps in sentences."""

SHARED_WITH_ROTATED = (
    "small_box_floor", "one_level", "topk2", "score_sum_floor", "single_bin", "rows_sorted",
)  # fmt: skip
"""Choices of detection that rotated boxes follow too."""

CHOICES_OF_BRANCHES = {
    "weighted_branches": Choice(
        "E2E-3",
        {
            True: "the two branches are weighted, and one2one selects 7 anchors and keeps 1",
            False: "the losses and the items of the two branches are added, and one2one selects 1 anchor",
        },
        {True: "branches weighted", False: "branches added without weights"},
        (END_TO_END,),
    ),
}
"""Choices of end-to-end heads."""

CHOICES_OF_ROTATED_BOXES = {
    "filter_exchanged": Choice(
        "OBB-ANN-2",
        {
            False: "rows are dropped by the sides in pixels",
            True: "rows are dropped by w times the input's height and h times its width",
        },
        {False: "rows dropped by their sides in pixels", True: "the filter's width and height exchanged"},
        (ROTATED,),
    ),
    "widened_truths": Choice(
        "OBB-CAND-1",
        {
            False: "overlap, targets and losses are those of the ground truth as annotated",
            True: "a ground truth with a side below the floor becomes the widened box, in overlap, targets and losses",
        },
        {
            False: "ground truths as annotated in overlap, targets and losses",
            True: "small ground truths replaced by widened ones",
        },
        (ROTATED,),
    ),
    "box_variance": Choice(
        "OBB-BOX-1",
        {
            0.01: "the box loss adds a variance of 0.01 to both boxes",
            0.0: "the box loss adds no variance, so that small boxes have large gradients",
        },
        {0.01: "a variance of 0.01 in the box loss", 0.0: "no variance in the box loss"},
        (ROTATED,),
    ),
    "turned_distances": Choice(
        "OBB-DFL-1",
        {
            True: "target distances are measured along the box's own axes",
            False: "target distances are measured along the axes of the image, as if the box were not turned",
        },
        {True: "target distances along the box's own axes", False: "target distances along the axes of the image"},
        (ROTATED,),
    ),
    "angle_term": Choice(
        "OBB-ANG-1",
        {True: "the loss has an angle term", False: "the loss has no angle term"},
        {True: "an angle loss", False: "no angle loss"},
        (ROTATED,),
    ),
}
"""Choices of rotated boxes, by stage."""
