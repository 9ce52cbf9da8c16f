"""Capture the calls of the official detection loss during a training, for any release. Nothing is recomputed.

The predictions that the loss receives have one of two structures, depending on the release: a list of feature maps, or
a dictionary of boxes and scores. In a validation, they are the second item of a tuple. From release 8.4.0 on, the head
calls the method `loss` of the loss object; earlier releases call the object itself. The method that is called is
wrapped during the capture.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.implementations.adapters.ultralytics import criterion_of
from tal_reference import Head, Hyperparameters


class CannotRecord(Exception):
    """Error: nothing can be recorded. The message gives the reason and a remedy."""


class Unfit(ValueError):
    """Error: a captured call of a loss has inputs that a case file cannot represent."""


@dataclass(frozen=True, eq=False)
class Call:
    """One finished call of the official detection loss: its inputs and its result.

    Attributes:
        criterion: the loss object.
        predictions: output of the head, in any of the structures that the module's docstring names.
        rows: the data loader's batch: `batch_idx`, `cls` and `bboxes`.
        result: the returned values; the first is the total, or a tensor of its three terms.
        autocast: dtype of automatic mixed precision of a detached call; None without mixed precision.
    """

    criterion: Any
    predictions: Any
    rows: Mapping[str, Any]
    result: Any
    autocast: torch.dtype | None = None

    @property
    def trains(self) -> bool:
        """True if the call belongs to a training step, not to a validation."""
        return any(part.requires_grad for part in _parts(self.predictions))

    @property
    def total(self) -> Tensor:
        """The value that is differentiated, as a detached scalar tensor."""
        return self.result[0].detach().sum()

    @property
    def boxes(self) -> Tensor:
        """Boxes (N, 4) of the annotation rows: normalised cx, cy, w, h (ANN-1)."""
        boxes: Tensor = self.rows["bboxes"]
        return boxes

    def detached(self) -> "Call":
        """Return a copy of the call without autograd graph, images and features, which can be stored cheaply."""
        return replace(
            self,
            predictions=_detached(_plain(self.predictions)),
            rows={name: self.rows[name] for name in ("batch_idx", "cls", "bboxes")},
            result=(self.total,),
            autocast=_autocast(self.predictions),
        )

    def batch(self) -> Batch:
        """Return the inputs of the loss as a batch on the CPU that shares no memory with the model.

        The call must be detached.

        Raises:
            Unfit: the inputs cannot be represented in a case file.
        """
        maps = tuple(level.detach().cpu().clone() for level in feature_maps_of(self.predictions))
        if self.autocast not in (None, maps[0].dtype):
            raise Unfit(
                f"predictions are {maps[0].dtype}, expected the dtype of automatic mixed precision, {self.autocast}"
            )
        try:
            return Batch(
                maps,
                self._annotations(),
                head_of(self.criterion),
                hyperparameters_of(self.criterion),
                autocast=self.autocast is not None,
            )
        except ValueError as error:
            raise Unfit(str(error)) from error

    def _annotations(self) -> Tensor:
        """Return the annotation rows (N, 6) float32: image, class, cx, cy, w, h (ANN-1)."""
        images, labels = (self.rows[name].reshape(-1, 1).float().cpu() for name in ("batch_idx", "cls"))
        return torch.cat((images, labels, self.boxes.detach().float().cpu().reshape(-1, 4)), dim=1)


def feature_maps_of(predictions: Any) -> tuple[Tensor, ...]:
    """Return the feature maps (B, 4R + C, H, W) of a head's predictions, differentiably (PRE-1).

    Args:
        predictions: a list of the maps, or a dictionary of "boxes" (B, 4R, A), "scores" (B, C, A) and "feats" with the
            grids. In a validation, either is the second item of a tuple.

    Raises:
        Unfit: the predictions have another structure.
    """
    predictions = _plain(predictions)
    if not isinstance(predictions, Mapping):
        return tuple(predictions)
    boxes, scores = predictions["boxes"], predictions["scores"]
    if boxes.dtype != scores.dtype:
        raise Unfit(f"expected one dtype for boxes and scores, got {boxes.dtype} and {scores.dtype}")
    rows = torch.cat((boxes, scores), dim=1)  # (B, 4R + C, A)
    grids = [tuple(level.shape[2:]) for level in predictions["feats"]]
    levels = rows.split([height * width for height, width in grids], dim=2)
    return tuple(level.unflatten(2, grid) for level, grid in zip(levels, grids, strict=True))


def head_of(criterion: Any) -> Head:
    """Return the strides, classes, bins and class weights of the head for which an official loss was made."""
    weights = getattr(criterion, "class_weights", None)  # from release 8.4.37 on (COR-7)
    return Head(
        tuple(int(stride) for stride in criterion.stride.tolist()),
        int(criterion.nc),
        int(criterion.reg_max),
        None if weights is None else tuple(weights.detach().float().flatten().tolist()),
    )


def hyperparameters_of(criterion: Any) -> Hyperparameters:
    """Return the hyperparameters of an official loss and its assigner."""
    assigner, gains = criterion.assigner, criterion.hyp
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
    )


def _plain(predictions: Any) -> Any:
    """Return the raw predictions of a head's output, without the decoded boxes that a validation adds."""
    predictions = predictions[1] if isinstance(predictions, tuple) else predictions
    named = isinstance(predictions, Mapping) and {"boxes", "scores", "feats"} <= set(predictions)
    if not named and not isinstance(predictions, list):
        raise Unfit(f"unknown structure of the head's predictions: {type(predictions).__name__}")
    return predictions


def _parts(predictions: Any) -> list[Tensor]:
    predictions = _plain(predictions)
    return [predictions["boxes"], predictions["scores"]] if isinstance(predictions, Mapping) else predictions


def _detached(predictions: Any) -> Any:
    if not isinstance(predictions, Mapping):
        return [level.detach() for level in predictions]
    grids = [torch.empty(1, 1, *level.shape[2:], device="meta") for level in predictions["feats"]]
    return {
        "boxes": predictions["boxes"].detach(),
        "scores": predictions["scores"].detach(),
        "feats": grids,
    }


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


@contextmanager
def listening(hear: Callable[[Call], None]) -> Iterator[None]:
    """Call `hear` with every call of the official detection loss, after it returned, while the block runs.

    Raises:
        CannotRecord: Ultralytics is not installed, or does not have this loss.
    """
    loss: Any = official_loss()[0]
    name = "loss" if "loss" in vars(loss) else "__call__"
    official = vars(loss)[name]
    signature = inspect.signature(official)

    @functools.wraps(official)
    def heard(*given: Any, **named: Any) -> Any:
        result = official(*given, **named)
        if not torch.compiler.is_compiling():
            criterion, predictions, rows = list(signature.bind(*given, **named).arguments.values())[:3]
            hear(Call(criterion, predictions, rows, result))
        return result

    setattr(loss, name, heard)
    try:
        yield
    finally:
        setattr(loss, name, official)


def _autocast(predictions: Any) -> torch.dtype | None:
    """Return the dtype of automatic mixed precision on the predictions' device, or None without it."""
    device = next((part.device.type for part in _tensors(predictions)), "cpu")
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else None


def _tensors(value: Any) -> Iterator[Tensor]:
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (Mapping, list, tuple)):
        for part in value.values() if isinstance(value, Mapping) else value:
            yield from _tensors(part)
