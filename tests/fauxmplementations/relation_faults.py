"""Faulty and correct implementations for tests of metamorphic relations."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

import tal_reference.anchors
import tal_reference.assignment
import tal_reference.loss
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.mutation.planted_faults import FAULTS, Fault, FaultyReference
from tal_reference import GroundTruths, Predictions, Targets
from tal_reference.assignment import NORMALISATION_EPS

_loss_items = tal_reference.loss.loss_items
_cls_loss = tal_reference.loss.cls_loss
_assign_images = tal_reference.loss.assign_images
_make_anchors = tal_reference.loss.make_anchors
_targets_of = tal_reference.assignment.targets_of
_top_k = tal_reference.assignment.top_k


def planted(replaces: dict[str, Any], stage: str = "normalisation") -> Fault:
    return Fault("planted", (), stage, replaces, (stage,), "")


def items_over(own_sum: Any) -> Any:
    """Return a faulty `loss_items` that divides by `own_sum(weights)`, not the score sum (LOSS-SUM-1)."""

    def loss_items(predictions: Predictions, targets: Any, *rest: Any) -> Tensor:
        weights = predictions.boxes.new_zeros(predictions.boxes.shape[:2])  # (B, A)
        weights[targets.image, targets.anchor] = targets.weights
        return _loss_items(predictions, targets, *rest) * weights.sum().clamp(min=1) / own_sum(weights)

    return loss_items


def half_open(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return candidates (M, A) that include anchors on the left and top edge, but not on the other edges."""
    boxes = tal_reference.assignment.widened(truths.boxes, floor)[:, None]
    inside = (centres >= boxes[..., :2]) & (centres < boxes[..., 2:])
    return inside.all(-1) & truths.real[:, None]


def cell_corners(*arguments: Any) -> Any:
    """Return anchors at the top left corners of grid cells instead of at their centres."""
    anchors = _make_anchors(*arguments)
    return replace(anchors, centres=anchors.centres - 0.5)


def images_reversed(predictions: Predictions, truths: list[GroundTruths], *rest: Any) -> list[Targets]:
    """Return the targets of images whose ground truths are assigned to the images in reverse order."""
    return _assign_images(predictions, truths[::-1], *rest)


def softmax_for_sigmoid(predictions: Predictions, *rest: Any) -> list[Targets]:
    """Return targets computed with the softmax of class logits instead of the sigmoid."""
    logits = predictions.logits.log_softmax(2)
    return _assign_images(
        replace(predictions, logits=(logits - torch.log1p(-logits.exp().clamp(max=0.999)))), *rest
    )


class Stale:
    """Faulty assignment that gives an image without ground truths the targets of the previous image."""

    last: Targets | None = None

    @classmethod
    def assign_images(cls, *arguments: Any) -> list[Targets]:
        cls.last = None
        return _assign_images(*arguments)

    @classmethod
    def targets_of(cls, *arguments: Any) -> Targets:
        cls.last = _targets_of(*arguments)
        return cls.last

    @classmethod
    def background(
        cls, truths: GroundTruths, anchors: int, _honest: Any = tal_reference.assignment.background
    ) -> Targets:
        return cls.last or _honest(truths, anchors)


def over_the_mean(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Return target weights (A,) normalised by the mean metric of the positives, not the largest."""
    metric, overlap = metric * positives, overlap * positives
    mean = metric.sum(1, keepdim=True) / positives.sum(1, keepdim=True).clamp(min=1)
    return (metric * overlap.amax(1, keepdim=True) / (mean + NORMALISATION_EPS)).sum(0)


PLANTED: list[tuple[str, str, Fault]] = [
    ("META-GT-PERMUTATION", "contested anchors go to the first", FAULTS["contested_goes_to_the_first"]),
    ("META-GT-PERMUTATION", "the first one's label for all", FAULTS["label_of_the_first"]),
    (
        "META-IMAGE-PERMUTATION",
        "N of the first image",
        planted({"tal_reference.loss.loss_items": items_over(lambda scores: scores[0].sum().clamp(min=1))}),
    ),
    (
        "META-IMAGE-PERMUTATION",
        "images mixed up",
        planted({"tal_reference.loss.assign_images": images_reversed}),
    ),
    ("META-PADDING", "padding is taken for ground truths", FAULTS["padding_leaks"]),
    ("META-SPLIT", "the mean cross-entropy", FAULTS["mean_cross_entropy"]),
    ("META-SPLIT", "N for each image", FAULTS["score_sum_an_image"]),
    ("META-SPLIT", "N below 1", FAULTS["score_sum_not_clamped"]),
    ("META-MIRROR", "half-open borders", planted({"tal_reference.assignment.candidates_of": half_open})),
    ("META-MIRROR", "anchors at corners", planted({"tal_reference.loss.make_anchors": cell_corners})),
    (
        "META-CLASS-RENAMING",
        "class 0 is no class",
        planted(
            {
                "tal_reference.annotations.GroundTruths.real": property(
                    lambda self: (self.boxes.sum(-1) > 0) & (self.labels > 0)
                )
            }
        ),
    ),
    (
        "META-EMPTY-IMAGE",
        "N counts images",
        planted(
            {"tal_reference.loss.loss_items": items_over(lambda scores: scores.sum().clamp(min=len(scores)))}
        ),
    ),
    (
        "META-EMPTY-IMAGE",
        "targets of the image before",
        planted(
            {
                "tal_reference.loss.assign_images": Stale.assign_images,
                "tal_reference.assignment.targets_of": Stale.targets_of,
                "tal_reference.assignment.background": Stale.background,
            }
        ),
    ),
    (
        "META-UNREACHABLE-CLASS",
        "softmax for sigmoid",
        planted({"tal_reference.loss.assign_images": softmax_for_sigmoid}),
    ),
    (
        "META-UNREACHABLE-CLASS",
        "cross-entropy averaged over classes",
        planted(
            {
                "tal_reference.loss.cls_loss": lambda logits, at, scores: (
                    _cls_loss(logits, at, scores) / logits.shape[2]
                )
            }
        ),
    ),
    ("META-LOGIT-SHIFT", "clamped logits", FAULTS["softmax_of_clamped_logits"]),
    ("META-LOGIT-SHIFT", "eps in the softmax", FAULTS["softmax_with_eps"]),
    ("META-LOGIT-SHIFT", "clamped logits in the loss alone", FAULTS["dfl_of_clamped_logits"]),
    ("META-SCORE-RANGE", "over the mean", planted({"tal_reference.assignment.normalised": over_the_mean})),
    ("META-BEST-SCORE", "not scaled by the overlap", FAULTS["not_scaled_by_overlap"]),
    ("META-BEST-SCORE", "before contested anchors are settled", FAULTS["weights_before_conflict"]),
    ("META-BEST-SCORE", "clamped for added eps", FAULTS["clamped_for_added_eps"]),
]
"""Tuples of a relation's id, a description of a fault, and the fault, which the relation must find."""


class OutputsOnly(ReferenceAdapter):
    """The reference, exposing the outputs of its assigner but no intermediate results."""

    exposes_stages = False

    def assign(self, inputs: AssignerInputs) -> Assignment:
        return replace(super().assign(inputs), stages=None)

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        assert loss.assignment is not None
        return replace(loss, assignment=replace(loss.assignment, stages=None))


class AssignerAlone:
    """The reference's assigner, without its loss."""

    exposes_stages = True

    def assign(self, inputs: AssignerInputs) -> Assignment:
        return ReferenceAdapter().assign(inputs)


class LossAlone:
    """The reference's loss, which exposes neither its assignment nor the assigner's inputs."""

    def __init__(self, fault: Fault | None = None) -> None:
        self.adapter = FaultyReference(fault) if fault else ReferenceAdapter()

    def loss(self, *arguments: Any) -> Loss:
        loss = self.adapter.loss(*arguments)
        return Loss(loss.total, loss.items)


class Float64Inside(ReferenceAdapter):
    """The reference computed in float64 and rounded to float32: correct, but not bitwise equal to float32."""

    exposes_stages = False

    def loss(self, feature_maps: tuple[Tensor, ...], *rest: Any) -> Loss:
        loss = super().loss(tuple(level.double() for level in feature_maps), *rest)
        shown = loss.assignment
        assert shown is not None
        shown = replace(shown, boxes=shown.boxes.float(), scores=shown.scores.float(), stages=None)
        return Loss(loss.total.float(), loss.items.float(), shown)


class BreaksTiesAtRandom(ReferenceAdapter):
    """The reference with ties broken at random, in a different way at each call."""

    def __init__(self, exposes_stages: bool = True) -> None:
        super().__init__()
        self.exposes_stages = exposes_stages
        self.source = torch.Generator().manual_seed(1)
        self.fault = planted(
            {
                "tal_reference.assignment.top_k": self.top_k,
                "tal_reference.assignment.settle_contested": self.settle_contested,
            }
        )

    def loss(self, *arguments: Any) -> Loss:
        with self.fault.planted():
            loss = super().loss(*arguments)
        assert loss.assignment is not None
        return (
            loss if self.exposes_stages else replace(loss, assignment=replace(loss.assignment, stages=None))
        )

    def top_k(self, metric: Tensor, k: int) -> Tensor:
        order = torch.randperm(metric.shape[1], generator=self.source)
        return _top_k(metric[:, order], k)[:, order.argsort()]

    def settle_contested(self, selected: Tensor, overlap: Tensor) -> Tensor:
        order = torch.randperm(len(overlap), generator=self.source)
        best = order[overlap[order].argmax(0)]
        largest = torch.zeros_like(selected).scatter(0, best[None], True)
        return torch.where(selected.sum(0) > 1, largest, selected)


HONEST: dict[str, Any] = {
    "stages shown": ReferenceAdapter,
    "outputs alone": OutputsOnly,
    "assigner alone": AssignerAlone,
    "loss alone": LossAlone,
    "float64 inside": Float64Inside,
    "ties at random": BreaksTiesAtRandom,
    "ties at random, outputs alone": lambda: BreaksTiesAtRandom(exposes_stages=False),
}
"""Correct implementations by name, in which no relation may find a fault."""
