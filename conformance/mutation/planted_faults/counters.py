"""Faults of counters, indices and buffers: integers with too few bits, or buffers with too few places."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

import tal_reference.anchors
import tal_reference.annotations
import tal_reference.assignment
import tal_reference.loss
from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import LEFT_OUT, SEEN_LATER, enter, fault
from tal_reference import Anchors, GroundTruths, Head, Hyperparameters, Predictions, Targets

_ground_truths = tal_reference.annotations.ground_truths
_make_anchors = tal_reference.anchors.make_anchors
_targets_of = tal_reference.assignment.targets_of
_candidates_of = tal_reference.assignment.candidates_of
_loss_items = tal_reference.loss.loss_items
_cls_loss = tal_reference.loss.cls_loss


@fault(at="tal_reference.assignment.targets_of")
def labels_of_8_bits(truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None) -> Targets:
    """Return targets whose labels were converted to uint8 and back, so that class 256 becomes class 0."""
    stored = GroundTruths(truths.labels.to(torch.uint8).long(), truths.boxes)
    return _targets_of(stored, positives, weights, trace)


@fault(at="tal_reference.assignment.targets_of")
def labels_end_at_127(truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None) -> Targets:
    """Return targets in which every label above 127 becomes 127, as in an int8 that saturates."""
    stored = GroundTruths(truths.labels.clamp(max=127), truths.boxes)
    return _targets_of(stored, positives, weights, trace)


def _settled(selected: Tensor, overlap: Tensor, contested: Tensor) -> Tensor:
    best = torch.zeros_like(selected).scatter(0, overlap.argmax(0, keepdim=True), True)
    return torch.where(contested, best, selected)


# If the count overflows to 0 or 1, the anchor stays with all ground truths that selected it; their weights are added.
_STAYS_WITH_ALL = (StageName.CONFLICT, StageName.METRIC, StageName.NORMALISATION, StageName.TARGETS)


@fault(at="tal_reference.assignment.settle_contested", outputs_stages=_STAYS_WITH_ALL)
def claimants_of_8_bits(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives after counting the ground truths that selected an anchor in uint8, where 256 becomes 0."""
    return _settled(selected, overlap, selected.sum(0).to(torch.uint8) > 1)


@fault(at="tal_reference.assignment.settle_contested", outputs_stages=_STAYS_WITH_ALL)
def claimants_of_8_bits_with_sign(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives after counting the ground truths that selected an anchor in int8, where 128 becomes -128."""
    return _settled(selected, overlap, selected.sum(0).to(torch.int8) > 1)


def _selected_at(metric: Tensor, places: Tensor) -> Tensor:
    return torch.zeros_like(metric, dtype=torch.bool).scatter(1, places.clamp(0, metric.shape[1] - 1), True)


@fault(at="tal_reference.assignment.top_k", outputs_stages=LEFT_OUT)
def anchor_index_in_float16(metric: Tensor, k: int) -> Tensor:
    """Return a selection whose anchor indices were converted to float16 and back, which is exact only up to 2,048."""
    return _selected_at(metric, metric.topk(k, dim=1).indices.half().long())


@fault(at="tal_reference.assignment.top_k", outputs_stages=LEFT_OUT)
def anchor_index_of_16_bits(metric: Tensor, k: int) -> Tensor:
    """Return a selection whose anchor indices were converted to uint16 and back: anchor 65,536 becomes anchor 0."""
    return _selected_at(metric, metric.topk(k, dim=1).indices % 2**16)


@fault(at="tal_reference.assignment.candidates_of", outputs_stages=LEFT_OUT)
def candidate_pairs_end_at_65536(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return only the first 65,536 candidates of an image, as from a list of fixed length."""
    candidates = _candidates_of(truths, centres, floor)
    places = candidates.flatten().cumsum(0).view_as(candidates)
    return candidates & (places <= 2**16)


def _in_ground_truths(name: str, replacement: Any) -> None:
    replaced = ("tal_reference.loss.ground_truths", "tal_conformance.core.reference_inputs.ground_truths")
    enter(name, dict.fromkeys(replaced, replacement), outputs_stages=SEEN_LATER)


def _first_256(annotations: Tensor, images: int, size: tuple[int, int], *_: Any) -> list[GroundTruths]:
    """Return the ground truths of a batch, with boxes of zeros for all but the first 256 ground truths of an image."""
    truths = _ground_truths(annotations, images, size)
    places = [torch.arange(len(image), device=image.boxes.device) for image in truths]
    return [
        GroundTruths(image.labels, image.boxes * (place < 256)[:, None])
        for image, place in zip(truths, places, strict=True)
    ]


_in_ground_truths("only_256_truths", _first_256)


def _first_2048(annotations: Tensor, images: int, size: tuple[int, int], *_: Any) -> list[GroundTruths]:
    """Return the ground truths of only the first 2,048 annotation rows of a batch."""
    return _ground_truths(annotations[:2048], images, size)


_in_ground_truths("only_2048_rows", _first_2048)


@fault(at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def column_of_8_bits(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """Return anchors whose rows and columns were converted to uint8 and back, so that column 256 becomes column 0."""
    anchors = _make_anchors(feature_maps, head)
    return Anchors(anchors.centres % 256, anchors.strides)


@fault(at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def centres_end_at_1024_px(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """Return anchors whose centres are clamped to at most 1,024 pixels."""
    anchors = _make_anchors(feature_maps, head)
    return Anchors((anchors.pixels.clamp(max=1024)) / anchors.strides, anchors.strides)


def _first(targets: Any, count: int) -> Any:
    return type(targets)(**{name: value[:count] for name, value in vars(targets).items()})


def _with_first_positives(count: int) -> Any:
    """Return a replacement of `loss_items` that computes box and DFL on the first `count` positives only."""

    def loss_items(
        predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
    ) -> Tensor:
        whole = _loss_items(predictions, targets, head, numbers, *dialect)
        if len(targets.weights) <= count:
            return whole
        few = _first(targets, count)
        share = few.weights.sum().clamp(min=1) / targets.weights.sum().clamp(min=1)
        box, _, dfl = _loss_items(predictions, few, head, numbers, *dialect) * share
        return torch.stack((box, whole[1], dfl))

    return loss_items


enter("only_2048_positives", {"tal_reference.loss.loss_items": _with_first_positives(2**11)})
enter("only_65536_positives", {"tal_reference.loss.loss_items": _with_first_positives(2**16)})


@fault(at="tal_reference.loss.cls_loss")
def target_index_in_float32(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """Return the class loss with flat indices of target scores in float32, which is exact only up to 2^24."""
    (image, anchor, label), (_, anchors, classes) = at, logits.shape
    place = ((image.float() * anchors + anchor) * classes + label).long().clamp(max=logits.numel() - 1)
    moved = place // (anchors * classes), place // classes % anchors, place % classes
    return _cls_loss(logits, moved, scores)


@fault(at="tal_reference.loss.cls_loss")
def only_1000_classes(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """Return the class loss of the first 1,000 classes only."""
    beyond = logits[..., 1000:].double()
    return _cls_loss(logits, at, scores) - torch.nn.functional.softplus(beyond).sum().to(logits)
