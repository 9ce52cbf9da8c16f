"""The graph of a loss whose gradients were computed elsewhere: in a worker process, or without torch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


class GivenGradients(torch.autograd.Function):
    """Autograd function that returns the total of a loss, with given gradients on the feature maps."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, gradients: Sequence[Tensor | None], *_: Tensor) -> Tensor:
        """Return a copy of the total; the feature maps follow the gradients."""
        ctx.gradients = gradients
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Return the given gradient of each feature map, multiplied by the incoming gradient of the total."""
        (slope,) = slopes
        products = (None if gradient is None else gradient * slope for gradient in ctx.gradients)
        return None, None, *products
