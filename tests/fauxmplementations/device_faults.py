"""Faulty variants of the article's assigner: the line marked `planted` computes on the wrong device."""

import inspect
from unittest import mock

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters import article
from tal_conformance.implementations.adapters.article import ArticleAdapter, ArticleAssigner
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_reference import Head, Hyperparameters


class Zeros(ArticleAssigner):
    def select_topk_candidates(self, align_metrics: Tensor, topk: int) -> Tensor:
        taken = align_metrics.topk(topk, dim=1).indices
        mask = torch.zeros(align_metrics.shape, dtype=torch.bool)  # planted
        mask[torch.arange(len(taken), device=taken.device)[:, None], taken] = True
        return mask


class Arange(ArticleAssigner):
    def get_train_targets(self, gt_labels, gt_bboxes, target_gt_idx, fg_mask, pb_scores):  # noqa: ANN001
        labels = gt_labels[target_gt_idx, 0].long()
        classes = torch.arange(pb_scores.shape[1])  # planted
        one_hot = (labels[:, None] == classes) & fg_mask[:, None]
        return labels, gt_bboxes[target_gt_idx], one_hot.to(pb_scores.dtype)


class Constant(ArticleAssigner):
    def get_in_gts_mask(self, gt_bboxes: Tensor, anc_points: Tensor) -> Tensor:
        margins = torch.tensor([self.eps, self.eps])  # planted
        inside = (anc_points[None] - gt_bboxes[:, None, :2] > margins).all(2)
        return inside & (gt_bboxes[:, None, 2:] - anc_points[None] > margins).all(2)


class Cpu(ArticleAssigner):
    def overlap(self, gt_bboxes: Tensor, pb_bboxes: Tensor) -> Tensor:
        return super().overlap(gt_bboxes.cpu(), pb_bboxes.cpu())  # planted


class ToCpu(ArticleAssigner):
    def align(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        return super().align(scores.to("cpu"), overlaps.to("cpu", overlaps.dtype))  # planted


class ThereAndBack(ArticleAssigner):
    def align(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        metrics = super().align(scores.cpu(), overlaps.cpu())  # planted
        return metrics.to(scores.device)


class ByIndices(ArticleAssigner):
    def select_topk_candidates(self, align_metrics: Tensor, topk: int) -> Tensor:
        taken = align_metrics.cpu().topk(topk, dim=1).indices  # planted
        mask = torch.zeros_like(align_metrics, dtype=torch.bool)
        mask[torch.arange(len(taken))[:, None], taken] = (
            True  # PyTorch accepts indices on the CPU for tensors on any device
        )
        return mask


class Filled(ArticleAssigner):
    def normalise(
        self, align_metrics: Tensor, overlaps: Tensor, pos_mask: Tensor, selected: Tensor
    ) -> Tensor:
        weights = super().normalise(align_metrics, overlaps, pos_mask, selected)
        host = torch.empty(weights.shape)
        host.copy_(weights)  # planted
        return torch.zeros_like(weights).copy_(host)


class Numpy(ArticleAssigner):
    def align(self, scores: Tensor, overlaps: Tensor) -> Tensor:
        powers = scores.numpy() ** self.alpha  # planted
        return torch.from_numpy(powers) * overlaps.pow(self.beta)


class Returned(ArticleAssigner):
    def get_train_targets(self, gt_labels, gt_bboxes, target_gt_idx, fg_mask, pb_scores):  # noqa: ANN001
        labels, boxes, one_hot = super().get_train_targets(
            gt_labels, gt_bboxes, target_gt_idx, fg_mask, pb_scores
        )
        return labels.cpu(), boxes, one_hot  # planted


class Doubled(torch.autograd.Function):
    """An autograd function that returns twice its input, with a backward pass on the CPU."""

    @staticmethod
    def forward(ctx, value: Tensor) -> Tensor:  # noqa: ANN001
        return value * 2

    @staticmethod
    def backward(ctx, gradient: Tensor) -> Tensor:  # noqa: ANN001
        return gradient * torch.full(gradient.shape[:1], 2.0)  # planted


class Backward(ArticleAdapter):
    """An adapter with a doubled loss, whose backward pass computes on the CPU."""

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        return Loss(Doubled.apply(loss.total), loss.items, loss.assignment, loss.inputs)


FAULTS: dict[type, str] = {
    Zeros: "torch.zeros",
    Arange: "torch.arange",
    Constant: "torch.tensor",
    Cpu: "Tensor.cpu",
    ToCpu: "Tensor.to",
    ThereAndBack: "Tensor.cpu",
    ByIndices: "Tensor.cpu",
    Filled: "Tensor.copy_",
    Numpy: "Tensor.numpy",
    Returned: "Tensor.cpu",
}
"""Each faulty assigner, and the function that its planted line calls."""


def with_assigner(assigner: type) -> Implementation:
    """Return an adapter of the article's code that uses the class `assigner` instead of the article's assigner."""

    class Planted(ArticleAdapter):
        name = assigner.__name__

        def assign(self, inputs: AssignerInputs) -> Assignment:
            with mock.patch.object(article, "ArticleAssigner", assigner):
                return super().assign(inputs)

    return implementation_from(Planted, assigner.__name__)


def planted_line(of: type) -> int:
    """Return the number of the line marked `planted` in the source file of the class `of`."""
    lines, start = inspect.getsourcelines(of)
    return start + next(number for number, line in enumerate(lines) if line.rstrip().endswith("# planted"))
