"""Faults of loops over chunks of a fixed size: the items after the last whole chunk are dropped.

An input that is smaller than one chunk is computed correctly.
"""

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

import tal_reference.annotations
import tal_reference.assignment
import tal_reference.decoding
import tal_reference.loss
from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import SEEN_LATER, enter, fault
from tal_reference import Anchors, GroundTruths, Targets

_ground_truths = tal_reference.annotations.ground_truths
_candidates_of = tal_reference.assignment.candidates_of
_overlaps_of = tal_reference.assignment.overlaps_of
_top_k = tal_reference.assignment.top_k
_settle_contested = tal_reference.assignment.settle_contested
_targets_of = tal_reference.assignment.targets_of
_decode = tal_reference.decoding.decode
_box_loss = tal_reference.loss.box_loss
_dfl_loss = tal_reference.loss.dfl_loss
_cls_loss = tal_reference.loss.cls_loss


def whole_chunks(count: int, size: int) -> int:
    """Return how many of `count` items are in whole chunks of `size`; `count` if it is at most `size`."""
    return count - count % size if count > size else count


def _without_rest(values: Tensor, size: int) -> Tensor:
    """Return values (M, ..), set to zero in the rows after the last whole chunk of `size` rows."""
    done = torch.arange(len(values), device=values.device) < whole_chunks(len(values), size)
    return values * done.view(-1, *[1] * (values.ndim - 1))


@fault(at="tal_reference.assignment.candidates_of", outputs_stages=SEEN_LATER)
def candidates_in_chunks_of_64(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return candidates, without candidates of the ground truths after the last whole chunk of 64."""
    return _without_rest(_candidates_of(truths, centres, floor), 64)


@fault(at="tal_reference.assignment.overlaps_of", outputs_stages=SEEN_LATER)
def overlaps_in_chunks_of_100(truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
    """Return overlaps that are zero for the ground truths after the last whole chunk of 100."""
    return _without_rest(_overlaps_of(truths, boxes, candidates), 100)


@fault(at="tal_reference.assignment.top_k", outputs_stages=SEEN_LATER)
def top_k_in_chunks_of_128(metric: Tensor, k: int) -> Tensor:
    """Return a selection in which the ground truths after the last whole chunk of 128 select no anchor."""
    return _without_rest(_top_k(metric, k), 128)


@fault(at="tal_reference.assignment.settle_contested", outputs_stages=SEEN_LATER)
def conflicts_in_chunks_of_256(selected: Tensor, overlap: Tensor) -> Tensor:
    """Return positives, with overlap zero for the ground truths after the last whole chunk of 256."""
    return _settle_contested(selected, _without_rest(overlap, 256))


@fault(at="tal_reference.assignment.targets_of", outputs_stages=SEEN_LATER)
def labels_in_chunks_of_300(
    truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None
) -> Targets:
    """Return targets with boxes of zeros for the ground truths after the last whole chunk of 300."""
    return _targets_of(
        GroundTruths(truths.labels, _without_rest(truths.boxes, 300)), positives, weights, trace
    )


def _in_chunks(size: int) -> Any:
    """Return a replacement of `ground_truths` that drops the rows of an image after the last whole chunk of `size`."""

    def ground_truths(
        annotations: Tensor, images: int, input_size: tuple[int, int], *_: Any
    ) -> list[GroundTruths]:
        kept = annotations[annotations[:, 0] < whole_chunks(images, size)]
        return _ground_truths(kept, images, input_size)

    return ground_truths


for _size in (8, 64):
    enter(
        f"images_in_chunks_of_{_size}",
        {
            "tal_reference.loss.ground_truths": _in_chunks(_size),
            "tal_conformance.core.reference_inputs.ground_truths": _in_chunks(_size),
        },
        outputs_stages=SEEN_LATER,
    )


def _decoded_in_chunks(distances: Tensor, anchors: Anchors, reg_max: int) -> Tensor:
    """Return decoded boxes, set to zero for the anchors after the last whole chunk of 1,000."""
    boxes = _decode(distances, anchors, reg_max)  # (.., A, 4)
    done = torch.arange(boxes.shape[-2], device=boxes.device) < whole_chunks(boxes.shape[-2], 1000)
    return boxes * done[:, None]


enter(
    "decoding_in_chunks_of_1000",
    {"tal_reference.loss.decode": _decoded_in_chunks},
    outputs_stages=(*SEEN_LATER, StageName.BOX),
)


@fault(at="tal_reference.loss.box_loss")
def box_loss_in_chunks_of_1024(predicted: Tensor, target: Tensor) -> Tensor:
    """Return the box loss, set to zero for the positives after the last whole chunk of 1,024."""
    return _without_rest(_box_loss(predicted, target), 1024)


@fault(at="tal_reference.loss.dfl_loss")
def dfl_in_chunks_of_256(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Return the distribution focal loss, set to zero for the positives after the last whole chunk of 256."""
    return _without_rest(_dfl_loss(distances, target, reg_max), 256)


@fault(at="tal_reference.loss.cls_loss")
def cls_loss_in_chunks_of_300(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """Return the class loss without the log(1 + e^x) of the anchors after the last whole chunk of 300."""
    rest = logits[:, whole_chunks(logits.shape[1], 300) :]
    return _cls_loss(logits, at, scores) - functional.softplus(rest).sum()
