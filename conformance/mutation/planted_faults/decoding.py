"""Faults in reading the feature maps: flattening, input size, anchors and decoded boxes."""

from collections.abc import Sequence

import torch
from torch import Tensor

import tal_reference.anchors
import tal_reference.annotations
import tal_reference.assignment
import tal_reference.boxes
import tal_reference.decoding
import tal_reference.dialect
import tal_reference.loss
from tal_conformance.core.task import StageName
from tal_conformance.mutation.planted_faults.fault import SEEN_LATER, enter, fault
from tal_reference import Anchors, Head

_flatten = tal_reference.anchors.flatten


_input_size = tal_reference.anchors.input_size


_make_anchors = tal_reference.anchors.make_anchors


_expected_distances = tal_reference.decoding.expected_distances


_boxes_around = tal_reference.decoding.boxes_around


@fault(at="tal_reference.loss.flatten", outputs_stages=(*SEEN_LATER, StageName.CLS))
def columns_before_rows(feature_maps: Sequence[Tensor], head: Head) -> tuple[Tensor, Tensor]:
    """Return logits flattened column by column instead of row by row."""
    return _flatten([level.transpose(2, 3) for level in feature_maps], head)


@fault(at="tal_reference.loss.flatten", outputs_stages=(*SEEN_LATER, StageName.CLS))
def classes_before_distances(feature_maps: Sequence[Tensor], head: Head) -> tuple[Tensor, Tensor]:
    """Return distance and class logits split as if the class channels came before the distance channels."""
    return _flatten([level.roll(-head.classes, 1) for level in feature_maps], head)


def _exchanged(feature_maps: Sequence[Tensor], head: Head) -> tuple[int, int]:
    height, width = _input_size(feature_maps, head)
    return width, height


# Height and width of the input are exchanged, which changes results only if they differ.
enter(
    "width_and_height_exchanged",
    {
        "tal_reference.loss.input_size": _exchanged,
        "tal_conformance.core.batch.Batch.size": property(
            lambda self: _exchanged(self.feature_maps, self.head)
        ),
    },
    outputs_stages=SEEN_LATER,
)


def _of_last_level(feature_maps: Sequence[Tensor], head: Head) -> tuple[int, int]:
    rows, columns = feature_maps[-1].shape[2:]
    return rows * head.strides[-1], columns * head.strides[-1]


# The input size is computed from the last level: a difference unless the last stride divides the size.
enter(
    "size_of_the_last_level",
    {
        "tal_reference.loss.input_size": _of_last_level,
        "tal_conformance.core.batch.Batch.size": property(
            lambda self: _of_last_level(self.feature_maps, self.head)
        ),
    },
    outputs_stages=SEEN_LATER,
)


@fault(at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def anchors_column_by_column(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """Return anchors with the x and y coordinates of their centres exchanged."""
    anchors = _make_anchors(feature_maps, head)
    return Anchors(anchors.centres.flip(1), anchors.strides)


@fault(at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def anchors_at_the_corner(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """Return anchors at the top left corners of the cells instead of the centres."""
    anchors = _make_anchors(feature_maps, head)
    return Anchors(anchors.centres - 0.5, anchors.strides)


@fault(at="tal_reference.decoding.expected_distances", outputs_stages=(*SEEN_LATER, StageName.BOX))
def most_likely_distance(distances: Tensor, reg_max: int) -> Tensor:
    """Return the most likely bin as the distance of each side instead of the expectation over the bins."""
    return distances.unflatten(-1, (4, reg_max)).argmax(-1).to(distances.dtype)


@fault(at="tal_reference.decoding.expected_distances", outputs_stages=(*SEEN_LATER, StageName.BOX))
def bins_from_one(distances: Tensor, reg_max: int) -> Tensor:
    """Return expected distances with the bins numbered from 1 instead of 0."""
    return _expected_distances(distances, reg_max) + (reg_max > 1)


@fault(at="tal_reference.decoding.boxes_around", outputs_stages=(*SEEN_LATER, StageName.BOX))
def top_before_left(centres: Tensor, distances: Tensor) -> Tensor:
    """Return boxes whose distances, ordered left, top, right, bottom, are read as top, left, bottom, right."""
    return _boxes_around(centres, distances[..., [1, 0, 3, 2]])


@fault(at="tal_reference.decoding.boxes_around", outputs_stages=(*SEEN_LATER, StageName.BOX))
def distances_as_width_and_height(centres: Tensor, distances: Tensor) -> Tensor:
    """Return boxes whose last two distances are taken for width and height instead of right and bottom."""
    left_top, right_bottom = distances.split(2, dim=-1)
    return torch.cat((centres - left_top, centres - left_top + right_bottom), dim=-1)
