"""Batch: the inputs of an assigner and of a detection loss, with an id and a file format."""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Self

import torch
from torch import Tensor

from tal_conformance.core import case_file
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.geometry import pixel_boxes
from tal_conformance.core.names import unknown_name
from tal_conformance.core.task import DETECT, TASKS, Task
from tal_reference import Head, Hyperparameters

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
"""Dtypes that feature maps may have."""
LARGEST_FLOAT32 = torch.finfo(torch.float32).max
"""Largest hyperparameter, except k and topk2."""
FEW_ROWS = 32
"""Up to this number of annotation rows, a Python loop checks them faster than vectorised operations do."""
LISTED = 6
"""Number of images, and of ground truths of one image, that `Batch.describe` spells out; it counts the others."""


@dataclass(frozen=True, eq=False, repr=False)
class Batch:
    """The inputs of a detection loss, from which those of its assigner are decoded.

    Attributes:
        feature_maps: one tensor (B, 4R + C, H_l, W_l) for each level l; all of one dtype, on one device (PRE-1). Of a
            head with branches, the feature maps of the first branch, then those of the second, with equal grids. Of a
            head with masks, the prototypes (B, n, h_p, w_p) follow.
        annotations: (N, 6) float32 rows (image, class, cx, cy, w, h), the last four normalised by the input's
            width and height; they may lie outside [0, 1] (ANN-1). On the feature maps' device. Other tasks may
            have more columns.
        head: strides in pixels, classes C, bins R, class weights.
        hyperparameters: hyperparameters of assigner and loss.
        origin: the recipe that built the batch, as one line of Python, or the place where it was recorded.
        hazards: names of the hazards that the batch contains; `HAZARDS` lists all names.
        autocast: True if the loss is called with automatic mixed precision, in the feature maps' dtype, as in training.
        task: name of the loss family, a key of `TASKS`. It decides the feature maps' channels and the annotations'
            columns.
        extras: tensors of the task's other inputs by name, on the feature maps' device; none for detection.

    Raises:
        ValueError: the parts do not fit each other, a hyperparameter is out of range, or an annotation row is
            invalid. Rows are checked only on the CPU: on other devices that would cost a synchronisation.
    """

    feature_maps: tuple[Tensor, ...]
    annotations: Tensor
    head: Head
    hyperparameters: Hyperparameters = Hyperparameters()
    origin: str = ""
    hazards: frozenset[str] = frozenset()
    autocast: bool = False
    task: str = DETECT.name
    extras: Mapping[str, Tensor] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.task not in TASKS:
            raise ValueError(unknown_name("task", str(self.task), TASKS))
        _check_hyperparameters(self.hyperparameters)
        _check_class_weights(self.head)
        _check_keypoints(self.head, self.family)
        _check_masks(self.head, self.family)
        _check_maps(self.feature_maps, self.head, self.family)
        _check_annotations(self.annotations, self.images, self.head, self.device, self.family)
        _check_pixels(self.annotations, self.head, self.family)
        _check_extras(self.extras, self.device, self.family)

    def __repr__(self) -> str:
        readable = self.device.type == "cpu"
        return f"<Batch {self.id}: {self.describe()}>" if readable else f"<Batch on {self.device}>"

    @cached_property
    def id(self) -> str:
        """First 12 hexadecimal digits of a SHA-256 over the content, which excludes origin, hazards and device.

        Hyperparameters, task and extras with default values are left out of the hash, so that a field added in a later
        version does not change existing ids.
        """
        head: dict[str, object] = {
            "strides": self.head.strides, "classes": self.head.classes, "reg_max": self.head.reg_max,
        }  # fmt: skip
        for name in case_file.OPTIONAL_OF_HEAD:
            if getattr(self.head, name) is not None:
                head[name] = getattr(self.head, name)
        settings: dict[str, object] = {"head": head, "hyperparameters": _changed(self.hyperparameters)}
        if self.autocast:
            settings["autocast"] = True
        if self.task != DETECT.name:
            settings["task"] = self.task
        tensors = case_file.batch_tensors(self.feature_maps, self.annotations, self.extras)
        return case_file.digest(settings, tensors)[:12]

    @property
    def family(self) -> Task:
        """The batch's loss family: its stages, loss terms and head fields."""
        return TASKS[self.task]

    @property
    def turned(self) -> bool:
        """True if annotation rows have an angle, in their seventh column."""
        return "angle" in self.family.box_columns

    @property
    def images(self) -> int:
        """Number B of images in the batch."""
        return self.feature_maps[0].shape[0]

    @property
    def anchors(self) -> int:
        """Number of anchors A of one image: all cells of all levels of one branch."""
        return sum(rows * columns for rows, columns in self.grids)

    @property
    def grids(self) -> tuple[tuple[int, int], ...]:
        """Rows and columns of each level."""
        return tuple((level.shape[2], level.shape[3]) for level in self.levels)

    @property
    def levels(self) -> tuple[Tensor, ...]:
        """The feature maps of the levels, one for each stride; with branches, those of the first one."""
        return self.feature_maps[: len(self.head.strides)]

    @property
    def named_maps(self) -> list[tuple[str, Tensor]]:
        """Name and values of every feature map: "stride 8", "stride 8 of one2one" or "prototypes"."""
        names = self.family.map_names(self.head)
        return list(zip(names, self.feature_maps, strict=True))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the input in pixels: the first level's grid times its stride (PRE-2)."""
        rows, columns = self.grids[0]
        return rows * self.head.strides[0], columns * self.head.strides[0]

    @property
    def dtype(self) -> torch.dtype:
        """Dtype of the feature maps."""
        return self.feature_maps[0].dtype

    @property
    def device(self) -> torch.device:
        """Device of all tensors."""
        return self.feature_maps[0].device

    def to(self, device: torch.device | str | None = None, dtype: torch.dtype | None = None) -> Self:
        """Return a copy of the batch on another device, with predictions in another dtype; annotations stay float32.

        A batch of another dtype has another id and no hazards; `with_hazards` finds them.
        """
        if dtype in (None, self.dtype) and (device is None or torch.device(device) == self.device):
            return self
        maps = tuple(level.to(dtype=dtype or self.dtype) for level in self.feature_maps)
        predicted = {extra.name for extra in self.family.extras if extra.predicted}
        extras = {
            name: tensor.to(dtype=dtype or self.dtype) if name in predicted else tensor
            for name, tensor in self.extras.items()
        }
        hazards = self.hazards if dtype in (None, self.dtype) else frozenset[str]()
        batch = dataclasses.replace(self, feature_maps=maps, hazards=hazards, extras=extras)
        if device is None:
            return batch
        return dataclasses.replace(
            batch,
            feature_maps=tuple(level.to(device) for level in batch.feature_maps),
            annotations=batch.annotations.to(device),
            extras={name: tensor.to(device) for name, tensor in batch.extras.items()},
        )

    def describe(self) -> str:
        """Return the content as one readable line: sizes, ground truths in pixels, kind of predictions."""
        height, width = self.size
        boxes = pixel_boxes(self.annotations.cpu(), self.size).tolist()
        rows = [(int(image), int(label)) for image, label in self.annotations[:, :2].tolist()]
        truths: list[list[str]] = [[] for _ in range(self.images)]
        turns = (
            [f" turned by {angle:.6g}" for angle in self.annotations[:, 6].tolist()] if self.turned else []
        )
        for number, ((image, label), (x1, y1, x2, y2)) in enumerate(zip(rows, boxes, strict=True)):
            text = f"class {label} at ({x1:.6g}, {y1:.6g})-({x2:.6g}, {y2:.6g})"
            truths[image].append(text + (turns[number] if turns else ""))
        parts = [f"image {image}: {_join(texts)}" for image, texts in enumerate(truths[:LISTED])]
        parts += [f"{len(truths) - LISTED} more images, {sum(map(len, truths[LISTED:]))} GT"] * (
            len(truths) > LISTED
        )
        strides = f"stride{'s' * (len(self.head.strides) > 1)} {'/'.join(map(str, self.head.strides))}"
        sizes = [
            f"{_count(self.images, 'image')} {width}x{height} px",
            strides,
            _count(self.head.classes, "class"),
        ]
        settings = _changed(self.hyperparameters) + _changed(self.head, "reg_max")
        if self.dtype != torch.float32:
            precision = str(self.dtype).removeprefix("torch.")
            settings.append(f"{precision} under autocast" if self.autocast else precision)
        if self.task != DETECT.name:
            settings.append(f"task {self.task}")
        if (weights := self.head.class_weights) is not None:
            settings.append(f"class weights {min(weights):.6g} to {max(weights):.6g}")
        if self.head.keypoints is not None:
            settings.append(f"keypoints {self.head.keypoints[0]}x{self.head.keypoints[1]}")
        if (sigmas := self.head.keypoint_sigmas) is not None:
            settings.append(f"keypoint sigmas {min(sigmas):.6g} to {max(sigmas):.6g}")
        if self.head.masks is not None:
            encoding = "overlapping" if self.head.overlapping_masks else "instance"
            settings.append(
                f"{self.head.prototypes} prototypes {'x'.join(map(str, self.feature_maps[-1].shape[2:]))},"
                f" {encoding} masks {'x'.join(map(str, self.head.masks))}"
            )
        settings += [f"{name} {tuple(tensor.shape)}" for name, tensor in self.extras.items()]
        return "; ".join([f"{', '.join(sizes + settings)}: {parts[0]}", *parts[1:], self._predictions()])

    def save(self, path: Path | str) -> None:
        """Write a case file atomically: safetensors, with JSON in the header.

        Raises:
            OSError: the file cannot be written.
        """
        case_file.write(
            Path(path), case_file.Content(*(getattr(self, name) for name in case_file.Content._fields))
        )

    @classmethod
    def load(cls, path: Path | str) -> Self:
        """Return the batch of a case file, on the CPU. Nothing in the file is executed.

        Raises:
            InvalidCase: the file does not hold a valid batch.
            OSError: the file cannot be read.
        """
        try:
            return cls(*case_file.read(Path(path)))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidCase(f"cannot read case file {path}: {case_file.format_error(error)}") from error

    def _predictions(self) -> str:
        words = {"constant_predictions": "constant", "quantised": "quantised", "saturated": "saturated"}
        named = [word for name, word in words.items() if name in self.hazards]
        return f"{' and '.join(named) or 'varied'} predictions"


def _count(number: int, noun: str) -> str:
    plural = noun + ("es" if noun.endswith("s") else "s")
    return f"{number} {noun if number == 1 else plural}"


def _join(truths: list[str]) -> str:
    spelled = truths[:LISTED] + [f"and {len(truths) - LISTED} more"] * (len(truths) > LISTED)
    return ", ".join(spelled) or "no GT"


def _changed(settings: Head | Hyperparameters, *names: str) -> list[str]:
    """Return "name value" for each field of `settings`, or only those in `names`, that differs from its default."""
    values = {field.name: getattr(settings, field.name) for field in dataclasses.fields(settings)}
    defaults = {field.name: field.default for field in dataclasses.fields(settings)}
    chosen = [name for name in values if (not names or name in names) and values[name] != defaults[name]]
    return [f"{name} {values[name]:.17g}" if values[name] is not None else f"{name} None" for name in chosen]


def _check_hyperparameters(numbers: Hyperparameters) -> None:
    """Raise ValueError unless every hyperparameter has a meaning in float32, in which official code computes.

    k must be at least 1 and topk2 at least 0. Exponents and gains must be at least 0, and finite in float32.
    """
    for name, smallest in (("topk", 1), ("topk2", 0), ("updates", 0), ("epochs", 0)):
        number = getattr(numbers, name)
        if number is None and name == "topk2":
            continue
        if type(number) is not int or not smallest <= number <= case_file.LARGEST:
            raise ValueError(
                f"hyperparameter {name} is {number!r}, expected an integer from {smallest} to {case_file.LARGEST}"
            )
    gains = (f"{name}_gain" for name in ("box", "cls", "dfl", "angle", "pose", "kobj", "rle"))
    for name in ("alpha", "beta", *gains):
        number = getattr(numbers, name)
        if type(number) not in (int, float) or not 0 <= number <= LARGEST_FLOAT32:
            raise ValueError(
                f"hyperparameter {name} is {number!r}, expected a number from 0 to {LARGEST_FLOAT32:.6g}, the largest"
                " of float32"
            )


def _check_class_weights(head: Head) -> None:
    """Raise ValueError unless every class weight is a number of float32, the dtype of `model.class_weights` (COR-7)."""
    if head.class_weights is None:
        return
    rounded = torch.tensor(head.class_weights, dtype=torch.float32).tolist()
    for label, (weight, stored) in enumerate(zip(head.class_weights, rounded, strict=True)):
        if weight != stored:
            raise ValueError(
                f"class weight {label} is {weight!r}, expected a float32 number such as {stored!r}"
            )


def _check_maps(feature_maps: tuple[Tensor, ...], head: Head, task: Task) -> None:
    """Raise ValueError unless the maps fit the head and agree in images, dtype and device (PRE-1)."""
    channels, levels, branches = task.channels(head), len(head.strides), len(task.branches)
    if len(feature_maps) != task.map_count(head):
        each = "one per stride" if branches == 1 else f"{branches} per stride, one of each branch"
        each += "".join(f", and one of {field.quantity}" for field in task.image_fields)
        raise ValueError(f"got {len(feature_maps)} feature maps for {levels} strides, expected {each}")
    first = feature_maps[0]
    widths = [channels] * (levels * branches) + [field.width(head) for field in task.image_fields]
    for number, (level, width) in enumerate(zip(feature_maps, widths, strict=True)):
        if level.dim() != 4 or level.shape[1] != width or 0 in level.shape:
            raise ValueError(
                f"feature map {number} is {tuple(level.shape)}, expected (B, {width}, H, W) without sizes of 0"
            )
        if level.shape[0] != first.shape[0]:
            raise ValueError(
                f"feature map {number} has {level.shape[0]} images, expected {first.shape[0]} as in the first map"
            )
        if level.dtype != first.dtype or level.dtype not in FLOATS or level.device != first.device:
            raise ValueError(
                f"feature map {number} is {level.dtype} on {level.device}, the first {first.dtype} on"
                f" {first.device}; expected one device and one of {', '.join(map(str, FLOATS))} for all"
            )
        if number < levels * branches and level.shape != feature_maps[number % levels].shape:
            raise ValueError(
                f"feature map {number} is {tuple(level.shape)}, expected {tuple(feature_maps[number % levels].shape)}"
                f" as in the branch {task.branches[0]}"
            )


def _check_annotations(
    annotations: Tensor, images: int, head: Head, device: torch.device, task: Task
) -> None:
    """Raise ValueError unless every row is a valid annotation of a batch with `images` images and the given head."""
    columns, classes = task.columns(head), head.classes
    if annotations.dim() != 2 or annotations.shape[1] != columns or annotations.dtype != torch.float32:
        raise ValueError(
            f"annotations are {tuple(annotations.shape)} {annotations.dtype}, expected (N, {columns}) torch.float32"
        )
    if annotations.device != device:
        raise ValueError(
            f"annotations are on {annotations.device}, the feature maps on {device}; expected one device for both"
        )
    if device.type != "cpu":
        return
    if len(annotations) > FEW_ROWS and _all_annotations(annotations, images, classes):
        return
    finite = annotations.isfinite().all(1).tolist()
    for number, row in enumerate(annotations[:, : task.annotation_columns].tolist()):
        image, label, _, _, width, height, *_ = row
        if not finite[number]:
            column = int((~annotations[number].isfinite()).nonzero()[0])
            raise ValueError(
                f"annotation row {number} is not finite: column {column} is {float(annotations[number, column])};"
                " remove the row or correct it"
            )
        if image not in range(images):
            raise ValueError(f"annotation row {number} names image {image:g}, expected 0 to {images - 1}")
        if label not in range(classes):
            raise ValueError(f"annotation row {number} names class {label:g}, expected 0 to {classes - 1}")
        if width < 0 or height < 0:
            raise ValueError(f"annotation row {number} has a negative width or height: {row}; expected >= 0")


def _check_keypoints(head: Head, task: Task) -> None:
    """Raise ValueError unless the head has keypoints exactly if the task has (POSE-IN-1), with sigmas of float32."""
    if (head.keypoints is not None) != task.has_keypoints:
        expected = "the number of keypoints, such as (17, 3)" if task.has_keypoints else "None"
        raise ValueError(f"head.keypoints is {head.keypoints!r}; task {task.name!r} expects {expected}")
    sigmas = head.keypoint_sigmas
    if sigmas is None:  # as for most heads
        return
    for number, (sigma, stored) in enumerate(zip(sigmas, torch.tensor(sigmas).tolist(), strict=True)):
        if sigma != stored:
            raise ValueError(
                f"keypoint sigma {number} is {sigma!r}, expected a float32 number such as {stored!r}"
            )


def _check_masks(head: Head, task: Task) -> None:
    """Raise ValueError unless the head has masks exactly if the task has (SEG-IN-1)."""
    if (head.masks is not None) != task.has_masks:
        expected = "the height and width of the true masks" if task.has_masks else "None"
        raise ValueError(f"head.masks is {head.masks!r}; task {task.name!r} expects {expected}")
    if bool(head.parts_assign) != task.parts_assign:
        expected = "True: its keypoints or masks take part in the assignment" if task.parts_assign else "None"
        raise ValueError(f"head.parts_assign is {head.parts_assign!r}; task {task.name!r} expects {expected}")


def _check_pixels(annotations: Tensor, head: Head, task: Task) -> None:
    """Raise ValueError unless the masks of valid annotation rows fit the head's encoding.

    Pixels are between 0 and 1. Masks of one picture per image are 0 or 1, and do not overlap (SEG-IN-2).
    """
    if not task.has_masks or annotations.device.type != "cpu" or not len(annotations):
        return
    pixels = annotations[:, task.annotation_columns :]  # (N, h_m w_m)
    if bool(((pixels < 0) | (pixels > 1)).any()):
        raise ValueError(
            "a pixel of a mask lies outside [0, 1]: expected 0 for background and 1 for the object"
        )
    if not head.overlapping_masks:
        return
    image = annotations[:, 0].long()  # (N,)
    count = pixels.new_zeros(int(image.max()) + 1, pixels.shape[1]).index_add(
        0, image, pixels
    )  # (B, h_m w_m)
    if bool(((pixels != 0) & (pixels != 1)).any() | (count > 1).any()):
        raise ValueError(
            "masks of one image overlap or have values between 0 and 1, which one picture of their numbers cannot"
            " hold (SEG-IN-2): set head.overlapping_masks = False, or remove the covered pixels"
        )


def _check_extras(extras: Mapping[str, Tensor], device: torch.device, task: Task) -> None:
    """Raise ValueError unless the extra tensors are those of the task, on the feature maps' device."""
    expected = {extra.name for extra in task.extras}
    if set(extras) != expected:
        raise ValueError(
            f"extras are {sorted(extras)}; task {task.name!r} expects {sorted(expected) or 'none'}"
        )
    for name, tensor in extras.items():
        if tensor.device != device:
            raise ValueError(
                f"extra {name!r} is on {tensor.device}, the feature maps on {device}; expected one device for both"
            )


def _all_annotations(annotations: Tensor, images: int, classes: int) -> bool:
    """Return True if all annotation rows (N, 6) are valid for these numbers of images and classes."""
    image, label, _, _, width, height, *_ = annotations.unbind(1)  # (N,) each
    indices = (image == image.round()) & (image >= 0) & (image < images)
    indices &= (label == label.round()) & (label >= 0) & (label < classes)
    return bool((indices & (width >= 0) & (height >= 0) & annotations.isfinite().all(1)).all())
