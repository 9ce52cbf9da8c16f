"""Random batches with masks or keypoints, and the results of official losses on them, in float64."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from tests.reference.official import Drawn, batch_of, double_precision, drawn, model_of, relative_difference
from torch import Tensor

from tal_reference.loss import DetectionLoss

# A loss adds up at most some 4096 numbers, and both sides round: 9e-13.
LOSS_ROUNDINGS = 2 * 4096 * 2**-53


@dataclass(frozen=True)
class Comparison:
    """Largest relative differences of items and total, and of gradients, and the number of positives."""

    values: float
    gradients: float
    positives: int


def with_channels(batch: Drawn, channels: int, seed: int, scale: float = 1.0) -> Drawn:
    """Return a batch whose feature maps have more channels, with normal random numbers times `scale`."""
    generator = torch.Generator().manual_seed(7000 + seed)
    maps = []
    for level in batch.maps:
        shape = len(level), channels, *level.shape[2:]
        more = torch.randn(shape, generator=generator, dtype=torch.float64) * scale
        maps.append(torch.cat((level.detach(), more), dim=1).requires_grad_())
    return replace(batch, maps=maps)


def random_batch(seed: int, reg_max: int, largest: float = 1.0) -> Drawn:
    """Return a random batch of axis-aligned boxes; centres lie within the image, so that masks have pixels."""
    batch = drawn(seed, reg_max, rotated=False)
    rows = batch.rows.clone()
    rows[:, 2:4] = rows[:, 2:4].clamp(0.1, 0.9)
    rows[:, 4:6] = rows[:, 4:6].clamp(0.05, largest)
    return replace(batch, rows=rows)


def compare(
    official: Callable[[Any], Any],
    batch: Drawn,
    predictions: dict[str, Any],
    labels: dict[str, Tensor],
    leaves: Sequence[Tensor],
    loss: DetectionLoss,
    settings: dict[str, Any] | None = None,
    head: dict[str, Any] | None = None,
    attributes: dict[str, Any] | None = None,
) -> Comparison:
    """Return the differences between the reference's loss and the official one.

    Args:
        official: function from a model to the official loss.
        batch: boxes, labels and head.
        predictions: further entries of the predictions, besides those of detection.
        labels: further entries of the data loader's batch.
        leaves: tensors with respect to which gradients are compared.
        loss: the reference's loss.
        settings: further hyperparameters of the model.
        head: further attributes of the model's head.
        attributes: further attributes of the model.
    """
    model = model_of(batch.head)
    vars(model.args).update(settings or {})
    vars(model.model[-1]).update(head or {})
    vars(model).update(attributes or {})
    flat = torch.cat([level.flatten(2) for level in batch.maps], dim=2)  # (B, channels, A)
    sides = 4 * batch.head.reg_max
    both = {"feats": batch.maps, "boxes": flat[:, :sides], "scores": flat[:, sides : batch.head.channels]}
    with double_precision():
        total, items = official(model)(both | predictions, batch_of(batch.rows) | labels)
        expected = torch.autograd.grad(total.sum(), list(leaves), allow_unused=True)
    found = torch.autograd.grad(loss.total, list(leaves), allow_unused=True)
    gradients = 0.0
    for own, other in zip(found, expected, strict=True):
        assert (own is None) == (other is None)
        if own is not None and other is not None:
            gradients = max(gradients, relative_difference(own, other))
    values = torch.stack([item.detach() for item in items.values()])
    return Comparison(
        max(
            relative_difference(loss.items, values), relative_difference(loss.terms.detach(), total.detach())
        ),
        gradients,
        sum(int(image.foreground.sum()) for image in loss.targets),
    )
