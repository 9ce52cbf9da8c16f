"""Base of the adapters of Ultralytics and its forks, which call the package's own loss and assigner.

In all of these packages the criterion (loss object) is made from a model, of which it reads only the head, and calls an
assigner of the same signature. A subclass defines how to make the criterion, and the arguments of
the criterion and the assigner.
"""

from collections.abc import Callable
from functools import cache, lru_cache, partial
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.stage_recorder import RecordingAssigner
from tal_reference import Head, Hyperparameters, make_anchors


class CriterionAdapter:
    """An adapter of a package whose criterion (loss object) calls an assigner. Calls of the assigner are recorded.

    Args:
        version: version of the package under test.
        assigner_module: the package's module with `TaskAlignedAssigner`.
        exposes_stages: record the assigner's inputs, stages and outputs. If False, nothing is copied, as in benchmarks.
    """

    name: str
    recorder: type[RecordingAssigner] = RecordingAssigner
    assigner = "TaskAlignedAssigner"
    """Name of the assigner's class."""

    def __init__(self, version: str, assigner_module: ModuleType, exposes_stages: bool = True) -> None:
        self.version, self.exposes_stages = version, exposes_stages
        self._assigner_module = assigner_module
        self._assigner_class = getattr(assigner_module, self.assigner)
        # only the most recent criterion: a run uses thousands of heads, and a criterion holds copies of its last batch
        self._criterion = lru_cache(maxsize=1)(self._new_criterion)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Call the package's assigner on inputs that the suite decoded."""
        assigner = self._new_assigner(inputs.head, inputs.hyperparameters)
        arguments = self._assigner_arguments(inputs)
        if not self.exposes_stages:
            return Assignment(*assigner(*arguments))
        recorder = self.recorder(self._assigner_module, assigner)
        recorder(*arguments)
        return recorder.assignment()

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the package's loss, with the inputs and outputs of its assigner."""
        made = self._criterion(head, hyperparameters, feature_maps[0].device)
        return self._call(made, feature_maps, annotations, head, hyperparameters)

    def make(
        self, head: Head, hyperparameters: Hyperparameters
    ) -> Callable[[tuple[Tensor, ...], Tensor], Loss]:
        """Return a function that calls the package's criterion, which is made on the first call and reused."""
        criterion = cache(partial(self._new_criterion, head, hyperparameters))

        def call(feature_maps: tuple[Tensor, ...], annotations: Tensor) -> Loss:
            made = criterion(feature_maps[0].device)
            return self._call(made, feature_maps, annotations, head, hyperparameters)

        return call

    def _call(
        self,
        made: tuple[Any, RecordingAssigner | None],
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        criterion, recorder = made
        targets = self._targets(annotations, head, len(feature_maps[0]))
        total, items = criterion(self._predictions(feature_maps, head), targets)
        logged = torch.stack(list(items.values())) if isinstance(items, dict) else items
        if recorder is None:
            return Loss(total, logged)
        strides = make_anchors(feature_maps[: len(head.strides)], head).strides
        return Loss(total, logged, recorder.assignment(), recorder.inputs(strides, head, hyperparameters))

    def _assigner_arguments(self, inputs: AssignerInputs) -> tuple[Any, ...]:
        """Convert the suite's assigner inputs to the arguments of the package's assigner."""
        return (
            inputs.scores, inputs.boxes, inputs.anchors, inputs.labels, inputs.truth_boxes, inputs.truth_mask,
        )  # fmt: skip

    def _predictions(self, feature_maps: tuple[Tensor, ...], head: Head) -> Any:
        """Return the output that the package's head passes to the loss in training."""
        return list(feature_maps)

    def _targets(self, annotations: Tensor, head: Head, images: int) -> Any:
        """Return the annotations of a number of images as the package's data loader passes them to the loss."""
        return self._rows(annotations)

    def _rows(self, annotations: Tensor) -> Any:
        """Return the annotations in the format of the package's data loader."""
        return {"batch_idx": annotations[:, 0], "cls": annotations[:, 1], "bboxes": annotations[:, 2:]}

    def _new_assigner(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        """Return the package's assigner with the given hyperparameters.

        Raises:
            NotImplementedError: topk2 is set, which the package does not support (TAL-CONF-2).
        """
        if hyperparameters.effective_topk2 is not None:
            raise NotImplementedError(f"{self.name} {self.version} does not support topk2 (TAL-CONF-2)")
        return self._assigner_class(
            topk=hyperparameters.topk,
            num_classes=head.classes,
            alpha=hyperparameters.alpha,
            beta=hyperparameters.beta,
        )

    def _new_criterion(
        self, head: Head, hyperparameters: Hyperparameters, device: torch.device
    ) -> tuple[Any, RecordingAssigner | None]:
        """Return a new criterion, and the recorder of its assigner if stages are exposed.

        Raises:
            NotImplementedError: as `_new_assigner`.
        """
        with torch.inference_mode(False):  # a trainer makes its criterion outside of validation
            criterion = self._make_criterion(head, hyperparameters, device)
        if not self.exposes_stages:
            return criterion, None
        recorder = self.recorder(self._assigner_module, criterion.assigner)
        recorder.attach()
        return criterion, recorder

    def _make_criterion(self, head: Head, hyperparameters: Hyperparameters, device: torch.device) -> Any:
        """Return the package's criterion for a model that ends with the given head."""
        raise NotImplementedError


def model_with(head: Head, device: torch.device, **attributes: Any) -> SimpleNamespace:
    """Return a stub of a model that ends with the given head, from which a criterion can be made.

    A criterion reads the attributes of the model's last part and the device of its parameters.

    Args:
        head: head of the model.
        device: device of the model.
        attributes: attributes of the model itself, such as its arguments.
    """
    detect = SimpleNamespace(
        stride=torch.tensor([float(stride) for stride in head.strides], device=device),
        nc=head.classes,
        nl=len(head.strides),
        no=head.channels,
        reg_max=head.reg_max,
    )
    backbone, neck = SimpleNamespace(), SimpleNamespace()
    parameter = torch.zeros(1, device=device)
    return SimpleNamespace(
        model=[backbone, neck, detect], parameters=lambda: iter((parameter,)), **attributes
    )
