"""Faults in reading annotation rows: corners, order, padding, and rows that must be dropped (ANN-3)."""

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
from tal_reference import Dialect, GroundTruths

_ground_truths = tal_reference.annotations.ground_truths


@fault(at="tal_reference.annotations.to_corners", outputs_stages=SEEN_LATER)
def centre_taken_for_corner(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """Return boxes of annotations whose centre coordinates are taken for the top left corner."""
    height, width = size
    left_top, sides = (boxes * boxes.new_tensor((width, height, width, height))).split(2, dim=1)
    return torch.cat((left_top, left_top + sides), dim=1)


def _reversed(
    annotations: Tensor, images: int, size: tuple[int, int], *dialect: Dialect
) -> list[GroundTruths]:
    return _ground_truths(annotations.flip(0), images, size)


# Ground truths in reverse order: the last row of an image becomes its first ground truth.
enter(
    "truths_in_reverse",
    {
        "tal_reference.loss.ground_truths": _reversed,
        "tal_conformance.core.reference_inputs.ground_truths": _reversed,
    },
    outputs_stages=SEEN_LATER,
)


def _by_width(
    annotations: Tensor, images: int, size: tuple[int, int], *dialect: Dialect
) -> list[GroundTruths]:
    return _ground_truths(annotations[annotations[:, 4].argsort(stable=True)], images, size)


# Ground truths ordered by width: the narrowest box of an image becomes its first ground truth.
enter(
    "truths_by_width",
    {
        "tal_reference.loss.ground_truths": _by_width,
        "tal_conformance.core.reference_inputs.ground_truths": _by_width,
    },
    outputs_stages=SEEN_LATER,
)


def _padded(annotations: Tensor, images: int, size: tuple[int, int]) -> list[GroundTruths]:
    """Return the same number of ground truths for every image; padding rows are boxes as large as the input."""
    truths = _ground_truths(annotations, images, size)
    most = max(map(len, truths))
    whole = annotations.new_tensor((0, 0, size[1], size[0]))  # (4,)
    return [
        GroundTruths(
            torch.cat((image.labels, image.labels.new_zeros(most - len(image)))),
            torch.cat((image.boxes, whole.to(image.boxes).expand(most - len(image), 4))),
        )
        for image in truths
    ]


# Padding boxes take part in the assignment: they select anchors, or make them contested.
enter(
    "padding_leaks",
    {
        "tal_reference.loss.ground_truths": _padded,
        "tal_reference.annotations.GroundTruths.real": property(lambda self: self.boxes.sum(-1) >= 0),
    },
    outputs_stages=(
        StageName.TARGETS,
        StageName.CANDIDATES,
        StageName.CONFLICT,
        StageName.TOP_K,
    ),
)


# Every ground truth counts as real, even if the sum of its corner coordinates is not above zero.
enter(
    "negative_sum_kept",
    {
        "tal_reference.annotations.GroundTruths.real": property(
            lambda self: torch.ones_like(self.labels, dtype=torch.bool)
        )
    },
)


# Every ground truth whose box is not all zeros counts as real.
enter(
    "every_row_counts",
    {"tal_reference.annotations.GroundTruths.real": property(lambda self: (self.boxes != 0).any(-1))},
)
