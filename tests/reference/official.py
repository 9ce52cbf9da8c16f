"""Inputs for official losses, random batches, and a context in which official losses compute in float64."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_reference import Head

GAINS = {"box": 7.5, "cls": 0.5, "dfl": 1.5, "angle": 1.0}


@contextmanager
def double_precision() -> Iterator[None]:
    """Make official code compute in float64 where it would cast to float32."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tensor, "float", Tensor.double)
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)


def model_of(head: Head, epochs: int = 100) -> Any:
    """Return a stub of a model with the attributes that official losses read."""
    layer = SimpleNamespace(
        stride=torch.tensor([float(stride) for stride in head.strides]), nc=head.classes, reg_max=head.reg_max
    )
    model = SimpleNamespace(
        args=SimpleNamespace(epochs=epochs, **GAINS), model=[layer], parameters=lambda: iter([torch.zeros(1)])
    )
    if head.class_weights is not None:
        model.class_weights = torch.tensor(head.class_weights, dtype=torch.float64)
    return model


def predictions_of(maps: list[Tensor], head: Head) -> dict[str, Any]:
    """Return feature maps as the dictionary that a head of Ultralytics 8.4 passes to the loss.

    Feature maps of rotated boxes have the angle as their last channel.
    """
    flat = torch.cat([level.flatten(2) for level in maps], dim=2)  # (B, channels, A)
    names = ["boxes", "scores", "angle"][: 2 + flat.shape[1] - head.channels]
    widths = [4 * head.reg_max, head.classes, 1][: len(names)]
    return {"feats": maps, **dict(zip(names, flat.split(widths, dim=1), strict=True))}


def batch_of(rows: Tensor) -> dict[str, Tensor]:
    """Return annotation rows (N, 6) or (N, 7) as the dictionary that Ultralytics' data loader passes to the loss."""
    return {"batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}


@dataclass(frozen=True)
class Drawn:
    """A random batch.

    Attributes:
        maps: feature maps that require gradients, one for each level, float64.
        rows: annotation rows, sorted by image.
        head: strides, classes, bins and class weights.
    """

    maps: list[Tensor]
    rows: Tensor
    head: Head


def drawn(seed: int, reg_max: int, rotated: bool) -> Drawn:
    """Return a random batch of 1 to 3 images with 0 to 5 ground truths each; every tenth batch has no ground truths."""
    generator = torch.Generator().manual_seed(seed)

    def integer(low: int, high: int) -> int:
        return int(torch.randint(low, high + 1, (), generator=generator))

    head, images = Head((8, 16), integer(1, 3), reg_max), integer(1, 3)
    height, width = integer(2, 4), integer(2, 4)
    maps = []
    for scale in (2, 1):  # the second level has half the cells
        shape = images, head.channels + rotated, height * scale, width * scale
        level = torch.randn(shape, generator=generator, dtype=torch.float64)
        if reg_max == 1:  # distances are not changed, so that some boxes stay inside out
            level[:, :4] = level[:, :4] * 1.5 + 1.5
        maps.append(level.requires_grad_())
    rows = []
    for image in range(images):
        for _ in range(integer(0, 5) if seed % 10 else 0):
            centre = torch.rand(2, generator=generator, dtype=torch.float64) * 1.2 - 0.1
            sides = torch.rand(2, generator=generator, dtype=torch.float64) * [0.1, 0.5, 1.0][integer(0, 2)]
            angle = torch.randn(1, generator=generator, dtype=torch.float64) * 2
            first = torch.tensor([image, integer(0, head.classes - 1)], dtype=torch.float64)
            rows.append(torch.cat((first, centre, sides, angle[: int(rotated)])))
    weights = (
        torch.rand(head.classes, generator=generator, dtype=torch.float64) * 2 if integer(0, 1) else None
    )
    columns = 7 if rotated else 6
    head = replace(head, class_weights=None if weights is None else tuple(weights.tolist()))
    return Drawn(maps, torch.stack(rows) if rows else torch.zeros(0, columns, dtype=torch.float64), head)


def relative_difference(found: Tensor, expected: Tensor) -> float:
    """Return the largest absolute difference, divided by the largest expected magnitude if that is not 0."""
    scale = expected.abs().max().item() or 1.0
    return (found - expected).abs().max().item() / scale
