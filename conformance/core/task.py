"""Loss families as data: the stages, head fields, terms, annotation columns and extras of each task.

A task is a task of Ultralytics: detection, rotated boxes, end-to-end heads, keypoints or masks. This module contains
data only. Code that handles a task is in the package concerned, in a table by the name of the task or of the term, so
that a term which several tasks share is implemented once.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:  # --help of a command lists the tasks, and must not import torch
    from tal_reference import Head

KEYPOINT_COLUMNS: Final = 3
"""Columns of a keypoint in annotation rows: x, y, both normalised, and visibility (POSE-IN-2)."""

Place = Literal["positives", "anchors", "image"]
"""Extent of a head field and of its gradient: predicted at every anchor, with a gradient at positives alone or at every
anchor, or predicted for the whole image."""
StageKind = Literal["inputs", "assignment", "term", "total", "gradients", "weights", "items"]
"""Subject of a stage: the assigner's inputs, the assignment, one term of the loss, their sum, the gradients, or the
weights of a head's branches and the items of both together."""


class StageName:
    """Names of the stages of assigner and loss, as in run logs, summaries and the ledger of known issues."""

    DECODE: Final = "decode"
    CANDIDATES: Final = "candidates"
    OVERLAP: Final = "overlap"
    METRIC: Final = "metric"
    TOP_K: Final = "top-k"
    CONFLICT: Final = "conflict"
    TARGETS: Final = "targets"
    NORMALISATION: Final = "normalisation"
    CLS: Final = "cls"
    BOX: Final = "box"
    DFL: Final = "dfl"
    ANGLE: Final = "angle"
    POSE: Final = "pose"
    KOBJ: Final = "kobj"
    SEG: Final = "seg"
    SEM: Final = "sem"
    TOTAL: Final = "total"
    GRADIENTS: Final = "gradients"
    WEIGHTS: Final = "weights"
    ITEMS: Final = "items"
    CALLING: Final = "calling"
    """Not a stage of the computation: the result depends on the way of calling (CALL-*)."""
    STATE: Final = "state"
    """Not a stage of the computation: the result depends on earlier calls (STATE-*)."""


@dataclass(frozen=True)
class Stage:
    """One step of the computation that is judged.

    Attributes:
        name: a constant of `StageName`.
        clause: the clause reported for a divergence at this stage, unless the comparison names a more specific one.
        kind: what the stage concerns.
    """

    name: str
    clause: str
    kind: StageKind


@dataclass(frozen=True)
class HeadField:
    """A group of channels that the head predicts at every anchor or for the whole image.

    Attributes:
        name: name of the group: "distances", "logits", "angle", "keypoints", "coefficients" or "prototypes".
        quantity: what messages call the values, such as "distance logits".
        width: function that returns the number of channels for a head.
        place: extent of the field. A field of the whole image is a feature map of its own, after those of the levels.
    """

    name: str
    quantity: str
    width: "Callable[[Head], int]"
    place: Place = "positives"


@dataclass(frozen=True)
class Term:
    """A summand of the loss, logged as one item.

    Attributes:
        name: name of the loss item and of the stage that judges it, such as "box".
        gain: attribute of `Hyperparameters` that weights the term.
        clauses: clauses of the specification that define the term.
        reads: names of the head fields on which the term has a gradient.
        weighted: True if every positive counts with its weight, and the sum is divided by N; False if all positives
            count in full, also those of weight 0 (COR-2).
    """

    name: str
    gain: str
    clauses: tuple[str, ...]
    reads: tuple[str, ...]
    weighted: bool = True

    @property
    def quantity(self) -> str:
        """Name of the term's value in messages, such as "box loss"."""
        return f"{self.name} loss"


@dataclass(frozen=True)
class Extra:
    """A tensor that a batch of the task contains besides feature maps and annotations.

    Attributes:
        name: key in `Batch.extras`: "masks", "keypoints", "prototypes".
        predicted: True if the head predicts the tensor, such as prototypes; it then has the feature maps' dtype.
    """

    name: str
    predicted: bool = False


@dataclass(frozen=True)
class Task:
    """Data about one loss family: head fields, terms, stages and annotation columns.

    Attributes:
        name: Ultralytics' name of the task, such as "detect".
        box_columns: annotation columns after image and class.
        fields: head fields, in the order of a feature map's channels.
        terms: terms of the loss, in the order of the loss items.
        stages: stages of one branch, in the order of judging.
        extras: further tensors of a batch, besides feature maps and annotations.
        branches: names of the heads' branches; "" for a head without branches. Stage names of a named branch begin
            with the branch: "one2one/top-k".
        branch_task: name of the task as which each branch is judged by itself; "" for a head without branches.
        joint: stages of all branches together, judged after those of the branches; none for a head without branches.
        has_keypoints: True if the head has keypoints, and the annotation rows three more columns for each: x, y and
            visibility.
        has_masks: True if the head has prototypes and masks, and the annotation rows one more column for each pixel of
            a mask.
        parts_assign: True if keypoints or masks take part in the assignment (P26-3, S26-1).
    """

    name: str
    box_columns: tuple[str, ...]
    fields: tuple[HeadField, ...]
    terms: tuple[Term, ...]
    stages: tuple[Stage, ...]
    extras: tuple[Extra, ...] = ()
    branches: tuple[str, ...] = ("",)
    branch_task: str = ""
    joint: tuple[Stage, ...] = ()
    has_keypoints: bool = False
    has_masks: bool = False
    parts_assign: bool = False

    @property
    def annotation_columns(self) -> int:
        """Number of columns of an annotation row, without keypoints and mask: image, class and the box."""
        return 2 + len(self.box_columns)

    def columns(self, head: "Head") -> int:
        """Return the number of columns of an annotation row of a head: image, class, box, keypoints and mask."""
        count, _ = head.keypoints if self.has_keypoints and head.keypoints is not None else (0, 0)
        height, width = head.masks if self.has_masks and head.masks is not None else (0, 0)
        return self.annotation_columns + KEYPOINT_COLUMNS * count + height * width

    @property
    def image_fields(self) -> tuple[HeadField, ...]:
        """Head fields of the whole image, in the order of their feature maps."""
        return tuple(field for field in self.fields if field.place == "image")

    def map_names(self, head: "Head") -> list[str]:
        """Return the name of every feature map: "stride 8", "stride 8 of one2one" or "prototypes"."""
        of_levels = [
            f"stride {stride:g}{f' of {branch}' if branch else ''}"
            for branch in self.branches
            for stride in head.strides
        ]
        return of_levels + [field.quantity for field in self.image_fields]

    def map_count(self, head: "Head") -> int:
        """Return the number of feature maps: one for each level of each branch, then one for each image field."""
        return len(head.strides) * len(self.branches) + len(self.image_fields)

    def field(self, name: str) -> HeadField:
        """Return a head field by its name.

        Raises:
            KeyError: the task has no such field.
        """
        for field in self.fields:
            if field.name == name:
                return field
        raise KeyError(f"task {self.name!r} has no head field {name!r}")

    def channels(self, head: "Head") -> int:
        """Return the number of channels of the feature map of every level (PRE-1)."""
        return sum(field.width(head) for field in self.fields if field.place != "image")

    @cached_property
    def clauses(self) -> dict[str, str]:
        """Map each stage's full name (`branch/stage`) to its clause, in the order of judging: branch after branch."""
        own = {
            stage_name(stage.name, branch): stage.clause for branch in self.branches for stage in self.stages
        }
        return own | {stage.name: stage.clause for stage in self.joint}

    @property
    def quantities(self) -> tuple[str, ...]:
        """Names of the values of the head fields in messages, such as "distance logits"."""
        return tuple(field.quantity for field in self.fields)

    def stages_of(self, *kinds: StageKind) -> tuple[str, ...]:
        """Return the names of the stages of the given kinds, without a branch, in the order of judging."""
        return tuple(stage.name for stage in self.stages if stage.kind in kinds)

    @property
    def item_names(self) -> tuple[str, ...]:
        """Names of the loss items, in the order of the items."""
        return tuple(term.name for term in self.terms)

    @cached_property
    def item_of(self) -> dict[str, int]:
        """Map the stage of each loss term to the term's index in the loss items, in the order of judging."""
        names = [term.name for term in self.terms]
        return {stage: names.index(stage) for stage in self.stages_of("term")}

    @property
    def counts_in_full(self) -> bool:
        """True if a term counts every positive in full, also those of weight 0 (COR-2)."""
        return not all(term.weighted for term in self.terms)

    def is_weighted(self, field: HeadField) -> bool:
        """Return True if the weights of the positives scale the gradient on a head field, and N divides it."""
        return any(term.weighted for term in self.terms if field.name in term.reads)

    def as_log_line(self) -> dict[str, Any]:
        """Return the stages and terms, in order, as the fields that describe the task in a run log's first line."""
        return {
            "stages": [{"name": name, "clause": clause} for name, clause in self.clauses.items()],
            "terms": [term.name for term in self.terms],
        }


def stage_name(name: str, branch: str) -> str:
    """Return the full name of a branch's stage: "one2one/top-k"; the name alone for the branch ""."""
    return f"{branch}/{name}" if branch else name


def _distances(head: "Head") -> int:
    return 4 * head.reg_max


def _classes(head: "Head") -> int:
    return head.classes


def _one(_: "Head") -> int:
    return 1


def _keypoints(head: "Head") -> int:
    count, numbers = head.keypoints or (0, 0)
    return count * numbers


def _prototypes(head: "Head") -> int:
    return head.prototypes or 0


DETECT: Final = Task(
    name="detect",
    box_columns=("cx", "cy", "w", "h"),
    fields=(
        HeadField("distances", "distance logits", _distances),
        HeadField("logits", "class logits", _classes, "anchors"),
    ),
    terms=(
        Term("box", "box_gain", ("LOSS-BOX-1",), ("distances",)),
        Term("cls", "cls_gain", ("LOSS-CLS-1",), ("logits",)),
        Term("dfl", "dfl_gain", ("LOSS-DFL-1",), ("distances",)),
    ),
    stages=(
        Stage(StageName.DECODE, "DEC-2", "inputs"),
        Stage(StageName.CANDIDATES, "TAL-CAND-1", "assignment"),
        Stage(StageName.OVERLAP, "TAL-MET-1", "assignment"),
        Stage(StageName.METRIC, "TAL-MET-1", "assignment"),
        Stage(StageName.TOP_K, "TAL-TOPK-1", "assignment"),
        Stage(StageName.CONFLICT, "TAL-CONF-1", "assignment"),
        Stage(StageName.TARGETS, "TAL-TGT-1", "assignment"),
        Stage(StageName.NORMALISATION, "TAL-NORM-1", "assignment"),
        Stage(StageName.CLS, "LOSS-CLS-1", "term"),
        Stage(StageName.BOX, "LOSS-BOX-1", "term"),
        Stage(StageName.DFL, "LOSS-DFL-1", "term"),
        Stage(StageName.TOTAL, "LOSS-GAIN-1", "total"),
        Stage(StageName.GRADIENTS, "LOSS-GRAD-1", "gradients"),
    ),
)
"""Detection with axis-aligned boxes: `v8DetectionLoss`."""

OBB: Final = Task(
    name="obb",
    box_columns=(*DETECT.box_columns, "angle"),
    fields=(*DETECT.fields, HeadField("angle", "angle", _one)),
    terms=(
        Term("box", "box_gain", ("OBB-BOX-1",), ("distances", "angle")),
        Term("cls", "cls_gain", ("LOSS-CLS-1",), ("logits",)),
        Term("dfl", "dfl_gain", ("OBB-DFL-1",), ("distances",)),
        Term("angle", "angle_gain", ("OBB-ANG-1",), ("angle",)),
    ),
    stages=(
        Stage(StageName.DECODE, "OBB-DEC-2", "inputs"),
        Stage(StageName.CANDIDATES, "OBB-CAND-1", "assignment"),
        Stage(StageName.OVERLAP, "OBB-MET-1", "assignment"),
        *DETECT.stages[3:8],
        Stage(StageName.CLS, "OBB-CLS-1", "term"),
        Stage(StageName.BOX, "OBB-BOX-1", "term"),
        Stage(StageName.DFL, "OBB-DFL-1", "term"),
        Stage(StageName.ANGLE, "OBB-ANG-1", "term"),
        *DETECT.stages[11:],
    ),
)
"""Rotated boxes: `v8OBBLoss`. Metric, top-k, conflict, targets, normalisation and the class loss are detection's."""


POSE: Final = Task(
    name="pose",
    box_columns=DETECT.box_columns,
    fields=(*DETECT.fields, HeadField("keypoints", "keypoints", _keypoints)),
    terms=(
        DETECT.terms[0],
        Term("pose", "pose_gain", ("POSE-4",), ("keypoints",), weighted=False),
        Term("kobj", "kobj_gain", ("POSE-5",), ("keypoints",), weighted=False),
        *DETECT.terms[1:],
    ),
    stages=(
        *DETECT.stages[:11],
        Stage(StageName.POSE, "POSE-4", "term"),
        Stage(StageName.KOBJ, "POSE-5", "term"),
        *DETECT.stages[11:],
    ),
    has_keypoints=True,
)
"""Poses: `v8PoseLoss`. The assignment and the terms box, cls and dfl are detection's (POSE-1)."""

SEGMENT: Final = Task(
    name="segment",
    box_columns=DETECT.box_columns,
    fields=(
        *DETECT.fields,
        HeadField("coefficients", "mask coefficients", _prototypes),
        HeadField("prototypes", "prototypes", _prototypes, "image"),
    ),
    terms=(
        DETECT.terms[0],
        Term("seg", "box_gain", ("SEG-2", "SEG-3"), ("coefficients", "prototypes"), weighted=False),
        *DETECT.terms[1:],
        Term("sem", "box_gain", ("SEG-SUM-1",), (), weighted=False),
    ),
    stages=(
        *DETECT.stages[:11],
        Stage(StageName.SEG, "SEG-3", "term"),
        Stage(StageName.SEM, "SEG-SUM-1", "term"),
        *DETECT.stages[11:],
    ),
    has_masks=True,
)
"""Masks: `v8SegmentationLoss`. The assignment and the terms box, cls and dfl are detection's. The term sem is 0: heads
without semantic logits (SEG-SUM-1)."""

POSE26: Final = replace(
    POSE,
    name="pose26",
    stages=(
        POSE.stages[0],
        Stage(StageName.CANDIDATES, "P26-2", "assignment"),
        Stage(StageName.OVERLAP, "P26-3", "assignment"),
        *POSE.stages[3:],
    ),
    parts_assign=True,
)
"""Poses of YOLO26: `PoseLoss26`, without flow. Keypoints take part in the assignment; terms are those of poses."""

SEGMENT26: Final = replace(
    SEGMENT,
    name="segment26",
    stages=(
        *SEGMENT.stages[:2],
        Stage(StageName.OVERLAP, "S26-1", "assignment"),
        *SEGMENT.stages[3:],
    ),
    parts_assign=True,
)
"""Masks of YOLO26: `SegmentLoss26`. Masks take part in the assignment; terms are those of masks."""

E2E: Final = Task(
    name="e2e",
    box_columns=DETECT.box_columns,
    fields=DETECT.fields,
    terms=DETECT.terms,
    stages=DETECT.stages,
    branches=("one2many", "one2one"),
    branch_task=DETECT.name,
    joint=(
        Stage(StageName.WEIGHTS, "E2E-4", "weights"),
        Stage(StageName.ITEMS, "E2E-3", "items"),
        Stage(StageName.TOTAL, "E2E-3", "total"),
        Stage(StageName.GRADIENTS, "E2E-6", "gradients"),
    ),
)
"""End-to-end detection (YOLOv10, YOLO26): two branches, each judged as detection, and their weighted sum."""


def task_of(head: "Head", columns: int, maps: int | None = None) -> Task:
    """Return the task of a call; adapters of several tasks choose by it.

    Args:
        head: head of the call.
        columns: number of columns of the annotation rows.
        maps: number of feature maps; None: as many as a head without branches has.

    Raises:
        ValueError: no task has such rows and so many feature maps for the head.
    """
    for task in TASKS.values():
        same_parts = (head.keypoints is not None, head.masks is not None, bool(head.parts_assign)) == (
            task.has_keypoints,
            task.has_masks,
            task.parts_assign,
        )
        fits = len(task.branches) == 1 if maps is None else maps == task.map_count(head)
        if same_parts and fits and columns == task.columns(head):
            return task
    raise ValueError(
        f"annotation rows have {columns} columns and the batch {maps or 'any number of'} feature maps, which no task"
        f" has for {head}"
    )


TASKS: Final = {task.name: task for task in (DETECT, OBB, E2E, POSE, SEGMENT, POSE26, SEGMENT26)}
"""Every task by its name."""
