"""`doclayout-yolo`, a fork of Ultralytics: its `v8DetectionLoss` and its assigner.

Its assigner can weight the finest level by the area of a ground truth (`ms_factor`). No head of the package uses this
option, so that the option is off here too. The option's arguments, the sizes of the levels and of each image before
padding, are passed as None, because the package does not read them while the option is off.
"""

import importlib
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs
from tal_conformance.implementations.adapters.criterion_adapter import CriterionAdapter, model_with
from tal_conformance.implementations.protocol import EVERY
from tal_reference import Head, Hyperparameters

LOSS_MODULE, ASSIGNER_MODULE = "doclayout_yolo.utils.loss", "doclayout_yolo.utils.tal"
"""Modules of the package's folder, which only the worker has on its import path."""


class DocLayoutYOLO(CriterionAdapter):
    """The version of `doclayout-yolo` in the worker's package folder.

    Args:
        version: version of the package.
    """

    name = "doclayout-yolo"
    precisions = EVERY

    def __init__(self, version: str) -> None:
        self._loss_class = importlib.import_module(LOSS_MODULE).v8DetectionLoss
        super().__init__(version, importlib.import_module(ASSIGNER_MODULE))

    def _assigner_arguments(self, inputs: AssignerInputs) -> tuple[Any, ...]:
        """Return the six tensors that every assigner takes, and None for the arguments of `ms_factor`."""
        return *super()._assigner_arguments(inputs), None, None

    def _rows(self, annotations: Tensor) -> dict[str, Any]:
        """Return the annotations, and None for the sizes of the images."""
        return super()._rows(annotations) | {"resized_shape": None}

    def _make_criterion(self, head: Head, hyperparameters: Hyperparameters, device: torch.device) -> Any:
        """Return the package's criterion (loss object) for a model that ends with the given head."""
        gains = SimpleNamespace(
            box=hyperparameters.box_gain, cls=hyperparameters.cls_gain, dfl=hyperparameters.dfl_gain
        )
        criterion = self._loss_class(model_with(head, device, args=gains))
        criterion.assigner = self._new_assigner(head, hyperparameters)
        return criterion
