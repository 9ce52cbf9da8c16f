"""`coreyolo`: the loss of one head (`DetectionLoss` without a one-to-one head) and its assigner.

The package's trainer makes the assigner with alpha = 1; here the assigner gets the batch's hyperparameters. The package
reads annotations in pixels, and logs its terms without gains: the adapter converts both. The package's total is the sum
of the terms, not multiplied by the number of images, and so is this adapter's.
"""

import importlib
from functools import lru_cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_reference import Head, Hyperparameters, make_anchors

LOSS = "coreyolo.train.loss"
"""Module of the package's folder, which only the worker has on its import path."""


class CoreYOLO:
    """The version of `coreyolo` in the worker's package folder.

    Args:
        version: version of the package.
    """

    name = "coreyolo"

    def __init__(self, version: str) -> None:
        self.version = version
        self._module = importlib.import_module(LOSS)
        # only the most recent criterion: a run uses thousands of heads
        self._criterion = lru_cache(maxsize=1)(self._new_criterion)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Return the assignment of the package's assigner for inputs that the suite decoded."""
        results = self._new_assigner(inputs.hyperparameters)(
            inputs.scores, inputs.boxes, inputs.anchors, inputs.labels, inputs.truth_boxes, inputs.truth_mask
        )
        return own_index(results)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the package's loss, with the inputs and outputs of its assigner."""
        criterion = self._criterion(head, hyperparameters)
        recorded_calls: list[tuple[Any, ...]] = []

        def record(_: Any, arguments: tuple[Tensor, ...], results: tuple[Tensor, ...]) -> None:
            recorded_calls.append((arguments, results))

        height, width = (size * head.strides[0] for size in feature_maps[0].shape[2:])
        pixels = annotations * annotations.new_tensor((1, 1, width, height, width, height))
        hook = criterion.assigner.register_forward_hook(record)
        try:
            total, parts = criterion._loss_one(list(feature_maps), {"labels": pixels}, criterion.assigner)
        finally:
            hook.remove()
        gains = {"box": criterion.box_w, "cls": criterion.cls_w, "dfl": criterion.dfl_w}
        items = torch.stack([gain * parts[name].detach() for name, gain in gains.items()])
        (((scores, boxes, anchors, labels, truths, mask), results),) = recorded_calls
        strides = make_anchors(feature_maps, head).strides
        inputs = AssignerInputs(scores, boxes, anchors, strides, labels, truths, mask, head, hyperparameters)
        return Loss(total, items, own_index(results), inputs)

    def _new_assigner(self, hyperparameters: Hyperparameters) -> Any:
        """Return the package's assigner with the given hyperparameters.

        Raises:
            NotImplementedError: topk2 is set, which the package does not support (TAL-CONF-2).
        """
        if hyperparameters.effective_topk2 is not None:
            raise NotImplementedError(f"coreyolo {self.version} does not support topk2 (TAL-CONF-2)")
        return self._module.TaskAlignedAssigner(
            topk=hyperparameters.topk, alpha=hyperparameters.alpha, beta=hyperparameters.beta
        )

    def _new_criterion(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        """Return the package's loss object for a model that consists only of the given head."""
        layer = SimpleNamespace(
            nc=head.classes,
            reg_max=head.reg_max,
            stride=torch.tensor([float(stride) for stride in head.strides]),
            no=head.channels,
        )
        criterion = self._module.DetectionLoss(
            SimpleNamespace(head=layer),
            box=hyperparameters.box_gain,
            cls=hyperparameters.cls_gain,
            dfl=hyperparameters.dfl_gain,
        )
        criterion.assigner = self._new_assigner(hyperparameters)
        return criterion


def own_index(results: tuple[Tensor, ...]) -> Assignment:
    """Convert the six results of the package's assigner to an `Assignment`."""
    labels, boxes, scores, foreground, _, index = results  # the fifth result is the foreground as a float
    return Assignment(labels, boxes, scores, foreground, index)
