"""`yolo9`, YOLOv9 as a package: the loss of a model with one head (`utils.loss_tal`) and the assigner in it.

The losses for two and three heads (`loss_tal_dual`, `loss_tal_triple`) add this one up over the heads, with an assigner
each. Three things are this package's own:

- the assigner returns no index of the ground truth: it is heard between its functions;
- the gains 7.5, 0.5 and 1.5 stand in the loss's code: where other ones are asked for, its parts are weighted before;
- whether distances are distributions is an argument of the loss and no question of R: it is off where R = 1.
"""

import importlib
from collections.abc import Callable
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.stage_recorder import RecordingAssigner
from tal_reference import Head, Hyperparameters, make_anchors

LOSS, TAL = "utils.loss_tal", "utils.tal.assigner"
"""Where its package folder, in the worker alone, has its loss and its assigner."""
OWN = Hyperparameters()
"""The gains that stand in its code."""
PLAIN = {"cls_pw": 1.0, "label_smoothing": 0.0, "fl_gamma": 0.0}
"""Its options of the class loss: positives weigh as much as the others, no smoothing, no focus."""


class YOLO9:
    """The version that the worker's package folder holds.

    Args:
        version: which one it should be.
    """

    name = "yolo9"
    exposes_stages = True

    def __init__(self, version: str) -> None:
        self.version = version
        self._losses = importlib.import_module(LOSS)
        self._tal = importlib.import_module(TAL)
        # the last one alone: a run meets thousands of heads, and each holds copies of its last batch
        self._criterion = lru_cache(maxsize=1)(self._new_criterion)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Its assigner on inputs that somebody else decoded."""
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
        """Its loss, with what its assigner read and returned."""
        criterion, noted = self._criterion(head, hyperparameters, feature_maps[0].device)
        total, items = criterion(list(feature_maps), annotations)
        inputs = noted.inputs(make_anchors(feature_maps, head).strides, head, hyperparameters)
        return Loss(total, items, noted.assignment(), inputs)

    def _new_assigner(self, head: Head, hyperparameters: Hyperparameters) -> RecordingAssigner:
        """The assigner with these numbers.

        Raises:
            NotImplementedError: pruning to topk2 is asked for (TAL-CONF-2).
        """
        if hyperparameters.effective_topk2 is not None:
            raise NotImplementedError(f"yolo9 {self.version} has no topk2 (TAL-CONF-2)")
        numbers = {
            "topk": hyperparameters.topk,
            "num_classes": head.classes,
            "alpha": hyperparameters.alpha,
            "beta": hyperparameters.beta,
        }
        return Heard(self._tal, self._tal.TaskAlignedAssigner(**numbers))

    def _new_criterion(
        self, head: Head, hyperparameters: Hyperparameters, device: torch.device
    ) -> tuple[Any, RecordingAssigner]:
        """The loss of a model that has nothing but a head, and its assigner."""
        detect = SimpleNamespace(
            stride=torch.tensor([float(stride) for stride in head.strides], device=device),
            nc=head.classes,
            nl=len(head.strides),
            no=head.channels,
            reg_max=head.reg_max,
        )
        somewhere = torch.zeros(1, device=device)
        model = SimpleNamespace(hyp=PLAIN, model=[detect], parameters=lambda: iter((somewhere,)))
        criterion = self._losses.ComputeLoss(model, use_dfl=head.reg_max > 1)
        criterion.bbox_loss = weighted(
            criterion.bbox_loss,
            hyperparameters.box_gain / OWN.box_gain,
            hyperparameters.dfl_gain / OWN.dfl_gain,
            1.0,  # the overlaps behind the two losses are logged nowhere
        )
        criterion.BCEcls = weighted(criterion.BCEcls, hyperparameters.cls_gain / OWN.cls_gain)
        noted = self._new_assigner(head, hyperparameters)
        criterion.assigner = noted.assigner
        return criterion, noted


class Heard(RecordingAssigner):
    """An assigner that returns all but the index of the ground truth."""

    def assignment(self) -> Assignment:
        """What the last call returned; the index is what its own function for contested anchors said."""
        labels, boxes, scores, foreground = self.returned
        nobody = torch.zeros_like(foreground, dtype=torch.long)  # a batch without ground truths asks nobody
        index = self.heard["select_highest_overlaps"][0] if self.heard else nobody
        return Assignment(labels, boxes, scores, foreground.bool(), index, self.stages())


def weighted(part: Callable[..., Any], *weights: float) -> Callable[..., Any]:
    """A part of a loss whose results are weighted; as it is where every weight is 1."""
    if all(weight == 1 for weight in weights):
        return part

    def and_weighted(*arguments: Any) -> Any:
        results = part(*arguments)
        if isinstance(results, Tensor):
            return results * weights[0]
        return tuple(result * weight for result, weight in zip(results, weights, strict=True))

    return and_weighted
