"""Every official release, as it was published: `ultralytics==X.Y.Z`. It runs in a worker; it is called, nothing more.

`release` makes the adapter that the suite sees. `ReleaseAdapter` is what runs in the worker: it knows where a release
keeps its loss, what the loss wants to know about a model, and what it returns. Three families differ in that:

- to 8.0.135 the modules lie below `ultralytics.yolo`; to 8.0.110 the loss is the trainer's `Loss`;
- to 8.3.253 the loss reads feature maps, from 8.4.0 boxes and scores that are split and flattened;
- from 8.4.104 the logged items come by name.
"""

import importlib
import inspect
import re
from functools import lru_cache
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.stage_recorder import (
    RecordingAssigner,
    asked_of_loss,
    has_own_exponents,
)
from tal_conformance.implementations.protocol import EVERY
from tal_reference import Head, Hyperparameters, make_anchors

Version = tuple[int, int, int]

TRAINERS_LOSS = "ultralytics.yolo.v8.detect.train", "Loss", "ultralytics.yolo.utils.tal"
FIRST_HOUSE = "ultralytics.yolo.utils.loss", "v8DetectionLoss", "ultralytics.yolo.utils.tal"
PRESENT_HOUSE = "ultralytics.utils.loss", "v8DetectionLoss", "ultralytics.utils.tal"
PLACES: list[tuple[Version, tuple[str, str, str]]] = [
    ((8, 0, 136), PRESENT_HOUSE),
    ((8, 0, 111), FIRST_HOUSE),
    ((8, 0, 0), TRAINERS_LOSS),
]
"""First release, and from then on: module and name of the loss, module of the assigner. Newest first."""
SPLIT_PREDICTIONS = (8, 4, 0)
"""From here the loss reads `boxes`, `scores` and `feats` by name, and the assigner takes strides and topk2."""


class ReleaseAdapter:
    """The release that the worker's package folder holds.

    Args:
        version: which one it should be.

    Raises:
        ImportError: another one is imported.
    """

    name = "ultralytics"
    exposes_stages = True
    precisions = EVERY

    def __init__(self, version: str) -> None:
        found = importlib.import_module("ultralytics").__version__
        if found != version:
            raise ImportError(f"ultralytics {found} was imported in place of {version}")
        self.version = version
        self.numbers: Version = parsed(version)
        loss_module, loss_name, tal_module = place_of(version)
        self._loss_class = getattr(importlib.import_module(loss_module), loss_name)
        self._tal: ModuleType = importlib.import_module(tal_module)
        # the last one alone: a run meets thousands of heads, and each holds copies of its last batch
        self._criterion = lru_cache(maxsize=1)(self._new_criterion)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """The release's assigner on inputs that somebody else decoded."""
        noted = self._new_assigner(inputs.head, inputs.hyperparameters)
        noted.assigner(
            inputs.scores, inputs.boxes, inputs.anchors, inputs.labels, inputs.truth_boxes, inputs.truth_mask
        )
        return noted.assignment()

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """The release's loss, with what its assigner read and returned."""
        criterion, noted = self._criterion(head, hyperparameters, feature_maps[0].device)
        rows = {"batch_idx": annotations[:, 0], "cls": annotations[:, 1], "bboxes": annotations[:, 2:]}
        total, items = criterion(self._predictions(feature_maps, head), rows)
        logged = torch.stack(list(items.values())) if isinstance(items, dict) else items
        inputs = noted.inputs(make_anchors(feature_maps, head).strides, head, hyperparameters)
        return Loss(total, logged, noted.assignment(), inputs)

    def _predictions(self, feature_maps: tuple[Tensor, ...], head: Head) -> Any:
        """What a head hands to the loss while it is trained."""
        if self.numbers < SPLIT_PREDICTIONS:
            return list(feature_maps)
        flat = torch.cat([level.flatten(2) for level in feature_maps], 2)
        boxes, scores = flat.split((4 * head.reg_max, head.classes), 1)
        return {"boxes": boxes, "scores": scores, "feats": list(feature_maps)}

    def _new_assigner(self, head: Head, hyperparameters: Hyperparameters) -> RecordingAssigner:
        """The assigner with these numbers.

        Raises:
            NotImplementedError: the release cannot prune to topk2.
        """
        numbers: dict[str, Any] = {
            "topk": hyperparameters.topk,
            "num_classes": head.classes,
            "alpha": hyperparameters.alpha,
            "beta": hyperparameters.beta,
        }
        known = inspect.signature(self._tal.TaskAlignedAssigner.__init__).parameters
        if "topk2" in known:
            numbers |= {"stride": list(head.strides), "topk2": hyperparameters.topk2}
        elif hyperparameters.effective_topk2 is not None:
            raise NotImplementedError(f"ultralytics {self.version} has no topk2 (TAL-CONF-2)")
        return RecordingAssigner(self._tal, self._tal.TaskAlignedAssigner(**numbers))

    def _new_criterion(
        self, head: Head, hyperparameters: Hyperparameters, device: torch.device
    ) -> tuple[Any, RecordingAssigner]:
        """The loss of a model that has nothing but a head, and the assigner that it makes for itself.

        Raises:
            NotImplementedError: the release cannot prune to topk2.
        """
        detect = SimpleNamespace(
            stride=torch.tensor([float(stride) for stride in head.strides], device=device),
            nc=head.classes,
            reg_max=head.reg_max,
            no=head.channels,
        )
        arguments = SimpleNamespace(
            box=hyperparameters.box_gain,
            cls=hyperparameters.cls_gain,
            dfl=hyperparameters.dfl_gain,
            min_memory=False,
        )
        somewhere = torch.zeros(1, device=device)
        model = SimpleNamespace(args=arguments, model=[detect], parameters=lambda: iter((somewhere,)))
        asked = asked_of_loss(hyperparameters)
        if has_own_exponents(hyperparameters) and set(asked) <= set(
            inspect.signature(self._loss_class).parameters
        ):
            criterion = self._loss_class(model, **asked)
            noted = RecordingAssigner(self._tal, criterion.assigner)
        else:
            criterion, noted = self._loss_class(model), self._new_assigner(head, hyperparameters)
            criterion.assigner = noted.assigner
        return criterion, noted


def place_of(version: str) -> tuple[str, str, str]:
    """Module and name of a release's detection loss, and the module of its assigner.

    Args:
        version: what comes after the three numbers, as of a fork or a development version, does not matter.

    Raises:
        ValueError: it has not three numbers, or is older than 8.0.0.
    """
    numbers = parsed(".".join(re.findall(r"\d+", version)[:3]))
    for first, where in PLACES:
        if numbers >= first:
            return where
    raise ValueError(f"release {version} is older than 8.0.0, the first one with this loss")


def parsed(version: str) -> Version:
    """The three numbers of a release.

    Raises:
        ValueError: it has not three.
    """
    major, minor, patch = (int(part) for part in version.split("."))
    return major, minor, patch
