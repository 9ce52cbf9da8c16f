"""Sizes of feature maps that some projects do not support."""

from collections.abc import Sequence

from tal_conformance.core.outcome import AssignerInputs
from tal_reference import Head


def has_whole_cells(head: Head, shapes: Sequence[tuple[int, ...]]) -> bool:
    """Return True if the input's size is a multiple of every stride, so that no cell reaches beyond the input.

    The input's size is that of the first level times its stride (ANC-1).

    Args:
        head: the head with its strides.
        shapes: shape (.., H, W) of each level's feature map; True is returned without any.
    """
    sizes = [
        tuple(side * stride for side in shape[-2:])
        for shape, stride in zip(shapes, head.strides, strict=False)
    ]
    return len(set(sizes)) <= 1


def map_shapes(inputs: AssignerInputs) -> list[tuple[int, ...]]:
    """Return the height and width (H, W) of each level's feature map, from the assigner's inputs."""
    strides = inputs.strides.squeeze(1)  # (A,)
    levels = (inputs.anchors[strides == stride] / stride for stride in inputs.head.strides)
    return [tuple(len(each[:, axis].unique()) for axis in (1, 0)) for each in levels]
