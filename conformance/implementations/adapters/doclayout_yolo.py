"""`doclayout-yolo`, a fork of Ultralytics: its `v8DetectionLoss` and the assigner in it.

Its assigner can weigh the finest level by the area of a ground truth (`ms_factor`); no head of the package asks for
that, so that it is off here as well. For it, assigner and loss want to know level sizes and the size of each image
before padding, and read neither while it is off.
"""

import importlib
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.stage_recorder import RecordingAssigner
from tal_conformance.implementations.protocol import EVERY
from tal_reference import Head, Hyperparameters, make_anchors

LOSS, TAL = "doclayout_yolo.utils.loss", "doclayout_yolo.utils.tal"
"""Where its package folder, in the worker alone, has its loss and its assigner."""


class DocLayoutYOLO:
    """The version that the worker's package folder holds.

    Args:
        version: which one it should be.
    """

    name = "doclayout-yolo"
    exposes_stages = True
    precisions = EVERY

    def __init__(self, version: str) -> None:
        self.version = version
        self._loss_class = importlib.import_module(LOSS).v8DetectionLoss
        self._tal = importlib.import_module(TAL)
        # the last one alone: a run meets thousands of heads, and each holds copies of its last batch
        self._criterion = lru_cache(maxsize=1)(self._new_criterion)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Its assigner on inputs that somebody else decoded."""
        noted = self._new_assigner(inputs.head, inputs.hyperparameters)
        asked = (
            inputs.scores, inputs.boxes, inputs.anchors, inputs.labels, inputs.truth_boxes, inputs.truth_mask,
        )  # fmt: skip
        noted.assigner(*asked, None, None)
        return noted.assignment()

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Its loss, with what its assigner read and returned."""
        criterion, noted = self._criterion(head, hyperparameters, feature_maps[0].device)
        rows = {
            "batch_idx": annotations[:, 0],
            "cls": annotations[:, 1],
            "bboxes": annotations[:, 2:],
            "resized_shape": None,
        }
        total, items = criterion(list(feature_maps), rows)
        inputs = noted.inputs(make_anchors(feature_maps, head).strides, head, hyperparameters)
        return Loss(total, items, noted.assignment(), inputs)

    def _new_assigner(self, head: Head, hyperparameters: Hyperparameters) -> RecordingAssigner:
        """The assigner with these numbers.

        Raises:
            NotImplementedError: pruning to topk2 is asked for (TAL-CONF-2).
        """
        if hyperparameters.effective_topk2 is not None:
            raise NotImplementedError(f"doclayout-yolo {self.version} has no topk2 (TAL-CONF-2)")
        numbers = {
            "topk": hyperparameters.topk,
            "num_classes": head.classes,
            "alpha": hyperparameters.alpha,
            "beta": hyperparameters.beta,
        }
        return RecordingAssigner(self._tal, self._tal.TaskAlignedAssigner(**numbers))

    def _new_criterion(
        self, head: Head, hyperparameters: Hyperparameters, device: torch.device
    ) -> tuple[Any, RecordingAssigner]:
        """The loss of a model that has nothing but a head, and its assigner."""
        detect = SimpleNamespace(
            stride=torch.tensor([float(stride) for stride in head.strides], device=device),
            nc=head.classes,
            reg_max=head.reg_max,
            no=head.channels,
        )
        gains = SimpleNamespace(
            box=hyperparameters.box_gain, cls=hyperparameters.cls_gain, dfl=hyperparameters.dfl_gain
        )
        somewhere = torch.zeros(1, device=device)
        criterion = self._loss_class(
            SimpleNamespace(args=gains, model=[detect], parameters=lambda: iter((somewhere,)))
        )
        noted = self._new_assigner(head, hyperparameters)
        criterion.assigner = noted.assigner
        return criterion, noted
