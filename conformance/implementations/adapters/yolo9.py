"""`yolo9`, YOLOv9 as a package: the loss of a model with one head (`utils.loss_tal`) and its assigner.

The losses for two and three heads (`loss_tal_dual`, `loss_tal_triple`) add up this loss over the heads, with an
assigner for each head. Three properties are specific to this package:

- the assigner does not return the index of the ground truth: it is recorded between the assigner's functions;
- the gains 7.5, 0.5 and 1.5 are constants in the loss's code: for other gains its terms are weighted before the sum;
- an argument of the loss, not the number R of bins, decides if distances are distributions: False if R = 1.
"""

import importlib
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import Assignment
from tal_conformance.implementations.adapters.criterion_adapter import CriterionAdapter, model_with
from tal_conformance.implementations.adapters.stage_recorder import RecordingAssigner
from tal_reference import Head, Hyperparameters

LOSS_MODULE, ASSIGNER_MODULE = "utils.loss_tal", "utils.tal.assigner"
"""Modules of the package's folder, which only the worker has on its import path."""
BUILT_IN_GAINS = Hyperparameters()
"""The gains that are constants in the package's code."""
CLASS_LOSS_OPTIONS = {"cls_pw": 1.0, "label_smoothing": 0.0, "fl_gamma": 0.0}
"""Options of the package's class loss: positives weigh as much as the others, no smoothing, no focal weight."""


class RecordingAssignerWithoutIndex(RecordingAssigner):
    """Recorder of an assigner that does not return the index of the ground truth."""

    def assignment(self) -> Assignment:
        """Return the outputs of the last call, with the index that the assigner computes for contested anchors."""
        labels, boxes, scores, foreground = self.returned
        no_truths = torch.zeros_like(foreground, dtype=torch.long)
        calls = self.stage_results.get("select_highest_overlaps")
        index = calls[-1][0] if calls else no_truths
        return Assignment(labels, boxes, scores, foreground.bool(), index, self.stages())


class YOLO9(CriterionAdapter):
    """The version of `yolo9` in the worker's package folder.

    Args:
        version: version of the package.
    """

    name = "yolo9"
    recorder = RecordingAssignerWithoutIndex

    def __init__(self, version: str) -> None:
        self._loss_module = importlib.import_module(LOSS_MODULE)
        super().__init__(version, importlib.import_module(ASSIGNER_MODULE))

    def _rows(self, annotations: Tensor) -> Tensor:
        """Return the annotations unchanged."""
        return annotations

    def _make_criterion(self, head: Head, hyperparameters: Hyperparameters, device: torch.device) -> Any:
        """Return the package's loss object, with its loss terms weighted by the gains."""
        model = model_with(head, device, hyp=CLASS_LOSS_OPTIONS)
        criterion = self._loss_module.ComputeLoss(model, use_dfl=head.reg_max > 1)
        criterion.bbox_loss = weighted(
            criterion.bbox_loss,
            hyperparameters.box_gain / BUILT_IN_GAINS.box_gain,
            hyperparameters.dfl_gain / BUILT_IN_GAINS.dfl_gain,
            1.0,  # the third result, the overlaps, is not used
        )
        criterion.BCEcls = weighted(criterion.BCEcls, hyperparameters.cls_gain / BUILT_IN_GAINS.cls_gain)
        criterion.assigner = self._new_assigner(head, hyperparameters)
        return criterion


def weighted(function: Callable[..., Any], *weights: float) -> Callable[..., Any]:
    """Return a function that multiplies the results of `function` by weights; `function` itself if all are 1."""
    if all(weight == 1 for weight in weights):
        return function

    def apply_weights(*arguments: Any) -> Any:
        results = function(*arguments)
        if isinstance(results, Tensor):
            return results * weights[0]
        return tuple(result * weight for result, weight in zip(results, weights, strict=True))

    return apply_weights
