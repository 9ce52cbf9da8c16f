"""Every stage of the reference's assignment of one image, as JSON-compatible values for pictures or as text.

Numbers are rounded to six digits. The values follow `picture` in the run log's schema.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import binary_cross_entropy_with_logits

from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, has_branches
from tal_conformance.core.outcome import CheckedAssignment
from tal_conformance.core.reference_inputs import reference_loss, truths_of
from tal_conformance.judgement.rounding.geometry import GEOMETRIES_BY_TASK, turned_depth
from tal_reference import (
    AssignmentTrace,
    DetectionLoss,
    Dialect,
    GroundTruths,
    RotatedPredictions,
    probiou,
    rotated,
)
from tal_reference.assignment import distance_inside
from tal_reference.dialect import SingleBin, WeightBroadcast
from tal_reference.loss import box_loss, dfl_loss, distances_to, l1_loss, stacked
from tal_reference.varied_boxes import MEASURES
from tal_reports import anchor_lines, truth_lines

MAX_ANCHORS = 48
"""Maximum number of anchors of one picture with an explanation."""
MAX_PAIRS = 5
"""Maximum number of ground truths in the explanation of an anchor: first its owner, then the ground truths that
selected it, then those with the largest overlap."""
NEXT = 3
"""Number of candidates after the k-th that are included for each ground truth."""
XYXY = 4
"""Number of coordinates of an upright box; a rotated box (centre, sides, angle) has one more."""
DIGITS = 6
"""Number of significant digits of all values."""


@dataclass(frozen=True)
class ImageTrace:
    """One image of a batch with every stage of its assignment by the reference.

    Attributes:
        batch: the batch.
        image: index of the image.
        dialect: the dialect that the reference follows.
        truths: ground truths of the image.
        loss: loss of the whole batch, with the trace of its assignment.
        branch: name of the branch of an end-to-end head, whose batch `batch` is; "" for other heads.
    """

    batch: Batch
    image: int
    dialect: Dialect
    truths: GroundTruths
    loss: DetectionLoss
    branch: str = ""

    @classmethod
    @torch.no_grad()
    def of(cls, batch: Batch, image: int, dialect: Dialect, branch: str = "") -> "ImageTrace":
        """Assign the ground truths of a batch with the reference, and return all stages of one image.

        Args:
            batch: the batch.
            image: index of the image.
            dialect: the dialect that the reference follows.
            branch: name of a branch of an end-to-end head; by default the one that predicts after the training.

        Raises:
            ValueError: the batch has no assignment (TAL-TOPK-2), or its head no such branch.
        """
        if has_branches(batch):
            branch, parts = branch or batch.family.branches[-1], branch_batches(batch, dialect)
            if branch not in parts:
                raise ValueError(f"no branch {branch!r}: the head has the branches {', '.join(parts)}")
            batch = parts[branch]
        elif branch:
            raise ValueError(f"no branch {branch!r}: the head has no branches")
        loss = reference_loss(batch, dialect, keep_trace=True)
        return cls(batch, image, dialect, truths_of(batch, dialect=dialect)[image], loss, branch)

    @property
    def trace(self) -> AssignmentTrace | None:
        """All stages of the assignment; None for an image without ground truths."""
        return self.loss.targets[self.image].trace

    @property
    def anchors(self) -> int:
        """Number of anchors A of the image."""
        return len(self.loss.predictions.anchors.strides)

    def boxes(self) -> Tensor:
        """Return the predicted boxes (A, 4), xyxy in pixels; rotated boxes: (A, 5)."""
        return self.loss.predictions.pixels[self.image]

    def facts(self, anchors: Iterable[int]) -> dict[str, Any]:
        """Return data of the image, ground truths and some anchors, for `picture` in the run log's schema."""
        hyperparameters = self.batch.hyperparameters
        items = dict(zip(self.item_names, map(_number, self.loss.items.double()), strict=True))
        branch = {"branch": self.branch} if self.branch else {}
        return {
            "k": hyperparameters.topk,
            "kept": hyperparameters.effective_topk2,
            "items": items,
            "facts": self._truth_facts(),
            "anchors": self._anchor_facts(list(anchors)),
            **branch,
        }

    @property
    def item_names(self) -> tuple[str, ...]:
        """Names of the loss items."""
        return self.batch.family.item_names

    def _drawn_box(self, box: Tensor) -> list[float]:
        """Return x1, y1, x2, y2 of a box (4,) or of the smallest upright box around a rotated box (5,), in pixels."""
        return _numbers(hull(box) if len(box) > XYXY else box)

    def _box_fields(self, box: Tensor) -> dict[str, list[float]]:
        """Return the fields of a box (4,) or (5,): `box`, and `turned` of a rotated one."""
        turned = {"turned": _numbers(box)} if len(box) > XYXY else {}
        return {"box": self._drawn_box(box), **turned}

    def _widened_fields(self, box: Tensor) -> dict[str, list[float]]:
        """Return the fields of the box by which candidates are chosen, for a ground truth with a small side."""
        fields = self._box_fields(box)
        return {"widened": fields.pop("box"), **fields}

    def truth_fields(self) -> list[dict[str, Any]]:
        """Return box, label and reality of every ground truth of the image."""
        boxes, labels, real = self.truths.boxes, self.truths.labels.tolist(), self.truths.real.tolist()
        rotated_fields = [{"turned": _numbers(box)} if len(box) > XYXY else {} for box in boxes]
        drawn = [hull(box).tolist() if len(box) > XYXY else box.tolist() for box in boxes]
        return [
            {"box": box, "label": label, "real": is_real, **fields}
            for box, label, is_real, fields in zip(drawn, labels, real, rotated_fields, strict=True)
        ]

    def _truth_facts(self) -> list[dict[str, Any]]:
        """Return for each ground truth the counts of candidates and positives, and values of t and u.

        They are the k-th largest alignment metric t, and the largest t and overlap u of a positive.
        """
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
        floor = self.dialect.floor(self.batch.head.strides)
        enlarged = GEOMETRIES_BY_TASK[self.batch.task].widened(self.truths.boxes, floor).cpu()  # (M, box)
        changed = (enlarged != self.truths.boxes.cpu()).any(1).tolist()
        return [
            dict(zip(columns, row, strict=True))
            | (self._widened_fields(enlarged[truth]) if changed[truth] else {"widened": None})
            for truth, row in enumerate(rows)
        ]

    def _anchor_facts(self, anchors: list[int]) -> dict[str, Any]:
        """Return for each anchor its predicted box, its ground truths, and its contribution to each loss item."""
        indices = torch.tensor(anchors, dtype=torch.long, device=self.loss.items.device)  # (N,)
        boxes, terms = self.boxes()[indices].double().cpu(), self._terms(indices)  # (N, box)
        pairs, outside = self._pairs(indices), self._outside(indices)
        return {
            str(number): {
                **self._box_fields(boxes[place]),
                "pairs": pairs[place],
                **self._unclamped(number, [pair[0] for pair in pairs[place]]),
                "loss": [_number(terms[name][place]) if name in terms else None for name in self.item_names],
                "outside": outside[place] if not pairs[place] else None,
            }
            for place, number in enumerate(anchors)
        }

    def _pairs(self, indices: Tensor) -> list[list[list[Any]]]:
        """Return for each anchor a list of ground truths: index, and values of the pair of anchor and ground truth.

        The values are score s, overlap u, alignment metric t, rank by t, number of equal t, and 1 if
        selected. The list contains the ground truths of which the anchor is a candidate, and the one to which
        it is assigned. The rank is 0 if the anchor is not a candidate of the ground truth.

        Args:
            indices: (N,) indices of the anchors.
        """
        trace = self.trace
        if trace is None:
            return [[] for _ in indices]
        ranked = (trace.metric * trace.candidates).double()  # (M, A)
        own = ranked[:, indices]  # (M, N)
        larger = (ranked[:, None] > own[..., None]).sum(-1)  # (M, N) number of anchors with a larger t
        equal = (ranked[:, None] == own[..., None]).sum(
            -1
        ) - 1  # (M, N) number of other anchors with the same t
        equal = equal.clamp(min=0)  # (M, N) NaN equals nothing, itself included
        contained, selected = trace.candidates[:, indices], trace.selected[:, indices]  # (M, N) twice
        owned = trace.positives[:, indices]  # (M, N)
        stages = trace.score, trace.overlap, trace.metric
        numbers = torch.stack([stage[:, indices].double() for stage in stages])  # (3, M, N)
        priority = 2.0 * owned + 1.0 * selected + numbers[1]  # (M, N)
        listed = (contained | owned).cpu()  # (M, N)
        larger, equal, contained, selected = larger.cpu(), equal.cpu(), contained.cpu(), selected.cpu()
        numbers, priority = numbers.cpu(), priority.cpu()
        pairs = []
        for place in range(len(indices)):
            truths = listed[:, place].nonzero().flatten().tolist()
            truths.sort(key=(-priority[:, place]).tolist().__getitem__)
            pairs.append(
                [
                    [
                        truth,
                        *_numbers(numbers[:, truth, place]),
                        (int(larger[truth, place]) + 1) * int(contained[truth, place]),
                        int(equal[truth, place]),
                        int(selected[truth, place]),
                    ]
                    for truth in truths[:MAX_PAIRS]
                ]
            )
        return pairs

    def _unclamped(self, anchor: int, truths: list[int]) -> dict[str, list[float]]:
        """Return the overlaps of an anchor and ground truths before they are clamped at 0; {} without ground truths."""
        if not truths:
            return {}
        measure = probiou if self.batch.turned else MEASURES[self.dialect.overlap]
        boxes = self.boxes()[anchor].expand(len(truths), -1)  # (N, box)
        return {"unclamped": _numbers(measure(self.truths.boxes[truths].to(boxes), boxes).cpu())}

    def _outside(self, indices: Tensor) -> list[list[Any] | None]:
        """Return for each anchor the nearest ground truth, and the distance of the centre from its box in pixels.

        The distance is negative inside the box; a small box is widened first (TAL-CAND-2). Without ground truths, the
        list contains None for every anchor.

        Args:
            indices: (N,) indices of the anchors.
        """
        floor = self.dialect.floor(self.batch.head.strides)
        if not bool(self.truths.real.any()):
            return [None for _ in indices]
        centres = self.loss.predictions.anchors.pixels[indices].to(self.truths.boxes)  # (N, 2)
        if self.batch.turned:
            inside = (
                turned_depth(rotated.widened(self.truths.boxes, floor), centres).amin(2).double()
            )  # (M, N)
        else:
            inside = distance_inside(self.truths.boxes, centres, floor).double()  # (M, N)
        inside = inside.where(self.truths.real[:, None], -torch.inf).cpu()
        nearest = inside.argmax(0).tolist()
        return [[truth, _number(-inside[truth, place])] for place, truth in enumerate(nearest)]

    @torch.no_grad()
    def _terms(self, indices: Tensor) -> dict[str, Tensor]:
        """Return the contributions (N,) of anchors to logged loss items, by name (LOSS-BOX/CLS/DFL-1, OBB-ANG-1).

        Items of keypoints and masks are missing: they are not divided among anchors.

        Args:
            indices: (N,) indices of the anchors.
        """
        predictions, head, image = self.loss.predictions, self.batch.head, self.image
        targets = stacked(self.loss.targets, head.classes)
        weights, strides = (
            targets.scores[image, indices].sum(-1),
            predictions.anchors.strides[indices],
        )  # (N,), (N, 1)
        distances = predictions.distances[image, indices]  # (N, 4R)
        boxes, target_distances, box = self._targets(targets.boxes[image, indices], strides, indices)
        if head.reg_max > 1:
            distance_loss = dfl_loss(distances, target_distances, head.reg_max)  # (N,)
        elif self.dialect.single_bin is SingleBin.L1:
            distance_loss = l1_loss(distances, target_distances, strides, predictions.size)  # (N,)
        else:
            distance_loss = torch.zeros_like(weights)  # (N,)
        if self.dialect.weights_meet is WeightBroadcast.ALL_PAIRS:
            weights = targets.scores.sum().expand_as(weights)  # (N,)
        cls = binary_cross_entropy_with_logits(
            predictions.logits[image, indices].to(targets.scores),
            targets.scores[image, indices],
            reduction="none",
        ).sum(-1)  # (N,)
        positive = targets.foreground[image, indices]
        numbers = self.batch.hyperparameters
        terms = {
            "box": numbers.box_gain * (weights * box).where(positive, 0),
            "cls": numbers.cls_gain * cls,
            "dfl": numbers.dfl_gain * (weights * distance_loss).where(positive, 0),
        }
        if isinstance(predictions, RotatedPredictions) and self.dialect.angle_term:
            angle = rotated.angle_loss(predictions.angles[image, indices, 0].to(boxes), boxes)  # (N,)
            terms["angle"] = numbers.angle_gain * (weights * angle).where(positive, 0)
        score_sum = targets.scores.double().sum().clamp(min=self.dialect.score_sum_floor)  # N, LOSS-SUM-1
        return {
            name: torch.where(term == 0, 0, term.double() / score_sum).cpu() for name, term in terms.items()
        }

    def _targets(self, boxes: Tensor, strides: Tensor, indices: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return target boxes (N, box) in grid units, target distances (N, 4) and box losses (N,) of anchors.

        Args:
            boxes: (N, box) target boxes in pixels.
            strides: (N, 1) strides of the anchors.
            indices: (N,) indices of the anchors.
        """
        predictions = self.loss.predictions
        centres, predicted = predictions.anchors.centres[indices], predictions.boxes[self.image, indices]
        if not self.batch.turned:
            boxes = boxes / strides  # (N, 4)
            return boxes, distances_to(boxes, centres), box_loss(predicted.to(boxes), boxes)
        boxes = rotated.scaled(boxes, 1 / strides)  # (N, 5)
        framed = boxes if self.dialect.turned_distances else rotated.upright(boxes)  # (N, 5)
        box = rotated.box_loss(predicted.to(boxes), boxes, self.dialect.box_variance)  # (N,)
        return boxes, rotated.distances_in_frame(framed, centres), box

    def most_relevant_anchors(self, marked: Sequence[int]) -> list[int]:
        """Return the anchors that explain the assignment best, at most `MAX_ANCHORS`, in ascending order.

        The order of priority is: marked anchors, contested anchors (selected by several ground truths), positives,
        selected anchors, anchors around the k-th place of a ground truth, other candidates. Within a group the anchor
        with the largest t comes first.

        Args:
            marked: anchors to include first, such as anchors at which two assignments differ.
        """
        trace = self.trace
        if trace is None:
            return sorted(marked)[:MAX_ANCHORS]
        metric, selected = (trace.metric * trace.candidates).double(), trace.selected  # (M, A) twice
        topk = self.batch.hyperparameters.topk
        order = metric.argsort(dim=1, descending=True)  # (M, A)
        places = torch.arange(self.anchors, device=order.device).expand_as(order)  # (M, A)
        rank = torch.empty_like(order).scatter_(1, order, places)  # (M, A)
        near_kth = (trace.candidates & (rank < topk + NEXT)).any(0)  # (A,)
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

    def relevant_anchors_of(self, truth: int) -> list[int]:
        """Return selected, assigned and next candidate anchors of a ground truth by descending metric t."""
        trace = self.trace
        if trace is None:
            return []
        row = trace.metric[truth].double()  # (A,)
        taken = trace.selected[truth] | trace.positives[truth]  # (A,)
        others = row.where(trace.candidates[truth] & ~taken, -1.0).argsort(descending=True)[:NEXT]
        others = others[trace.candidates[truth][others]]
        anchors = torch.cat((taken.nonzero().flatten(), others))
        return [int(anchor) for anchor in anchors[row[anchors].argsort(descending=True)]]


def hull(box: Tensor) -> Tensor:
    """Return x1, y1, x2, y2 (4,) of the smallest upright box around a rotated box (5,)."""
    half = box[2:4].abs() / 2  # (2,)
    cos, sin = box[4].cos().abs(), box[4].sin().abs()
    reach = torch.stack((half[0] * cos + half[1] * sin, half[0] * sin + half[1] * cos))  # (2,)
    return torch.cat((box[:2] - reach, box[:2] + reach))


def trace_as_dict(
    trace: ImageTrace, assignment: CheckedAssignment | None, anchors: Iterable[int]
) -> dict[str, Any]:
    """Return an image and the positives of both assignments, as `picture` in the run log's schema.

    Args:
        trace: trace of the image.
        assignment: assignment of the implementation for the whole batch; None if it does not expose one.
        anchors: anchors to explain.

    Returns:
        JSON-compatible values, in pixels. Positives are triples of anchor, ground truth and weight.
    """
    batch, image = trace.batch, trace.image
    height, width = batch.size
    expected = trace.loss.targets[image]
    return {
        "image": image,
        "width": width,
        "height": height,
        "levels": [
            {"stride": stride, "rows": level.shape[2], "columns": level.shape[3]}
            for stride, level in zip(batch.head.strides, batch.levels, strict=True)
        ],
        "truths": trace.truth_fields(),
        "reference": _positives(expected.foreground, expected.truth_index, expected.weights),
        "implementation": None
        if assignment is None
        else _positives(
            assignment.foreground[image], assignment.truth_index[image], assignment.scores[image].sum(-1)
        ),
        **trace.facts(anchors),
    }


def trace_as_text(
    trace: ImageTrace,
    anchor: int | None = None,
    truth: int | None = None,
    assignment: CheckedAssignment | None = None,
) -> list[str]:
    """Return lines of text that explain an anchor, a ground truth, or every ground truth of the image.

    Args:
        trace: trace of the image.
        anchor: index of the anchor to explain; anchors are numbered level by level, each row by row.
        truth: index of the ground truth to explain, if no anchor is given.
        assignment: assignment of an implementation for the whole batch, to compare with the reference's.

    Raises:
        IndexError: the image has no such anchor or ground truth.
    """
    truths = len(trace.truths)
    if truth is not None:
        if not 0 <= truth < truths:
            raise IndexError(
                f"no ground truth {truth}: image {trace.image} has {truths} ground truths, numbered from 0"
            )
        return truth_lines(trace_as_dict(trace, assignment, trace.relevant_anchors_of(truth)), truth)
    if anchor is None:
        picture = trace_as_dict(trace, assignment, trace.most_relevant_anchors([]))
        paragraphs = [[*truth_lines(picture, number), ""] for number in range(truths)]
        lines = [line for paragraph in paragraphs for line in paragraph]
        return lines or ["The image has no ground truth: every anchor is background."]
    if not 0 <= anchor < trace.anchors:
        raise IndexError(f"no anchor {anchor}: the image has {trace.anchors} anchors, numbered from 0")
    return anchor_lines(trace_as_dict(trace, assignment, [anchor]), anchor)


def _positives(foreground: Tensor, owners: Tensor, weights: Tensor) -> list[list[float]]:
    anchors = foreground.nonzero().flatten()
    return [
        [anchor, int(truth), float(f"{weight:.6g}")]
        for anchor, truth, weight in zip(
            anchors.tolist(), owners[anchors].tolist(), weights[anchors].tolist(), strict=True
        )
    ]


def _numbers(row: Tensor) -> list[float]:
    return [_number(value) for value in row]


def _number(value: Tensor) -> Any:
    return float(f"{value:.{DIGITS}g}") if value.is_floating_point() else int(value)
