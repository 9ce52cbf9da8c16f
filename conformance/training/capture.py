"""Capture the calls of the official losses during a training, for any release. Nothing is recomputed.

The losses of detection, rotated boxes, poses, masks and end-to-end heads are captured. A call of an end-to-end loss is
one capture with both branches if these are branches of detection, else one for each branch. Not captured are losses
of Pose26 and Segment26 heads, and masks with semantic logits.

The predictions that a loss receives have one of two structures, depending on the release: a list of feature maps, or a
dictionary of boxes and scores. An end-to-end head passes a dictionary of both branches' predictions. In a
validation, they are the second item of a tuple. From release 8.4.0 on, the head calls the method `loss` of the loss
object; earlier releases, and the losses of end-to-end heads, are called themselves. The method that is called is
wrapped during the capture.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import Content
from tal_conformance.core.task import DETECT, E2E, OBB, POSE, SEGMENT
from tal_conformance.implementations.adapters.ultralytics_losses import (
    CRITERIA,
    FIELD_NAMES,
    SPLIT_PREDICTIONS,
    criterion_of,
    leading_numbers,
)
from tal_conformance.training.capture_parts import is_other_loss, kept_parts, with_keypoints, with_masks
from tal_reference import Head, Hyperparameters
from tal_reference.end_to_end import BRANCHES


class CannotRecord(Exception):
    """Error: nothing can be recorded. The message gives the reason and a remedy."""


class Unfit(ValueError):
    """Error: a captured call of a loss has inputs that a case file cannot represent."""


class Rows(NamedTuple):
    """The annotation rows of one call, by column, on one device."""

    images: Tensor
    """(N,) image of each row."""
    labels: Tensor
    """(N,) class of each row."""
    boxes: Tensor
    """(N, 4 or more) cx, cy, w, h, normalised, and further columns of the task (ANN-1)."""


class LossCall(Protocol):
    """One finished call of a loss, as the recorder reads it."""

    @property
    def criterion(self) -> Any:
        """Object that identifies the loss; each loss has its own selection of batches."""

    @property
    def error(self) -> BaseException | None:
        """Exception that the loss raised; None if it returned."""

    @property
    def raised_by(self) -> str:
        """Part of the training that raised `error`, as in `Circumstances.raised_by`; "" for the loss."""

    @property
    def trains(self) -> bool:
        """True if the call belongs to a training step, not to a validation."""

    @property
    def total(self) -> Tensor | None:
        """The value that is differentiated, as a detached scalar tensor; None if it is unknown."""

    @property
    def columns(self) -> Rows:
        """The annotation rows, by column."""

    @property
    def images_and_classes(self) -> tuple[int, int]:
        """Number of images of the batch, and of classes of the head."""

    @property
    def precision(self) -> torch.dtype | None:
        """Dtype of automatic mixed precision of a detached call; None without mixed precision."""

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Names of the dtypes of the predictions, without repetition."""

    def detached(self) -> "LossCall":
        """Return a copy of the call without autograd graph, images and features, which can be stored cheaply."""

    def content(self) -> Content:
        """Return the inputs of a detached call as the content of a case file, which need not be a valid batch.

        The tensors are on the CPU, and do not share memory with the model.

        Raises:
            Unfit: the inputs cannot be represented in a case file.
        """


@dataclass(frozen=True, eq=False)
class Call:
    """One finished call of an official loss: its inputs and its result.

    Attributes:
        criterion: the loss object.
        predictions: output of the head, in any of the structures that the module's docstring names.
        rows: the data loader's batch: `batch_idx`, `cls` and `bboxes`.
        result: the returned values; the first is the total, or a tensor of its three terms.
        precision: dtype of automatic mixed precision of a detached call; None without mixed precision.
        error: exception that the loss raised; None if it returned.
        task: name of the loss family.
    """

    criterion: Any
    predictions: Any
    rows: Mapping[str, Any]
    result: Any
    precision: torch.dtype | None = None
    error: BaseException | None = None
    task: str = DETECT.name

    @property
    def raised_by(self) -> str:
        """Empty text: only exceptions of the loss are captured."""
        return ""

    @property
    def trains(self) -> bool:
        """True if the call belongs to a training step, not to a validation."""
        return any(part.requires_grad for part in _parts(self.predictions))

    @property
    def total(self) -> Tensor | None:
        """The value that is differentiated, as a detached scalar tensor; None if the loss raised."""
        return None if self.result is None else self.result[0].detach().sum()

    @property
    def columns(self) -> Rows:
        """The annotation rows, by column."""
        images, labels = (self.rows[name].detach().flatten() for name in ("batch_idx", "cls"))
        boxes = self.rows["bboxes"].detach()
        return Rows(images, labels, boxes.reshape(-1, max(boxes.shape[-1:], default=4)))

    @property
    def images_and_classes(self) -> tuple[int, int]:
        """Number of images of the batch, and of classes of the head."""
        return len(_parts(self.predictions)[0]), int(_branch_of(self.criterion).nc)

    @property
    def dtypes(self) -> tuple[str, ...]:
        """Names of the dtypes of the predictions, without repetition."""
        return dtype_names(_parts(self.predictions))

    def detached(self) -> "Call":
        """Return a copy of the call without autograd graph, images and features, which can be stored cheaply."""
        return replace(
            self,
            predictions=_detached(_plain(self.predictions)),
            rows={name: self.rows[name] for name in ("batch_idx", "cls", "bboxes")}
            | kept_parts(self.rows, self.task == POSE.name, self.task == SEGMENT.name),
            result=None if self.result is None else (self.total,),
            precision=precision_of(_parts(self.predictions)),
        )

    def content(self) -> Content:
        """Return the inputs of the loss as the content of a case file on the CPU that shares no memory with the model.

        The call must be detached.

        Raises:
            Unfit: the inputs cannot be represented in a case file.
        """
        maps = feature_maps_of(_on_cpu(self.predictions))
        columns = self.columns
        parts = columns.images.reshape(-1, 1), columns.labels.reshape(-1, 1), columns.boxes
        try:
            rows = torch.cat([part.float().cpu() for part in parts], dim=1)  # (N, 6 or more)
        except RuntimeError as error:
            raise Unfit(
                f"images, classes and boxes of the annotations do not fit each other: {error}"
            ) from error
        head, numbers = head_of(self.criterion), hyperparameters_of(self.criterion, self.task)
        if self.task == POSE.name:
            rows, head = with_keypoints(self.criterion, self.rows["keypoints"], rows, head)
        elif self.task == SEGMENT.name:
            rows, head = with_masks(self.criterion, self.rows["masks"], rows, head, maps[-1].shape[1])
        return content_of(maps, rows, head, numbers, self.precision, self.error is not None, self.task)

    def batch(self) -> Batch:
        """Return the inputs of a detached call as a batch on the CPU that shares no memory with the model.

        Raises:
            Unfit: the inputs are not a valid batch, or cannot be represented in a case file.
        """
        try:
            return Batch(*self.content())
        except ValueError as error:
            raise Unfit(str(error)) from error


def content_of(
    maps: tuple[Tensor, ...],
    annotations: Tensor,
    head: Head,
    hyperparameters: Hyperparameters,
    precision: torch.dtype | None,
    raised: bool,
    task: str = DETECT.name,
    extras: Mapping[str, Tensor] | None = None,
) -> Content:
    """Return inputs of a loss as the content of a case file.

    Args:
        maps: feature maps (B, channels, H, W) of every level, on the CPU.
        annotations: annotation rows (N, columns), on the CPU.
        head: the head.
        hyperparameters: hyperparameters of assigner and loss.
        precision: dtype of automatic mixed precision; None without it.
        raised: True if the loss raised: its inputs are stored even if a batch cannot represent them.
        task: name of the loss family.
        extras: further tensors of the task.

    Raises:
        Unfit: the loss returned, and predictions do not have the dtype of automatic mixed precision.
    """
    mixed = precision is not None and maps[0].dtype == precision
    if precision is not None and not mixed and not raised:
        raise Unfit(
            f"predictions are {maps[0].dtype}, expected the dtype of automatic mixed precision, {precision}"
        )
    return Content(
        maps,
        annotations,
        head,
        hyperparameters,
        "",
        frozenset(),
        mixed,
        task,
        extras if extras is not None else {},
    )


def dtype_names(tensors: Sequence[Tensor]) -> tuple[str, ...]:
    """Return the names of the dtypes of some tensors, such as "float16", sorted and without repetition."""
    return tuple(sorted({str(tensor.dtype).removeprefix("torch.") for tensor in tensors}))


def feature_maps_of(predictions: Any) -> tuple[Tensor, ...]:
    """Return the feature maps (B, channels, H, W) of a head's predictions, differentiably (PRE-1).

    Args:
        predictions: a list of the maps, or a dictionary of "boxes" (B, 4R, A), "scores" (B, C, A), perhaps "angle"
            (B, 1, A), "kpts" or "mask_coefficient" and "proto", and "feats" with the grids. In a validation, either is
            the second item of a tuple. Predictions of an end-to-end head are a dictionary of both branches.

    Raises:
        Unfit: the predictions have another structure.
    """
    predictions = _plain(predictions)
    if has_branches(predictions):
        return tuple(level for name in BRANCHES for level in feature_maps_of(predictions[name]))
    if not isinstance(predictions, Mapping):
        return tuple(predictions)
    parts = _parts(predictions)
    rows = torch.cat(
        [part for part in parts if part.dim() == 3], dim=1
    )  # (B, channels, A) in the wider dtype
    grids = [tuple(level.shape[2:]) for level in predictions["feats"]]
    levels = rows.split([height * width for height, width in grids], dim=2)
    at_levels = (level.unflatten(2, grid) for level, grid in zip(levels, grids, strict=True))
    return (*at_levels, *(part for part in parts if part.dim() == 4))  # prototypes last


def head_of(criterion: Any) -> Head:
    """Return the strides, classes, bins and class weights of the head for which an official loss was made."""
    criterion = _branch_of(criterion)
    weights = getattr(criterion, "class_weights", None)  # from release 8.4.37 on (COR-7)
    return Head(
        tuple(int(stride) for stride in criterion.stride.tolist()),
        int(criterion.nc),
        int(criterion.reg_max),
        None if weights is None else tuple(weights.detach().float().flatten().tolist()),
    )


def _branch_of(criterion: Any) -> Any:
    """Return the loss of the branch one2one of an end-to-end loss; any other loss unchanged."""
    return getattr(criterion, "one2one", criterion)


def hyperparameters_of(criterion: Any, task: str = DETECT.name) -> Hyperparameters:
    """Return the hyperparameters of an official loss and its assigner.

    An end-to-end loss has its gains and the state of its weights; its assigners' settings are fixed (E2E-2, E2E-4).
    """
    assigner, gains = _branch_of(criterion).assigner, _branch_of(criterion).hyp
    if task == E2E.name:
        return Hyperparameters(
            box_gain=float(gains.box),
            cls_gain=float(gains.cls),
            dfl_gain=float(gains.dfl),
            updates=int(getattr(criterion, "updates", Hyperparameters.updates)),
            epochs=int(getattr(gains, "epochs", Hyperparameters.epochs)),
        )
    kept = getattr(assigner, "topk2", None)
    return Hyperparameters(
        topk=int(assigner.topk),
        alpha=float(assigner.alpha),
        beta=float(assigner.beta),
        topk2=None
        if kept in (None, assigner.topk)
        else int(kept),  # equal values of topk and topk2 mean that all positives remain (TAL-CONF-2)
        box_gain=float(gains.box),
        cls_gain=float(gains.cls),
        dfl_gain=float(gains.dfl),
        angle_gain=float(gains.angle) if task == OBB.name else Hyperparameters.angle_gain,
        pose_gain=float(gains.pose) if task == POSE.name else Hyperparameters.pose_gain,
        kobj_gain=float(gains.kobj) if task == POSE.name else Hyperparameters.kobj_gain,
    )


def has_branches(predictions: Any) -> bool:
    """Return True if predictions are those of both branches of an end-to-end head."""
    return isinstance(predictions, Mapping) and set(BRANCHES) <= set(predictions)


def _plain(predictions: Any) -> Any:
    """Return the raw predictions of a head's output, without the decoded boxes that a validation adds."""
    predictions = predictions[1] if isinstance(predictions, tuple) else predictions
    if has_branches(predictions):
        return {name: _plain(predictions[name]) for name in BRANCHES}
    named = isinstance(predictions, Mapping) and {"boxes", "scores", "feats"} <= set(predictions)
    if not named and not isinstance(predictions, list):
        raise Unfit(f"unknown structure of the head's predictions: {type(predictions).__name__}")
    return predictions


def _parts(predictions: Any) -> list[Tensor]:
    """Return the predicted tensors, of both branches one after the other."""
    predictions = _plain(predictions)
    if has_branches(predictions):
        return [part for name in BRANCHES for part in _parts(predictions[name])]
    if not isinstance(predictions, Mapping):
        return list(predictions)
    return [predictions[name] for name in FIELD_NAMES.values() if name in predictions]


def _detached(predictions: Any) -> Any:
    if has_branches(predictions):
        return {name: _detached(predictions[name]) for name in BRANCHES}
    if not isinstance(predictions, Mapping):
        return [level.detach() for level in predictions]
    grids = [torch.empty(1, 1, *level.shape[2:], device="meta") for level in predictions["feats"]]
    named = {name: predictions[name].detach() for name in FIELD_NAMES.values() if name in predictions}
    return {**named, "feats": grids}


def _on_cpu(predictions: Any) -> Any:
    """Return copies on the CPU of detached predictions; nothing is computed on a device whose memory may be full."""
    if has_branches(predictions):
        return {name: _on_cpu(predictions[name]) for name in BRANCHES}
    if not isinstance(predictions, Mapping):
        return [level.detach().cpu().clone() for level in predictions]
    parts = {name: part.detach().cpu().clone() for name, part in predictions.items() if name != "feats"}
    return {**parts, "feats": predictions["feats"]}


def official_loss() -> tuple[type, str]:
    """Return the class of the detection loss of the installed Ultralytics, and the version of Ultralytics.

    Raises:
        CannotRecord: Ultralytics is not installed, or does not have this loss.
    """
    try:
        version = str(importlib.import_module("ultralytics").__version__)
        criterion = criterion_of(version)
        return getattr(importlib.import_module(criterion.loss_module), criterion.loss_class), version
    except (ImportError, AttributeError, ValueError) as error:
        raise CannotRecord(f"cannot import the detection loss of ultralytics: {error}") from error


FIRST_CAPTURED = {OBB.name: SPLIT_PREDICTIONS}
"""First release whose loss of a task is captured, where that is not the first with the loss: before 8.4.0 the loss of
rotated boxes reads a pair of maps and angles, and its gains have none for the angle."""


class Listened(NamedTuple):
    """A class of an official loss whose calls are captured."""

    loss: type
    """The class."""
    method: str
    """Name of the wrapped method: that which the class itself defines, `loss` or `__call__`."""
    task: str
    """Name of the loss family."""


def official_losses() -> list[Listened]:
    """Return the classes of the official losses of the installed Ultralytics that can be captured.

    Raises:
        CannotRecord: Ultralytics is not installed, or does not have the loss of detection.
    """
    detection, version = official_loss()
    found = [Listened(detection, _method(detection), DETECT.name)]
    for task in (OBB.name, E2E.name, POSE.name, SEGMENT.name):
        if leading_numbers(version) >= FIRST_CAPTURED.get(task, CRITERIA[task][-1].first):
            criterion = criterion_of(version, task)
            loss = getattr(importlib.import_module(criterion.loss_module), criterion.loss_class)
            found.append(Listened(loss, "__call__" if task == E2E.name else _method(loss), task))
    return found


def _method(loss: type) -> str:
    return "loss" if "loss" in vars(loss) else "__call__"


@contextmanager
def listening(hear: Callable[[Call], None]) -> Iterator[None]:
    """Call `hear` with every call of the official losses, after it returned, while the block runs.

    Raises:
        CannotRecord: Ultralytics is not installed, or does not have the loss of detection.
    """
    losses = official_losses()
    detection, inside = losses[0].loss, [0]
    with ExitStack() as stack:
        for listened in losses:
            stack.enter_context(_wrapped(listened, hear, detection, inside))
        yield


@contextmanager
def _wrapped(
    listened: Listened, hear: Callable[[Call], None], detection: type, inside: list[int]
) -> Iterator[None]:
    """Wrap the method of a loss while the block runs.

    Args:
        listened: the loss.
        hear: called with every call.
        detection: class of the loss of detection.
        inside: number of running calls of an end-to-end loss whose branches are captured together, in one element.
    """
    official = vars(listened.loss)[listened.method]
    signature = inspect.signature(official)

    def report(given: Any, named: Any, result: Any, error: BaseException | None) -> None:
        if torch.compiler.is_compiling():
            return
        try:
            criterion, predictions, rows = list(signature.bind(*given, **named).arguments.values())[:3]
        except (TypeError, ValueError):  # other arguments than those of a loss: the official code raised
            return
        if not is_other_loss(listened.loss, criterion, predictions):
            hear(Call(criterion, predictions, rows, result, error=error, task=listened.task))

    def is_heard(criterion: Any) -> bool:
        """Return True if a call is captured: not that of a branch whose whole is captured."""
        if listened.task == E2E.name:
            return all(type(getattr(criterion, name, None)) is detection for name in BRANCHES)
        return not inside[0]

    @functools.wraps(official)
    def heard(*given: Any, **named: Any) -> Any:
        if not is_heard(given[0] if given else None):
            return official(*given, **named)
        whole = int(listened.task == E2E.name)
        inside[0] += whole
        try:
            try:
                result = official(*given, **named)
            finally:  # also after Ctrl-C, which a notebook survives
                inside[0] -= whole
        except Exception as error:
            report(given, named, None, error)
            raise
        report(given, named, result, None)
        return result

    setattr(listened.loss, listened.method, heard)
    try:
        yield
    finally:
        setattr(listened.loss, listened.method, official)


def precision_of(tensors: Sequence[Tensor]) -> torch.dtype | None:
    """Return the dtype of automatic mixed precision on the device of some tensors, or None without it."""
    device = tensors[0].device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None
