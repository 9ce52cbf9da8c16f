"""`coreyolo`: the loss of one head (`DetectionLoss` without one-to-one head) and the assigner in it.

Its trainer makes the assigner with alpha = 1; here it gets the numbers that the suite asks for. Its rows are in pixels,
and what it logs has no gains: both are converted. It differentiates the sum of the parts without the number of images,
and so does this adapter.
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
"""Where its package folder, in the worker alone, has its loss."""


class CoreYOLO:
    """The version that the worker's package folder holds.

    Args:
        version: which one it should be.
    """

    name = "coreyolo"

    def __init__(self, version: str) -> None:
        self.version = version
        self._module = importlib.import_module(LOSS)
        # the last one alone: a run meets thousands of heads
        self._criterion = lru_cache(maxsize=1)(self._new_criterion)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Its assigner on inputs that somebody else decoded."""
        answered = self._new_assigner(inputs.hyperparameters)(
            inputs.scores, inputs.boxes, inputs.anchors, inputs.labels, inputs.truth_boxes, inputs.truth_mask
        )
        return own_index(answered)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Its loss, with what its assigner read and returned."""
        criterion = self._criterion(head, hyperparameters)
        heard: list[tuple[Any, ...]] = []

        def listening(_: Any, asked: tuple[Tensor, ...], answered: tuple[Tensor, ...]) -> None:
            heard.append((asked, answered))

        height, width = (size * head.strides[0] for size in feature_maps[0].shape[2:])
        pixels = annotations * annotations.new_tensor((1, 1, width, height, width, height))
        hook = criterion.assigner.register_forward_hook(listening)
        try:
            total, parts = criterion._loss_one(list(feature_maps), {"labels": pixels}, criterion.assigner)
        finally:
            hook.remove()
        gains = {"box": criterion.box_w, "cls": criterion.cls_w, "dfl": criterion.dfl_w}
        items = torch.stack([gain * parts[name].detach() for name, gain in gains.items()])
        (((scores, boxes, anchors, labels, truths, mask), answered),) = heard
        strides = make_anchors(feature_maps, head).strides
        read = AssignerInputs(scores, boxes, anchors, strides, labels, truths, mask, head, hyperparameters)
        return Loss(total, items, own_index(answered), read)

    def _new_assigner(self, hyperparameters: Hyperparameters) -> Any:
        """The assigner with these numbers.

        Raises:
            NotImplementedError: pruning to topk2 is asked for (TAL-CONF-2).
        """
        if hyperparameters.effective_topk2 is not None:
            raise NotImplementedError(f"coreyolo {self.version} has no topk2 (TAL-CONF-2)")
        return self._module.TaskAlignedAssigner(
            topk=hyperparameters.topk, alpha=hyperparameters.alpha, beta=hyperparameters.beta
        )

    def _new_criterion(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        """The loss of a model that has nothing but a head."""
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


def own_index(answered: tuple[Tensor, ...]) -> Assignment:
    """What its assigner returned."""
    labels, boxes, scores, foreground, _, index = answered  # the fifth is the foreground as a float
    return Assignment(labels, boxes, scores, foreground, index)
