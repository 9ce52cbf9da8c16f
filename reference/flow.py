"""The term rle of Pose26 heads: the residual log-likelihood of keypoints (RLE-*; Li et al., 2021).

The head predicts a standard deviation for x and y of each keypoint. The error of a keypoint in these units has a
density, the product of a Laplace density and of a density that a normalising flow learns (RealNVP; Dinh et al., 2017).
The term is the negative logarithm of the density, so that a deviation that is too large or too small costs, too.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from tal_reference.shapes import Bool, Float

SIGMA_EPS = 1e-9
"""Added to the standard deviations by which errors are divided (RLE-2)."""
FARTHEST = 100.0
"""Errors are clamped to this number of standard deviations, without gradient beyond it (RLE-2)."""
COUPLINGS = 6
"""Couplings of the flow (RLE-5)."""
LAYERS = (0, 2, 4)
"""Numbers of the linear layers in the names of a network's parameters; between two of them stands SiLU."""


@dataclass(frozen=True)
class Flow:
    """A RealNVP of the plane: six couplings, each with two networks from the plane to the plane (RLE-5).

    Attributes:
        parameters: weight and bias of every linear layer by name: "s.0.2.weight" for the second layer of the network
            that scales in the first coupling, and "t.." for the one that translates.
    """

    parameters: Mapping[str, Tensor]

    def network(self, name: str, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N 2"]:
        """Return the output of the network `name`, such as "s.0": three linear layers with SiLU between."""
        for layer in LAYERS:
            points = functional.silu(points) if layer else points
            weight, bias = (self.parameters[f"{name}.{layer}.{kind}"] for kind in ("weight", "bias"))
            points = functional.linear(points, weight, bias)
        return points

    def log_density(self, points: Float[Tensor, "N 2"]) -> Float[Tensor, "N"]:
        """Return (N,) ln phi of points of the plane (RLE-5).

        Each coupling keeps one component and scales and translates the other one by functions of the first; the last
        coupling is undone first. What remains has a normal distribution.
        """
        log_determinant = points.new_zeros(len(points))  # (N,)
        for coupling in reversed(range(COUPLINGS)):
            keeps = points.new_tensor((0.0, 1.0) if coupling % 2 == 0 else (1.0, 0.0))  # (2,) y, or x
            kept = keeps * points  # (N, 2)
            scale = (1 - keeps) * self.network(f"s.{coupling}", kept).tanh()  # (N, 2)
            shift = (1 - keeps) * self.network(f"t.{coupling}", kept)  # (N, 2)
            points = kept + (1 - keeps) * (points - shift) * (-scale).exp()  # (N, 2)
            log_determinant = log_determinant - scale.sum(1)  # (N,)
        return log_determinant - points.square().sum(1) / 2 - math.log(2 * math.pi)  # (N,)


def rle_term(
    errors: Float[Tensor, "P K 2"],
    raw_sigmas: Float[Tensor, "P K 2"],
    visible: Bool[Tensor, "P K"],
    weights: Float[Tensor, "K"],
    flow: Flow,
) -> Float[Tensor, ""]:
    """Return the mean negative log-likelihood of the visible keypoints' errors, at least 0 (RLE-3), without gain.

    Args:
        errors: (P, K, 2) predicted minus true keypoints of the P positives, in grid units.
        raw_sigmas: (P, K, 2) logits of the standard deviations.
        visible: (P, K) bool: True for keypoints that count.
        weights: (K,) weight of each keypoint (RLE-4).
        flow: the learnt part of the density.
    """
    smallest = torch.finfo(raw_sigmas.dtype).tiny
    sigmas = raw_sigmas[visible].sigmoid().clamp(min=smallest)  # (n, 2)
    standardised = errors[visible] / (sigmas + SIGMA_EPS)  # (n, 2)
    finite = standardised.isfinite().all(1) & sigmas.isfinite().all(1)  # (n,) RLE-2: other keypoints are left out
    standardised, sigmas = standardised[finite].clamp(-FARTHEST, FARTHEST), sigmas[finite]  # (n, 2), (n, 2)
    laplace = 2 * sigmas.log() + math.log(2) + standardised.abs()  # (n, 2)
    losses = (laplace - flow.log_density(standardised)[:, None]).sum(1)  # (n,) ln phi once for x and once for y
    weight = weights.expand(visible.shape)[visible][finite]  # (n,)
    return ((weight * losses).sum() / max(len(losses), 1)).clamp(min=0)
