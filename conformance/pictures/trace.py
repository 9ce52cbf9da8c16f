"""TODO tal_conformance.pictures.trace."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tal_conformance.core.batch import Batch
from tal_reference import (
    AssignmentTrace,
    DetectionLoss,
    Dialect,
    GroundTruths,
    detection_loss,
    ground_truths,
)
from tal_reference.assignment import distance_inside, widened
from tal_reference.dialect import SingleBin, WeightBroadcast
from tal_reference.loss import box_loss, dfl_loss, distances_to, l1_loss, stacked

MAX_ANCHORS = 48
"""Anchors of one picture whose numbers are kept."""


MAX_PAIRS = 5
"""Ground truths of one anchor whose numbers are kept: owner, selecting ones, most overlapped."""


NEXT = 3
"""Anchors behind the k-th place that are told of each ground truth."""


DIGITS = 6
"""Significant digits of the numbers that are kept."""


@dataclass(frozen=True)
class ImageTrace:
    """One image of a batch with every stage of its assignment by the reference.

    Attributes:
        batch: the batch.
        image: which of its images.
        dialect: whose choices were followed.
        truths: the image's ground truths.
        loss: the whole batch's.
    """

    batch: Batch
    image: int
    dialect: Dialect
    truths: GroundTruths
    loss: DetectionLoss

    @classmethod
    @torch.no_grad()
    def of(cls, batch: Batch, image: int, dialect: Dialect) -> "ImageTrace":
        """Assign, and keep the stages.

        Raises:
            ValueError: the batch has no assignment (TAL-TOPK-2).
        """
        numbers = batch.head, batch.hyperparameters, dialect
        loss = detection_loss(batch.feature_maps, batch.annotations, *numbers, keep_trace=True)
        return cls(
            batch, image, dialect, ground_truths(batch.annotations, batch.images, batch.size)[image], loss
        )

    @property
    def trace(self) -> AssignmentTrace | None:
        """Every stage; None for an image without ground truths."""
        return self.loss.targets[self.image].trace

    @property
    def anchors(self) -> int:
        """How many there are."""
        return len(self.loss.predictions.anchors.strides)

    def boxes(self) -> Tensor:
        """(A, 4) predicted boxes in pixels."""
        predictions = self.loss.predictions
        return predictions.boxes[self.image] * predictions.anchors.strides

    def facts(self, anchors: Iterable[int]) -> dict[str, Any]:
        """Numbers of the image, its ground truths and these anchors, as `picture` of the log's schema has them."""
        numbers = self.batch.hyperparameters
        items = dict(zip(("box", "cls", "dfl"), map(_number, self.loss.items.double()), strict=True))
        return {
            "k": numbers.topk,
            "kept": numbers.effective_topk2,
            "items": items,
            "facts": self._truth_facts(),
            "anchors": self._anchor_facts(list(anchors)),
        }

    def _truth_facts(self) -> list[dict[str, Any]]:
        """Of every ground truth: how many candidates, the k-th largest t, and the best t and u of its positives."""
        trace = self.trace
        if trace is None:
            return []
        metric, overlap = trace.metric.double(), trace.overlap.double()  # (M, A) twice
        ranked = metric * trace.candidates  # (M, A)
        columns = {
            "candidates": trace.candidates.sum(1),
            "positives": trace.positives.sum(1),
            "kth": ranked.topk(self.batch.hyperparameters.topk, dim=1).values[:, -1],
            "best_metric": (metric * trace.positives).amax(1),
            "best_overlap": (overlap * trace.positives).amax(1),
        }  # (M,) each
        rows = zip(*(map(_number, column.cpu()) for column in columns.values()), strict=True)
        grown = widened(self.truths.boxes, self.dialect.floor(self.batch.head.strides)).cpu()  # (M, 4)
        changed = (grown != self.truths.boxes.cpu()).any(1).tolist()
        return [
            dict(zip(columns, row, strict=True))
            | {"widened": _numbers(grown[truth]) if changed[truth] else None}
            for truth, row in enumerate(rows)
        ]

    def _anchor_facts(self, anchors: list[int]) -> dict[str, Any]:
        """Of each anchor: its predicted box, its ground truths, and its part in each loss item."""
        at = torch.tensor(anchors, dtype=torch.long, device=self.loss.items.device)  # (N,)
        boxes, terms = self.boxes()[at].double().cpu(), self._terms(at).cpu()  # (N, 4), (N, 3)
        pairs, outside = self._pairs(at), self._outside(at)
        return {
            str(number): {
                "box": _numbers(boxes[place]),
                "pairs": pairs[place],
                "loss": _numbers(terms[place]),
                "outside": outside[place] if not pairs[place] else None,
            }
            for place, number in enumerate(anchors)
        }

    def _pairs(self, at: Tensor) -> list[list[list[Any]]]:
        """For each anchor, its ground truths: index, s, u, t, rank by t, equals and whether selected.

        They are those that hold it; and the one that won it, if that does not: then its rank is 0.
        """
        trace = self.trace
        if trace is None:
            return [[] for _ in at]
        metric = (trace.metric * trace.candidates).double()  # (M, A) what is ranked
        here = metric[:, at]  # (M, N)
        ahead = (metric[:, None] > here[..., None]).sum(-1)  # (M, N) anchors with a larger t
        equal = ((metric[:, None] == here[..., None]).sum(-1) - 1).clamp(
            min=0
        )  # (M, N) others with the same t; NaN: 0
        shown = trace.candidates[:, at] | trace.positives[:, at]  # (M, N)
        stages = trace.score, trace.overlap, trace.metric
        numbers = torch.stack([stage[:, at].double() for stage in stages])  # (3, M, N)
        first = 2.0 * trace.positives[:, at] + 1.0 * trace.selected[:, at] + numbers[1]  # (M, N)
        taken, held = trace.selected[:, at].cpu(), trace.candidates[:, at].cpu()  # (M, N) twice
        ahead, equal, shown, numbers, first = (one.cpu() for one in (ahead, equal, shown, numbers, first))
        found = []
        for place in range(len(at)):
            truths = shown[:, place].nonzero().flatten().tolist()
            truths.sort(key=lambda truth, place=place: -float(first[truth, place]))  # type: ignore[misc]
            found.append(
                [
                    [
                        truth,
                        *_numbers(numbers[:, truth, place]),
                        (int(ahead[truth, place]) + 1) * int(held[truth, place]),
                        int(equal[truth, place]),
                        int(taken[truth, place]),
                    ]
                    for truth in truths[:MAX_PAIRS]
                ]
            )
        return found

    def _outside(self, at: Tensor) -> list[list[Any] | None]:
        """For each anchor, the nearest ground truth and by how many pixels its centre fails to lie inside."""
        floor = self.dialect.floor(self.batch.head.strides)
        if not bool(self.truths.real.any()):
            return [None for _ in at]
        centres = self.loss.predictions.anchors.pixels[at].to(self.truths.boxes)  # (N, 2)
        inside = distance_inside(self.truths.boxes, centres, floor).double()  # (M, N)
        inside = inside.where(self.truths.real[:, None], -torch.inf).cpu()
        nearest = inside.argmax(0).tolist()
        return [[truth, _number(-inside[truth, place])] for place, truth in enumerate(nearest)]

    @torch.no_grad()
    def _terms(self, at: Tensor) -> Tensor:
        """(N, 3) what each anchor adds to the logged box, cls and dfl (LOSS-BOX-1, LOSS-CLS-1, LOSS-DFL-1)."""
        predictions, head, image = self.loss.predictions, self.batch.head, self.image
        targets = stacked(self.loss.targets, head.classes)
        weights, strides = targets.scores[image, at].sum(-1), predictions.anchors.strides[at]  # (N,), (N, 1)
        centres, distances = predictions.anchors.centres[at], predictions.distances[image, at]
        boxes = targets.boxes[image, at] / strides  # (N, 4) in grid units
        aims = distances_to(boxes, centres)  # (N, 4)
        if head.reg_max > 1:
            side = dfl_loss(distances, aims, head.reg_max)  # (N,)
        elif self.dialect.single_bin is SingleBin.L1:
            side = l1_loss(distances, aims, strides, predictions.size)  # (N,)
        else:
            side = torch.zeros_like(weights)  # (N,)
        if self.dialect.weights_meet is WeightBroadcast.ALL:
            weights = targets.scores.sum().expand_as(weights)  # (N,)
        cls = binary_cross_entropy_with_logits(
            predictions.logits[image, at].to(targets.scores), targets.scores[image, at], reduction="none"
        ).sum(-1)  # (N,)
        box = box_loss(predictions.boxes[image, at].to(boxes), boxes)
        positive = targets.foreground[image, at]
        numbers = self.batch.hyperparameters
        terms = torch.stack(
            (
                numbers.box_gain * (weights * box).where(positive, 0),
                numbers.cls_gain * cls,
                numbers.dfl_gain * (weights * side).where(positive, 0),
            ),
            dim=1,
        )
        score_sum = targets.scores.double().sum().clamp(min=self.dialect.score_sum_floor)  # N, LOSS-SUM-1
        return torch.where(terms == 0, 0, terms.double() / score_sum)

    def telling(self, marked: Sequence[int]) -> list[int]:
        """The anchors that a reader asks for first, at most `MOST_ANCHORS`, in their order.

        Those that are marked (they differ), contested or positive ones, then for each ground truth those around the
        k-th place, then its best candidates.
        """
        trace = self.trace
        if trace is None:
            return sorted(marked)[:MAX_ANCHORS]
        metric, selected = (trace.metric * trace.candidates).double(), trace.selected
        numbers = self.batch.hyperparameters
        order = metric.argsort(dim=1, descending=True)  # (M, A)
        rank = torch.empty_like(order).scatter_(
            1, order, torch.arange(self.anchors, device=order.device).expand_as(order)
        )
        near_kth = (trace.candidates & (rank < numbers.topk + NEXT)).any(0)  # (A,)
        groups = (
            selected.sum(0) > 1,
            trace.positives.any(0),
            selected.any(0),
            near_kth,
            trace.candidates.any(0),
        )
        chosen = dict.fromkeys(anchor for anchor in marked if 0 <= anchor < self.anchors)
        best = metric.amax(0)  # (A,)
        for group in groups:
            members = group.nonzero().flatten()
            chosen |= dict.fromkeys(members[best[members].argsort(descending=True)].tolist())
        return sorted(list(chosen)[:MAX_ANCHORS])

    def of_truth(self, truth: int) -> list[int]:
        """The anchors that decide about a ground truth: what it selects, what it owns, and the next ones."""
        trace = self.trace
        if trace is None:
            return []
        row = trace.metric[truth].double()  # (A,)
        taken = trace.selected[truth] | trace.positives[truth]
        behind = row.where(trace.candidates[truth] & ~taken, -1.0).argsort(descending=True)[:NEXT]
        behind = behind[trace.candidates[truth][behind]]
        order = torch.cat((taken.nonzero().flatten(), behind))
        return [int(anchor) for anchor in order[row[order].argsort(descending=True)]]


def _numbers(row: Tensor) -> list[float]:
    return [_number(value) for value in row]


def _number(value: Tensor) -> Any:
    return float(f"{value:.{DIGITS}g}") if value.is_floating_point() else int(value)
