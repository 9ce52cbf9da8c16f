"""The installed Ultralytics release: its loss, its assigner and the stages between. It is called, nothing more.

The release is used as it is. A subclass of its assigner, made when the release is loaded, notes what passes between
the assigner's own methods; it computes nothing.
"""

from functools import cache, lru_cache
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, Stages
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.adapters.stage_recorder import asked_of_loss, has_own_exponents
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.protocol import EVERY
from tal_conformance.implementations.ultralytics_environment import configure_ultralytics
from tal_reference import NEWEST, Head, Hyperparameters, make_anchors

CRITERIA = {DETECT.name: "v8DetectionLoss"}
"""The name of the official loss class of every task."""
FIRST_OF_NEWEST_DIALECT = (8, 4, 128)
"""The release with which the newest dialect begins (specification section 8)."""


class UltralyticsAdapter:
    """The detection loss and the assigner of the Ultralytics release that is installed here.

    Raises:
        UnknownImplementation: none is installed, it cannot be imported, or its dialect is not known.
    """

    name = "ultralytics"
    exposes_stages = True
    precisions = EVERY
    dialect = NEWEST

    def __init__(self) -> None:
        self.version = installed_release()
        self._tal, self._loss = load_release()
        # the last one alone: a run meets thousands of heads, and each holds copies of its last batch
        self._criterion = lru_cache(maxsize=1)(self._new_criterion)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """The official assigner on inputs that somebody else decoded."""
        assigner = self._new_assigner(inputs.head, inputs.hyperparameters)
        assigner(
            inputs.scores, inputs.boxes, inputs.anchors, inputs.labels, inputs.truth_boxes, inputs.truth_mask
        )
        return assigner.assignment()

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """The official loss, with what its assigner read and returned."""
        criterion = self._criterion(head, hyperparameters, feature_maps[0].device)
        distances, scores = torch.cat([level.flatten(2) for level in feature_maps], 2).split(
            (4 * head.reg_max, head.classes), 1
        )
        predictions = {"boxes": distances, "scores": scores, "feats": list(feature_maps)}
        rows = {"batch_idx": annotations[:, 0], "cls": annotations[:, 1], "bboxes": annotations[:, 2:]}
        total, items = criterion(predictions, rows)
        noted = criterion.assigner
        strides = make_anchors(feature_maps, head).strides
        inputs = noted.inputs(strides, head, hyperparameters)
        return Loss(total, torch.stack(list(items.values())), noted.assignment(), inputs)

    def _new_assigner(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        return noting(self._tal.TaskAlignedAssigner)(
            topk=hyperparameters.topk,
            num_classes=head.classes,
            alpha=hyperparameters.alpha,
            beta=hyperparameters.beta,
            stride=list(head.strides),
            topk2=hyperparameters.topk2,
        )

    def _new_criterion(self, head: Head, hyperparameters: Hyperparameters, device: torch.device) -> Any:
        """A `v8DetectionLoss` of a model that ends with a head, with the assigner that it makes for itself."""
        detect = SimpleNamespace(
            stride=torch.tensor([float(stride) for stride in head.strides], device=device),
            nc=head.classes,
            reg_max=head.reg_max,
        )
        gains = SimpleNamespace(
            box=hyperparameters.box_gain, cls=hyperparameters.cls_gain, dfl=hyperparameters.dfl_gain
        )
        somewhere = torch.zeros(1, device=device)
        before = (
            SimpleNamespace()
        )  # backbone and neck, of which nothing is asked: the head is a model's last part
        model = SimpleNamespace(
            args=gains, model=[before, before, detect], parameters=lambda: iter((somewhere,))
        )
        criterion = getattr(self._loss, CRITERIA[DETECT.name])(model, **asked_of_loss(hyperparameters))
        if has_own_exponents(hyperparameters):
            criterion.assigner.__class__ = noting(criterion.assigner.__class__)
        else:
            criterion.assigner = self._new_assigner(head, hyperparameters)
        return criterion


def installed_release() -> str:
    """Version of the installed release.

    Raises:
        UnknownImplementation: none is installed, or it is older than the dialects that are known.
    """
    try:
        version = metadata.version("ultralytics")
    except metadata.PackageNotFoundError as error:
        raise UnknownImplementation("ultralytics is not installed: `pip install ultralytics`") from error
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers < FIRST_OF_NEWEST_DIALECT:
        first = ".".join(map(str, FIRST_OF_NEWEST_DIALECT))
        raise UnknownImplementation(f"ultralytics {version} is installed; {first} or newer is needed")
    return version


@cache
def load_release() -> tuple[ModuleType, ModuleType]:
    """The release's `tal` and `loss` modules, imported without touching the user's settings or the network.

    Raises:
        UnknownImplementation: the import fails.
    """
    configure_ultralytics()
    try:
        from ultralytics.utils import loss, tal
    except Exception as error:
        raise UnknownImplementation(
            f"importing ultralytics raised {type(error).__name__}: {error}"
        ) from error
    return tal, loss


@cache
def noting(assigner: type) -> type:
    """A subclass of the release's assigner that notes what passes between its methods."""

    class NotingAssigner(assigner):  # type: ignore[misc]
        """The release's assigner; `seen` holds copies of what it computed in its last call."""

        def forward(self, *arguments: Tensor) -> Any:
            self.seen: dict[str, Tensor] = {}
            self.read = [argument.detach().clone() for argument in arguments]
            self.returned = super().forward(*arguments)
            return self.returned

        def get_box_metrics(self, *arguments: Tensor) -> Any:
            metric, overlap = super().get_box_metrics(*arguments)
            self.seen |= {
                "candidates": arguments[4].bool(),
                "metric": metric.clone(),
                "overlap": overlap.clone(),
            }
            return metric, overlap

        def get_pos_mask(self, *arguments: Tensor) -> Any:
            selected, metric, overlap = super().get_pos_mask(*arguments)
            self.seen["selected"] = selected.bool()
            return selected, metric, overlap

        def select_highest_overlaps(self, *arguments: Any) -> Any:
            index, foreground, positives = super().select_highest_overlaps(*arguments)
            self.seen["positives"] = positives.bool()
            return index, foreground, positives

        def assignment(self) -> Assignment:
            labels, boxes, scores, foreground, index = self.returned
            stages = Stages(**self.seen) if self.seen else None  # a batch without ground truths has no stages
            return Assignment(labels, boxes, scores, foreground, index, stages)

        def inputs(self, strides: Tensor, head: Head, hyperparameters: Hyperparameters) -> AssignerInputs:
            scores, boxes, anchors, labels, truth_boxes, truth_mask = self.read
            return AssignerInputs(
                scores, boxes, anchors, strides, labels, truth_boxes, truth_mask, head, hyperparameters
            )

    return NotingAssigner
