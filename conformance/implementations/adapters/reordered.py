"""A correct implementation with reordered operations, used to measure the effect of rounding.

Every step differs from the reference and from the article's algorithm: corners before pixels, powers by logarithms, IoU
by clipping, cross-entropy by softplus, DFL as a sum over all bins, and optionally float64. B images, M ground truths
with padding, A anchors, C classes, R bins, P positives.
"""

import math

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_reference import NEWEST, Head, Hyperparameters

EPS = 1e-7
TINY = 1e-9


class ReorderedAdapter:
    """Assigner and loss of the newest dialect with reordered operations.

    Args:
        dtype: dtype of the computation; None for the dtype of the inputs.
        shows: results that the loss exposes besides its values: "inputs" (inputs and assignment of the assigner),
            "assignment" or "nothing".
    """

    version = "1"
    dialect = NEWEST

    def __init__(self, dtype: torch.dtype | None = None, shows: str = "inputs") -> None:
        self.dtype, self.shows = dtype, shows
        self.name = "rearranged" if dtype is None else f"rearranged-{str(dtype).removeprefix('torch.')}"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Assign with dense tensors (B, M, A); outputs have the dtypes of the inputs."""
        real = self.dtype or torch.promote_types(inputs.boxes.dtype, inputs.truth_boxes.dtype)
        scores, boxes, truths = (x.to(real) for x in (inputs.scores, inputs.boxes, inputs.truth_boxes))
        numbers = inputs.hyperparameters
        images, most = truths.shape[:2]
        labels = inputs.labels[..., 0].long()  # (B, M)
        anchors = scores.shape[1]
        if not most:
            none = torch.zeros(images, anchors, dtype=torch.long, device=scores.device)
            return Assignment(
                none, inputs.truth_boxes.new_zeros(images, anchors, 4), torch.zeros_like(inputs.scores).to(
                    inputs.truth_boxes.dtype), none.bool(), none
            )  # fmt: skip
        candidate = centres_inside(inputs, truths) & (inputs.truth_mask[..., 0] > 0)[..., None]  # (B, M, A)
        overlap = overlaps(truths[:, :, None], boxes[:, None]).clamp(min=0).where(candidate, 0)  # (B, M, A)
        own = labels[..., None].expand(-1, -1, anchors)
        score = scores.transpose(1, 2).gather(1, own).where(candidate, 0)  # (B, M, A)
        metric = torch.exp(
            numbers.alpha * score.log() + numbers.beta * overlap.log()
        )  # (B, M, A), 0 at log 0
        positives = best(metric, numbers.topk) & candidate
        contested = positives.sum(1, keepdim=True) > 1  # (B, 1, A)
        winner = functional.one_hot(overlap.argmax(1), most).transpose(1, 2).bool()  # (B, M, A)
        positives = (positives & ~contested) | (winner & contested)
        if numbers.effective_topk2 is not None:
            positives = positives & best(metric.where(positives, 0), numbers.effective_topk2)
        index = positives.int().argmax(1)  # (B, A)
        taken, largest = metric.where(positives, 0), overlap.where(positives, 0)
        weight = (taken / (taken.amax(2, keepdim=True) + TINY) * largest.amax(2, keepdim=True)).sum(
            1
        )  # (B, A)
        foreground = positives.any(1)
        target = labels.gather(1, index)  # (B, A)
        one_hot = functional.one_hot(target, inputs.head.classes)  # (B, A, C)
        learnt = torch.promote_types(inputs.scores.dtype, inputs.truth_boxes.dtype)
        target_boxes = inputs.truth_boxes.gather(1, index[..., None].expand(-1, -1, 4))
        shown = (one_hot * (weight * foreground)[..., None]).to(learnt)
        return Assignment(target, target_boxes, shown, foreground, index)

    def loss(
        self, feature_maps: tuple[Tensor, ...], annotations: Tensor, head: Head, hyperparameters: Hyperparameters
    ) -> Loss:  # fmt: skip
        """Return the detection loss. Gradients pass through the conversion to the dtype of the computation."""
        real = self.dtype or torch.promote_types(feature_maps[0].dtype, torch.float32)
        rows = torch.cat([level.to(real).flatten(2) for level in feature_maps], dim=2).transpose(1, 2)
        distances, logits = (
            rows[..., : 4 * head.reg_max],
            rows[..., 4 * head.reg_max :],
        )  # (B, A, 4R), (B, A, C)
        centres, strides = cells(feature_maps, head, real)  # (A, 2) grid units, (A, 1)
        sides = expectations(distances, head.reg_max)  # (B, A, 4)
        boxes = torch.cat((centres - sides[..., :2], centres + sides[..., 2:]), dim=2)  # (B, A, 4)
        inputs = self.inputs_of(
            feature_maps, annotations, boxes, logits, centres, strides, head, hyperparameters
        )
        shown = self.assign(inputs)
        at, scores = shown.foreground, shown.scores.to(real)
        score_sum = scores.sum().clamp(min=1)
        weight = scores.amax(2)[at]  # (P,)
        stride = strides.expand(*at.shape, 1)[at]  # (P, 1)
        wanted = shown.boxes[at].to(real) / stride  # (P, 4)
        centre = centres.expand(*at.shape, 2)[at]  # (P, 2)
        box = ((1 - overlaps(wanted, boxes[at])) * weight).sum() / score_sum
        cls = (functional.softplus(logits) - logits * scores).sum() / score_sum
        away = torch.cat((centre - wanted[:, :2], wanted[:, 2:] - centre), dim=1)  # (P, 4)
        height, width = (size * head.strides[0] for size in feature_maps[0].shape[2:])
        size = away.new_tensor((width, height, width, height))
        side = side_loss(distances[at], away, head.reg_max, stride / size)  # (P,)
        dfl = (side * weight).sum() / score_sum
        items = torch.stack((
            box * hyperparameters.box_gain, cls * hyperparameters.cls_gain, dfl * hyperparameters.dfl_gain,
        )).to(torch.promote_types(feature_maps[0].dtype, torch.float32))  # fmt: skip
        return Loss(
            items * len(boxes), items.detach(), shown if self.shows != "nothing" else None,
            inputs if self.shows == "inputs" else None,
        )  # fmt: skip

    def inputs_of(
        self, feature_maps: tuple[Tensor, ...], annotations: Tensor, boxes: Tensor, logits: Tensor, centres: Tensor,
        strides: Tensor, head: Head, hyperparameters: Hyperparameters,
    ) -> AssignerInputs:  # fmt: skip
        """Return the assigner's inputs; converts ground truths to corners first, then to pixels."""
        height, width = (size * head.strides[0] for size in feature_maps[0].shape[2:])
        image = annotations[:, 0].long()  # (N,)
        counts = torch.bincount(image, minlength=len(boxes))
        padded = annotations.new_zeros(len(boxes), int(counts.max()), 5)  # (B, M, 5)
        for i in range(len(boxes)):
            padded[i, : counts[i]] = annotations[image == i, 1:]
        middle, half = padded[..., 1:3], padded[..., 3:] / 2
        size = padded.new_tensor((width, height, width, height))
        corners = torch.cat((middle - half, middle + half), dim=2) * size  # (B, M, 4)
        dtype = feature_maps[0].dtype
        return AssignerInputs(
            scores=(1 / (1 + torch.exp(-logits.detach()))).to(dtype),
            boxes=(boxes.detach() * strides).to(corners.dtype),
            anchors=(centres * strides).to(dtype), strides=strides.to(dtype), labels=padded[..., :1],
            truth_boxes=corners, truth_mask=(corners.sum(2, keepdim=True) > 0).to(corners.dtype), head=head,
            hyperparameters=hyperparameters,
        )  # fmt: skip


def cells(feature_maps: tuple[Tensor, ...], head: Head, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Return the anchor centres (A, 2) in grid units, computed from numbers of cells, and the strides (A, 1)."""
    centres, strides = [], []
    for level, stride in zip(feature_maps, head.strides, strict=True):
        height, width = level.shape[2:]
        number = torch.arange(height * width, device=level.device)
        place = torch.stack((number % width, torch.div(number, width, rounding_mode="floor")), dim=1)
        centres.append((2 * place + 1).to(dtype) / 2)
        strides.append(torch.full_like(number[:, None], stride).to(dtype))
    return torch.cat(centres), torch.cat(strides)


def expectations(distances: Tensor, reg_max: int) -> Tensor:
    """Return the expected distances (.., 4) in grid units, by multiplying exponentials with the bins."""
    if reg_max == 1:
        return distances
    sides = distances.unflatten(-1, (4, reg_max))  # (.., 4, R)
    power = torch.exp(sides - sides.detach().amax(-1, keepdim=True))
    bins = torch.arange(reg_max, device=sides.device).to(sides.dtype)  # (R,)
    return (power @ bins) / power.sum(-1)


def side_loss(distances: Tensor, away: Tensor, reg_max: int, share: Tensor) -> Tensor:
    """Return DFL (P,) of all positives: a cross-entropy with a target share for every bin; for one bin, the L1 loss."""
    if reg_max == 1:
        return (distances * share - away * share).abs().sum(1) / 4
    sides = distances.unflatten(1, (4, reg_max))  # (P, 4, R)
    bins = torch.arange(reg_max, device=sides.device).to(sides.dtype)  # (R,)
    wanted = away.clamp(0, reg_max - 1.01)[..., None]  # (P, 4, 1)
    shares = (1 - (bins - wanted).abs()).clamp(min=0)  # (P, 4, R)
    return (sides.logsumexp(-1) - (shares * sides.where(shares > 0, 0)).sum(-1)).sum(1) / 4


def centres_inside(inputs: AssignerInputs, truths: Tensor) -> Tensor:
    """Return the candidates (B, M, A) of TAL-CAND-1 and TAL-CAND-2, by comparing each side separately."""
    strides = inputs.head.strides
    below = strides[min(1, len(strides) - 1)]
    sides = []
    for axis in (0, 1):
        low, high = truths[..., axis], truths[..., axis + 2]  # (B, M) twice
        small, middle = high - low < below, (low + high) * 0.5
        low = torch.where(small, middle - below * 0.5, low)[..., None]  # (B, M, 1)
        high = torch.where(small, middle + below * 0.5, high)[..., None]
        centre = inputs.anchors[:, axis].to(truths.dtype)  # (A,)
        sides += [centre - low > TINY, high - centre > TINY]
    return torch.stack(sides).all(0)


def overlaps(first: Tensor, second: Tensor) -> Tensor:
    """Return the CIoU of boxes (.., 4), which broadcast; one box is clipped to the other to get the intersection."""
    x1, y1, x2, y2 = first.unbind(-1)
    u1, v1, u2, v2 = second.unbind(-1)
    shared = (torch.min(x2, u2) - torch.max(x1, u1)).clamp(min=0) * (
        torch.min(y2, v2) - torch.max(y1, v1)
    ).clamp(min=0)
    w1, h1, w2, h2 = x2 - x1, y2 - y1 + EPS, u2 - u1, v2 - v1 + EPS
    union = w1 * h1 - shared + w2 * h2 + EPS
    ratio = shared / union
    reach_x, reach_y = torch.max(x2, u2) - torch.min(x1, u1), torch.max(y2, v2) - torch.min(y1, v1)
    diagonal = reach_x * reach_x + reach_y * reach_y + EPS
    apart_x, apart_y = (x1 + x2) * 0.5 - (u1 + u2) * 0.5, (y1 + y2) * 0.5 - (v1 + v2) * 0.5
    apart = (apart_x * apart_x + apart_y * apart_y) / diagonal
    turn = (torch.atan(w1 / h1) - torch.atan(w2 / h2)) * (2 / math.pi)
    shape = turn * turn
    with torch.no_grad():
        factor = shape / (shape - ratio + (1 + EPS))
    return ratio - apart - factor * shape


def best(metric: Tensor, k: int) -> Tensor:
    """Return a bool mask (B, M, A) of the k largest values of each row of `metric`, found by sorting."""
    if k > metric.shape[2]:
        raise ValueError(f"k = {k} exceeds the number of anchors, {metric.shape[2]} (TAL-TOPK-2)")
    order = metric.argsort(dim=2, descending=True, stable=True)[..., :k]
    return torch.zeros_like(metric, dtype=torch.bool).scatter(2, order, value=True)
