"""A second, dense implementation of assigner and loss, written separately from the reference.

It is deliberately small and slow: every pair of a ground truth and an anchor is computed, image by image, with
PyTorch's own losses. A test judges this implementation by the composed dialect with the same choices.
"""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_reference import Head, Hyperparameters


def overlap_of(kind: str, one: Tensor, other: Tensor) -> Tensor:
    """Return IoU, GIoU, DIoU or CIoU, selected by `kind`, of two tensors of boxes (.., 4) that broadcast."""
    eps = 1e-7
    (x1, y1, x2, y2), (a1, b1, a2, b2) = one.unbind(-1), other.unbind(-1)
    w, h, v, g = x2 - x1, y2 - y1 + eps, a2 - a1, b2 - b1 + eps
    wide, high = torch.min(x2, a2) - torch.max(x1, a1), torch.min(y2, b2) - torch.max(y1, b1)
    shared = wide.clamp(min=0) * high.clamp(min=0)
    union = w * h + v * g - shared + eps
    iou = shared / union
    if kind == "iou":
        return iou
    across, down = torch.max(x2, a2) - torch.min(x1, a1), torch.max(y2, b2) - torch.min(y1, b1)
    if kind == "giou":
        hull = across * down + eps
        return iou - (hull - union) / hull
    apart = ((x1 + x2 - a1 - a2) ** 2 + (y1 + y2 - b1 - b2) ** 2) / 4
    diou = iou - apart / (across**2 + down**2 + eps)
    if kind == "diou":
        return diou
    aspect = 4 / math.pi**2 * (torch.atan(v / g) - torch.atan(w / h)) ** 2
    return diou - aspect * (aspect / (1 - iou + aspect + eps)).detach()


class DensePort:
    """Assigner and loss of the newest release, with some of its algorithmic choices changed.

    Args:
        dialect: dialect that the adapter declares.
        shows: "all", or "nothing" to expose only items and total of the loss.
        choices: changed choices by name, such as `overlap="iou"`.
    """

    name, version = "dense-port", "1"
    precisions: tuple[str, ...] = ()

    def __init__(self, dialect: Any, shows: str = "all", **choices: Any) -> None:
        self.dialect, self.shows, self.choices = dialect, shows, choices

    def chosen(self, name: str, default: Any = False) -> Any:
        """Return the value of a choice; `default` is the value of the newest release."""
        return self.choices.get(name, default)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Return the assignment of a batch."""
        images = [self.image(inputs, image) for image in range(len(inputs.scores))]
        return Assignment(*(torch.stack(part) for part in zip(*images, strict=True)))

    def image(self, inputs: AssignerInputs, image: int) -> tuple[Tensor, ...]:
        """Return labels (A,), boxes (A, 4), scores (A, C), foreground (A,) and GT index (A,) of an image."""
        truths, real = inputs.truth_boxes[image], inputs.truth_mask[image] > 0  # (M, 4), (M, 1)
        scores, classes = inputs.scores[image], inputs.head.classes
        labels = inputs.labels[image, :, 0].long()
        anchors = len(scores)
        if not len(truths):
            none = labels.new_zeros(anchors)
            return none, truths.new_zeros(anchors, 4), scores.new_zeros(anchors, classes), none.bool(), none
        numbers = inputs.hyperparameters
        inside = self.inside(truths, inputs) & real  # (M, A)
        u = overlap_of(self.chosen("overlap", "ciou"), truths[:, None], inputs.boxes[image])
        u = (u if self.chosen("signed_overlap") else u.clamp(min=0)).masked_fill(~inside, 0)
        t = scores[:, labels].T.masked_fill(~inside, 0) ** numbers.alpha * u**numbers.beta
        topk = numbers.topk + self.chosen("k_offset", 0)
        taken = torch.zeros_like(inside).scatter(1, t.topk(topk, 1).indices, True) & inside
        if self.chosen("dropped_picks", "none") == "tiny":
            taken &= t > 1e-9
        positives = self.settled(taken, u, t)
        kept = None if self.chosen("topk2_ignored") else numbers.effective_topk2
        if kept is not None:
            if not self.chosen("topk2", True):
                raise NotImplementedError("topk2")
            kept += self.chosen("topk2_offset", 0)
            positives &= torch.zeros_like(inside).scatter(1, (t * positives).topk(kept, 1).indices, True)
        among = taken if self.chosen("norm_before_conflict") else positives
        best_t, best_u = (t * among).amax(1, keepdim=True), (u * among).amax(1, keepdim=True)
        below = best_t.clamp(min=1e-9) if self.chosen("norm_clamped") else best_t + 1e-9
        weights = (t * positives * (best_u if self.chosen("norm_scaled", True) else 1) / below).amax(
            0
        )  # (A,)
        foreground, index = positives.any(0), positives.int().argmax(0)
        scores = functional.one_hot(labels[index], classes) * (weights * foreground)[:, None]
        return labels[index], truths[index], scores.to(weights), foreground, index

    def inside(self, truths: Tensor, inputs: AssignerInputs) -> Tensor:
        """Return a mask (M, A): True if the anchor's centre lies inside the ground truth's widened box."""
        widest = inputs.head.strides[min(1, len(inputs.head.strides) - 1)]
        if self.chosen("small_box_floor") == "none":
            widest = 0
        middle, sides = (truths[:, :2] + truths[:, 2:]) / 2, truths[:, 2:] - truths[:, :2]
        small = sides < widest
        low = torch.where(small, middle - widest / 2, truths[:, :2])
        high = torch.where(small, middle + widest / 2, truths[:, 2:])
        depth = torch.cat((inputs.anchors - low[:, None], high[:, None] - inputs.anchors), -1).amin(
            -1
        )  # (M, A)
        found = depth >= 0 if self.chosen("edge_counts") else depth > 1e-9
        if radius := float(self.chosen("centre_radius", 0)):
            place = (truths[:, :2] + truths[:, 2:]) / 2
            apart = (inputs.anchors - place[:, None]).abs() / inputs.strides  # (M, A, 2)
            found &= (apart < radius).all(-1)
        return found

    def settled(self, taken: Tensor, u: Tensor, t: Tensor) -> Tensor:
        """Return the selection (M, A) with at most one ground truth per anchor.

        `u` and `t` are overlap and alignment metric, (M, A).
        """
        rivals = {"overlap": u, "metric": t, "claimants": u.masked_fill(~taken, -10), "first": taken.int()}
        best = rivals[self.chosen("contested", "overlap")].argmax(0)
        only = functional.one_hot(best, len(taken)).T.bool()
        return torch.where(taken.sum(0) > 1, only, taken)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return total and items of the loss, and the assignment unless `shows` is "nothing"."""
        images, bins = len(feature_maps[0]), head.reg_max
        flat = torch.cat([level.flatten(2) for level in feature_maps], 2).mT  # (B, A, 4R + C)
        distances, logits = flat.split((4 * bins, head.classes), 2)
        places = [
            torch.stack(
                torch.meshgrid(*(torch.arange(n) + 0.5 for n in level.shape[:1:-1]), indexing="xy"), -1
            )
            for level in feature_maps
        ]
        centres = torch.cat([place.flatten(0, 1) for place in places])  # (A, 2)
        counts = [place[..., 0].numel() for place in places]
        strides = torch.tensor(
            [float(s) for s, n in zip(head.strides, counts, strict=True) for _ in range(n)]
        )[:, None]
        sides = distances.unflatten(2, (4, bins))
        sides = sides.softmax(-1) @ torch.arange(float(bins)) if bins > 1 else sides[..., 0]  # (B, A, 4)
        boxes = torch.cat((centres - sides[..., :2], centres + sides[..., 2:]), -1)  # (B, A, 4)
        height, width = (n * head.strides[0] for n in feature_maps[0].shape[2:])
        if self.chosen("rows") == "converted twice":
            middle, sides = annotations[:, 2:4], annotations[:, 4:]
            annotations = torch.cat((annotations[:, :2], middle - sides / 2, middle + sides / 2), 1)
        truths, labels, mask = padded(annotations, images, width, height)
        given = (logits.detach().sigmoid(), (boxes * strides).detach(), centres * strides, strides)
        inputs = AssignerInputs(*given, labels, truths, mask, head, hyperparameters)
        found = self.assign(inputs)
        items = self.items(found, boxes, distances, logits, centres, strides, (width, height), inputs)
        total = items * (images if self.chosen("total_times_images", True) else 1)
        if self.shows == "nothing":
            return Loss(total.sum(), items.detach())
        return Loss(total, items.detach(), found, inputs)

    def items(
        self, found: Assignment, boxes: Tensor, distances: Tensor, logits: Tensor, centres: Tensor, strides: Tensor,
        size: tuple[int, int], inputs: AssignerInputs,
    ) -> Tensor:  # fmt: skip
        """Return the box, cls and dfl loss (3,), multiplied by their gains."""
        weights = found.scores.sum(2)  # (B, A)
        score_sum = weights.sum().clamp(min=self.chosen("score_sum_floor", 1.0))
        if self.chosen("score_sum", "batch") == "per image":
            score_sum = (weights.sum() / len(weights)).clamp(min=1)
        if self.chosen("score_sum", "batch") == "positives":
            score_sum = found.foreground.sum().clamp(min=1)
        cls = functional.binary_cross_entropy_with_logits(logits, found.scores, reduction="none")
        cls = cls * self.factors_of_classes(logits.sigmoid(), found)
        cls = cls.mean() if self.chosen("class_loss", "sum") == "mean" else cls.sum()
        at, gains = found.foreground, inputs.hyperparameters
        own, targets = weights[at], (found.boxes / strides)[at]
        box = own * (1 - overlap_of(self.chosen("box_overlap", "ciou"), targets, boxes[at]))
        middle = centres.expand(len(boxes), -1, -1)[at]
        wanted = torch.cat((middle - targets[:, :2], targets[:, 2:] - middle), 1)  # (P, 4)
        dfl = own * self.side(
            distances[at], wanted, strides.expand(len(boxes), -1, -1)[at], size, inputs.head.reg_max
        )
        over = 1 if not at.any() else score_sum
        terms = (
            gains.box_gain * box.sum() / over,
            gains.cls_gain * cls / score_sum,
            gains.dfl_gain * dfl.sum() / over,
        )
        return torch.stack(terms)

    def side(
        self, distances: Tensor, wanted: Tensor, strides: Tensor, size: tuple[int, int], bins: int
    ) -> Tensor:
        """Return the DFL, or L1 if there is one bin, of each positive (P,)."""
        if bins == 1:
            share = strides / torch.tensor([*size, *size])
            return ((distances - wanted).abs() * share).mean(1)
        last = bins - 0.01 if self.chosen("dfl_clamp", "below last bin") == "bin later" else bins - 1.01
        wanted = wanted.clamp(0, last)
        low = wanted.long()
        rows = distances.reshape(-1, bins)
        shares = low + 1 - wanted, wanted - low
        pairs = zip(
            (low, low + 1), shares[::-1] if self.chosen("dfl_shares_exchanged") else shares, strict=True
        )
        parts = [
            functional.cross_entropy(rows, index.clamp(max=bins - 1).flatten(), reduction="none").view_as(
                wanted
            )
            * part
            for index, part in pairs
        ]
        return (parts[0] + parts[1]).mean(1)

    def factors_of_classes(self, p: Tensor, found: Any) -> Tensor | float:
        """Return the weights of the cross-entropies (B, A, C), of class scores `p`."""
        z = found.scores
        match self.chosen("class_loss", "sum"):
            case "varifocal":
                label = functional.one_hot(found.labels.long(), p.shape[-1]) * found.foreground[..., None]
                return 0.75 * p.pow(2.0) * (1 - label) + z * label
            case "focal":
                p_t = z * p + (1 - z) * (1 - p)
                return (z * 0.25 + (1 - z) * 0.75) * (1.0 - p_t).clamp(min=0) ** 1.5
        return 1.0


class HeavierDfl(DensePort):
    """A port whose distribution focal loss is too large by a quarter, which no choice describes."""

    def side(self, *arguments: Any) -> Tensor:
        return 1.25 * super().side(*arguments)


def padded(annotations: Tensor, images: int, width: int, height: int) -> tuple[Tensor, Tensor, Tensor]:
    """Return ground truths padded to M per image: boxes (B, M, 4) in pixels, labels and mask (B, M, 1)."""
    rows = [annotations[annotations[:, 0] == image, 1:] for image in range(images)]
    most = max(map(len, rows), default=0)
    boxes, labels = annotations.new_zeros(images, most, 4), annotations.new_zeros(images, most, 1)
    for image, row in enumerate(rows):
        scaled = row[:, 1:] * torch.tensor([width, height, width, height])
        boxes[image, : len(row)] = torch.cat(
            (scaled[:, :2] - scaled[:, 2:] / 2, scaled[:, :2] + scaled[:, 2:] / 2), 1
        )
        labels[image, : len(row), 0] = row[:, 0]
    return boxes, labels, (boxes.sum(2, keepdim=True) > 0).float()
