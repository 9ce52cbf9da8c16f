"""The catalogue of planted faults: the reference with one line changed.

Each fault replaces named functions of the reference while the faulty implementation runs, and only then: the judge
works with the untouched ones. It names the clause that it breaks and the stage that must be reported for it.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import Any
from unittest.mock import patch

import torch
from torch import Tensor
from torch.nn import functional

import tal_conformance.suite.every_check  # noqa: F401 (enters the checks into the registry)
import tal_reference.anchors
import tal_reference.annotations
import tal_reference.assignment
import tal_reference.boxes
import tal_reference.decoding
import tal_reference.dialect
import tal_reference.loss
from tal_conformance.checks.registry import check_for
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_reference import Anchors, GroundTruths, Head, Hyperparameters, Predictions, Targets
from tal_reference.assignment import NORMALISATION_EPS
from tal_reference.boxes import EPS


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Attributes:
        name: what it is called.
        clauses: the clauses that it breaks.
        stage: the stage that must be reported as the first to diverge, where stages are shown.
        replaces: dotted names of functions or constants, with what takes their place.
        outputs_stages: the stages of which one must be reported where outputs alone are shown.
        check: the test of the suite that must find it.
    """

    name: str
    clauses: tuple[str, ...]
    stage: str
    replaces: dict[str, Any]
    outputs_stages: tuple[str, ...]
    check: str

    @contextmanager
    def planted(self) -> Iterator[None]:
        """While it lasts, the reference has the fault."""
        with ExitStack() as stack:
            for name, replacement in self.replaces.items():
                stack.enter_context(patch(name, replacement))
            yield


class FaultyReference(ReferenceAdapter):
    """The reference with a fault in it."""

    def __init__(self, fault: Fault, exposes_stages: bool = True) -> None:
        super().__init__()
        self.fault = fault
        self.name = fault.name
        self.exposes_stages = exposes_stages

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """The reference's assigner, with the fault."""
        with self.fault.planted():
            return self.shown(super().assign(inputs))

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """The reference's loss, with the fault; what its assigner read is shown if the fault lies there."""
        inputs = None
        with self.fault.planted():
            loss = super().loss(feature_maps, annotations, head, hyperparameters)
            if self.exposes_stages and self.fault.stage == "decode":
                inputs = assigner_inputs(Batch(feature_maps, annotations, head, hyperparameters))
        assignment = None if loss.assignment is None else self.shown(loss.assignment)
        return Loss(loss.total, loss.items, assignment, inputs)

    def shown(self, assignment: Assignment) -> Assignment:
        """With or without its stages."""
        stages = assignment.stages if self.exposes_stages else None
        fields = {
            name: getattr(assignment, name)
            for name in ("labels", "boxes", "scores", "foreground", "truth_index")
        }
        return Assignment(**{name: value.detach() for name, value in fields.items()}, stages=stages)


class FaultyAssigner:
    """The assigner of a faulty reference, without its loss."""

    def __init__(self, whole: FaultyReference) -> None:
        self.name, self.version, self.dialect = whole.name, whole.version, whole.dialect
        self.exposes_stages = whole.exposes_stages
        self.assign = whole.assign


FAULTS: dict[str, Fault] = {}
"""Every fault of detection by name, in the order of the stages."""
FAULTS_BY_TASK = {DETECT.name: FAULTS}
"""The faults of every task."""


def enter(
    name: str,
    clauses: tuple[str, ...],
    stage: str,
    replaces: dict[str, Any],
    outputs_stages: tuple[str, ...] = (),
    check: str = "",
) -> None:
    """Enter a fault into the catalogue."""
    check = check or check_for(DETECT.clauses[stage]).name
    FAULTS[name] = Fault(name, clauses, stage, replaces, outputs_stages or (stage,), check)


def fault(
    *clauses: str,
    stage: str,
    at: str,
    also: dict[str, Any] | None = None,
    outputs_stages: tuple[str, ...] = (),
    check: str = "",
) -> Callable[[Any], Any]:
    """Enter the decorated function as a replacement of `at`, under its own name."""

    def entered(replacement: Any) -> Any:
        enter(replacement.__name__, clauses, stage, {at: replacement, **(also or {})}, outputs_stages, check)
        return replacement

    return entered


# What the assigner reads. A loss that shows outputs alone does not show it: what follows from it is wrong first.


LEFT_OUT = ("candidates", "top-k")
"""Where a missing positive can be one that was no candidate, or one that was not selected."""
SEEN_LATER = ("candidates", "overlap", "metric", "top-k", "conflict", "targets", "normalisation")

_flatten = tal_reference.anchors.flatten
_input_size = tal_reference.anchors.input_size
_make_anchors = tal_reference.anchors.make_anchors
_ground_truths = tal_reference.annotations.ground_truths
_expected_distances = tal_reference.decoding.expected_distances
_boxes_around = tal_reference.decoding.boxes_around


@fault("PRE-1", stage="decode", at="tal_reference.loss.flatten", outputs_stages=(*SEEN_LATER, "cls"))
def columns_before_rows(feature_maps: Sequence[Tensor], head: Head) -> tuple[Tensor, Tensor]:
    """Column by column."""
    return _flatten([level.transpose(2, 3) for level in feature_maps], head)


@fault("PRE-1", stage="decode", at="tal_reference.loss.flatten", outputs_stages=(*SEEN_LATER, "cls"))
def classes_before_distances(feature_maps: Sequence[Tensor], head: Head) -> tuple[Tensor, Tensor]:
    """Class logits in the first channels."""
    return _flatten([level.roll(-head.classes, 1) for level in feature_maps], head)


def _exchanged(feature_maps: Sequence[Tensor], head: Head) -> tuple[int, int]:
    height, width = _input_size(feature_maps, head)
    return width, height


enter(
    "width_and_height_exchanged",  # only inputs that are not square show it
    ("PRE-2", "ANN-1"),
    "decode",
    {
        "tal_reference.loss.input_size": _exchanged,
        "tal_conformance.core.batch.Batch.size": property(
            lambda self: _exchanged(self.feature_maps, self.head)
        ),
    },
    outputs_stages=SEEN_LATER,
)


def _of_last_level(feature_maps: Sequence[Tensor], head: Head) -> tuple[int, int]:
    rows, columns = feature_maps[-1].shape[2:]
    return rows * head.strides[-1], columns * head.strides[-1]


enter(
    "size_of_the_last_level",  # only inputs that its stride does not divide show it
    ("PRE-2", "ANN-1"),
    "decode",
    {
        "tal_reference.loss.input_size": _of_last_level,
        "tal_conformance.core.batch.Batch.size": property(
            lambda self: _of_last_level(self.feature_maps, self.head)
        ),
    },
    outputs_stages=SEEN_LATER,
)


@fault("ANC-1", stage="decode", at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def anchors_column_by_column(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """x and y are exchanged."""
    anchors = _make_anchors(feature_maps, head)
    return Anchors(anchors.centres.flip(1), anchors.strides)


@fault("ANC-1", stage="decode", at="tal_reference.loss.make_anchors", outputs_stages=SEEN_LATER)
def anchors_at_the_corner(feature_maps: Sequence[Tensor], head: Head) -> Anchors:
    """At a cell's corner, not at its centre."""
    anchors = _make_anchors(feature_maps, head)
    return Anchors(anchors.centres - 0.5, anchors.strides)


@fault(
    "DEC-1",
    stage="decode",
    at="tal_reference.decoding.expected_distances",
    outputs_stages=(*SEEN_LATER, "box"),
)
def most_likely_distance(distances: Tensor, reg_max: int) -> Tensor:
    """The most likely bin for the expectation."""
    return distances.unflatten(-1, (4, reg_max)).argmax(-1).to(distances.dtype)


@fault(
    "DEC-1",
    stage="decode",
    at="tal_reference.decoding.expected_distances",
    outputs_stages=(*SEEN_LATER, "box"),
)
def bins_from_one(distances: Tensor, reg_max: int) -> Tensor:
    """The first bin is the distance 1."""
    return _expected_distances(distances, reg_max) + (reg_max > 1)


@fault("DEC-2", stage="decode", at="tal_reference.decoding.boxes_around", outputs_stages=(*SEEN_LATER, "box"))
def top_before_left(centres: Tensor, distances: Tensor) -> Tensor:
    """The sides are read in the order top, left, bottom, right."""
    return _boxes_around(centres, distances[..., [1, 0, 3, 2]])


@fault("DEC-2", stage="decode", at="tal_reference.decoding.boxes_around", outputs_stages=(*SEEN_LATER, "box"))
def distances_as_width_and_height(centres: Tensor, distances: Tensor) -> Tensor:
    """Right and bottom distances are counted from the left top corner."""
    left_top, right_bottom = distances.split(2, dim=-1)
    return torch.cat((centres - left_top, centres - left_top + right_bottom), dim=-1)


@fault("ANN-1", stage="decode", at="tal_reference.annotations.to_corners", outputs_stages=SEEN_LATER)
def centre_taken_for_corner(boxes: Tensor, size: tuple[int, int]) -> Tensor:
    """The first two numbers are taken for the left top corner."""
    height, width = size
    left_top, sides = (boxes * boxes.new_tensor((width, height, width, height))).split(2, dim=1)
    return torch.cat((left_top, left_top + sides), dim=1)


def _reversed(annotations: Tensor, images: int, size: tuple[int, int]) -> list[GroundTruths]:
    return _ground_truths(annotations.flip(0), images, size)


enter(
    "truths_in_reverse",  # the last row of an image is its first ground truth
    ("ANN-2",),
    "decode",
    {
        "tal_reference.loss.ground_truths": _reversed,
        "tal_conformance.core.reference_inputs.ground_truths": _reversed,
    },
    outputs_stages=SEEN_LATER,
    check="annotations",
)


def _by_width(annotations: Tensor, images: int, size: tuple[int, int]) -> list[GroundTruths]:
    return _ground_truths(annotations[annotations[:, 4].argsort(stable=True)], images, size)


enter(
    "truths_by_width",  # the narrowest row of an image is its first ground truth
    ("ANN-2",),
    "decode",
    {
        "tal_reference.loss.ground_truths": _by_width,
        "tal_conformance.core.reference_inputs.ground_truths": _by_width,
    },
    outputs_stages=SEEN_LATER,
    check="annotations",
)


# Candidates -----------------------------------------------------------------------------------------------------------


@fault("TAL-CAND-1", stage="candidates", at="tal_reference.assignment.candidates_of")
def inclusive_border(truths: GroundTruths, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """`>=` for `>`."""
    return (tal_reference.assignment.distance_inside(truths.boxes, centres, floor) >= 0) & truths.real[
        :, None
    ]


@fault("TAL-CAND-2", stage="candidates", at="tal_reference.dialect.Dialect.floor", outputs_stages=LEFT_OUT)
def floor_of_first_stride(self: object, strides: tuple[int, ...]) -> tuple[int, int]:
    """8 pixels for 16."""
    return strides[0], strides[0]


@fault("TAL-CAND-2", stage="candidates", at="tal_reference.dialect.Dialect.floor", outputs_stages=LEFT_OUT)
def no_floor(self: object, strides: tuple[int, ...]) -> tuple[int, int]:
    """No side is widened."""
    return 0, 0


@fault("TAL-CAND-1", stage="candidates", at="tal_reference.assignment.distance_inside")
def only_horizontally_inside(boxes: Tensor, centres: Tensor, floor: tuple[int, int]) -> Tensor:
    """The vertical sides alone."""
    wide = tal_reference.assignment.widened(boxes, floor)[:, None]
    return torch.minimum(centres[:, 0] - wide[..., 0], wide[..., 2] - centres[:, 0])


# Overlap and metric ---------------------------------------------------------------------------------------------------


@fault(
    "IOU-1",
    "TAL-MET-1",
    stage="overlap",
    at="tal_reference.assignment.ciou",
    outputs_stages=(
        "overlap",
        "metric",
    ),  # where the best overlap is the same by chance, t is all that is wrong
)
def iou_for_ciou(one: Tensor, other: Tensor) -> Tensor:
    """The plain overlap."""
    return tal_reference.boxes.iou(one, other)


@fault(
    "TAL-MET-1",
    stage="overlap",
    at="tal_reference.assignment.overlaps_of",
    outputs_stages=(
        "candidates",
        "overlap",
        "metric",
    ),  # a negative overlap to an even power is a metric, and never the best overlap: others win the anchor
)
def ciou_unclamped(truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
    """Negative overlaps stay."""
    return tal_reference.boxes.ciou(truths[:, None], boxes).where(candidates, 0)


@fault("IOU-1", stage="gradients", at="tal_reference.boxes.width_and_height", check="loss_of_small_boxes")
def eps_on_the_width(box: Tensor) -> tuple[Tensor, Tensor]:
    """The width carries eps, the height does not: boxes so thin have no overlap to show it, but a gradient."""
    left, top, right, bottom = box.unbind(-1)
    return right - left + EPS, bottom - top


@fault(
    "IOU-3",
    stage="overlap",
    at="tal_reference.assignment.ciou",
    outputs_stages=("overlap", "metric"),  # it is too small, and of one positive too small a t says the same
)
def overlap_in_cells(one: Tensor, other: Tensor) -> Tensor:
    """Overlap in a unit so large that eps counts."""
    return tal_reference.boxes.ciou(one / 4096, other / 4096)


@fault("IOU-3", "LOSS-BOX-1", stage="box", at="tal_reference.loss.ciou")
def box_loss_in_a_large_unit(one: Tensor, other: Tensor) -> Tensor:
    """The same, in the box loss."""
    return tal_reference.boxes.ciou(one / 4096, other / 4096)


@fault("TAL-MET-1", stage="metric", at="tal_reference.assignment.alignment_metric")
def alpha_of_one(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """The assigner class's own default."""
    return score * overlap**numbers.beta


@fault("TAL-MET-1", stage="metric", at="tal_reference.assignment.alignment_metric")
def beta_of_five(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """5 for 6."""
    return score**numbers.alpha * overlap ** (numbers.beta - 1)


@fault("TAL-MET-1", stage="metric", at="tal_reference.assignment.alignment_metric")
def alpha_and_beta_swapped(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """The class counts more than the box."""
    return score**numbers.beta * overlap**numbers.alpha


# Top-k ----------------------------------------------------------------------------------------------------------------

_top_k = tal_reference.assignment.top_k


@fault("TAL-TOPK-1", stage="top-k", at="tal_reference.assignment.top_k")
def nine_for_ten(metric: Tensor, k: int) -> Tensor:
    """One anchor too few."""
    return _top_k(metric, k - 1)


@fault("TAL-TOPK-1", stage="top-k", at="tal_reference.assignment.top_k")
def eleven_for_ten(metric: Tensor, k: int) -> Tensor:
    """One anchor too many."""
    return _top_k(metric, min(k + 1, metric.shape[1]))


@fault(
    "TAL-TOPK-1",
    stage="top-k",
    at="tal_reference.assignment.top_k",
    check="zeros_compete",
    outputs_stages=LEFT_OUT,
)
def zeros_do_not_compete(metric: Tensor, k: int) -> Tensor:
    """An anchor with metric zero is never taken."""
    return _top_k(metric, k) & (metric > 0)


@fault("TAL-TOPK-1", stage="top-k", at="tal_reference.assignment.top_k")
def threshold_for_top_k(metric: Tensor, k: int) -> Tensor:
    """All that reach the k-th value: more than k where it is tied."""
    return metric >= metric.topk(k, dim=1).values[:, -1:]


@fault("TAL-TOPK-2", stage="top-k", at="tal_reference.assignment.top_k", check="fewer_anchors_than_k")
def k_cut_to_the_anchors(metric: Tensor, k: int) -> Tensor:
    """Fewer anchors than k are no error."""
    return _top_k(metric, min(k, metric.shape[1]))


@fault("TAL-TOPK-2", stage="top-k", at="tal_reference.assignment.top_k", check="fewer_anchors_than_k")
def nothing_taken_of_few_anchors(metric: Tensor, k: int) -> Tensor:
    """Where there are fewer anchors than k, none is taken."""
    return _top_k(metric, k) if k <= metric.shape[1] else torch.zeros_like(metric, dtype=torch.bool)


# Conflict -------------------------------------------------------------------------------------------------------------


def _settled(selected: Tensor, score: Tensor) -> Tensor:
    best = torch.zeros_like(selected).scatter(0, score.argmax(0, keepdim=True), True)
    return torch.where(selected.sum(0) > 1, best, selected)


@fault("TAL-CONF-1", stage="conflict", at="tal_reference.assignment.settle_contested")
def contested_by_claimants(selected: Tensor, overlap: Tensor) -> Tensor:
    """Only ground truths that took the anchor can win it."""
    return _settled(selected, overlap.where(selected, -1))


@fault("TAL-CONF-1", stage="conflict", at="tal_reference.assignment.settle_contested")
def contested_goes_to_the_first(selected: Tensor, overlap: Tensor) -> Tensor:
    """The first ground truth that took the anchor."""
    return _settled(selected, selected.float())


@fault(
    "TAL-CONF-1",
    stage="conflict",
    at="tal_reference.assignment.settle_contested",
    outputs_stages=(
        "conflict",
        "metric",
        "normalisation",
    ),  # the owner may happen to be right, with the weights of all added up
)
def contested_stays_with_all(selected: Tensor, overlap: Tensor) -> Tensor:
    """Nothing is settled."""
    return selected


class _ByMetric:
    """Remembers the metric, which `settle_contested` does not see."""

    metric: Tensor

    @classmethod
    def top_k(cls, metric: Tensor, k: int) -> Tensor:
        cls.metric = metric
        return _top_k(metric, k)


@fault(
    "TAL-CONF-1",
    stage="conflict",
    at="tal_reference.assignment.settle_contested",
    also={"tal_reference.assignment.top_k": _ByMetric.top_k},
)
def contested_by_metric(selected: Tensor, overlap: Tensor) -> Tensor:
    """The largest t wins, not the largest u."""
    return _settled(selected, _ByMetric.metric)


class _Unmasked:
    """Remembers the overlaps that `overlaps_of` hides."""

    overlap: Tensor

    @classmethod
    def overlaps_of(cls, truths: Tensor, boxes: Tensor, candidates: Tensor) -> Tensor:
        cls.overlap = tal_reference.boxes.ciou(truths[:, None], boxes).clamp(min=0)
        return cls.overlap.where(candidates, 0)


@fault(
    "TAL-CONF-1",
    stage="conflict",
    at="tal_reference.assignment.settle_contested",
    also={"tal_reference.assignment.overlaps_of": _Unmasked.overlaps_of},
)
def contested_by_unmasked_overlap(selected: Tensor, overlap: Tensor) -> Tensor:
    """Overlaps count outside the ground truth too, as before 8.0.52."""
    return _settled(selected, _Unmasked.overlap)


enter(
    "topk2_ignored",
    ("TAL-CONF-2",),
    "conflict",
    {"tal_reference.settings.Hyperparameters.effective_topk2": None},
    check="topk2",
)


def _one_more(self: Hyperparameters) -> int | None:
    return None if self.topk2 in (None, self.topk) else self.topk2 + 1


enter(
    "one_more_than_topk2",
    ("TAL-CONF-2",),
    "conflict",
    {"tal_reference.settings.Hyperparameters.effective_topk2": property(_one_more)},
    check="topk2",
)


# Targets and normalisation --------------------------------------------------------------------------------------------

_targets_of = tal_reference.assignment.targets_of
_normalised = tal_reference.assignment.normalised


@fault("TAL-CAND-2", "TAL-TGT-1", stage="targets", at="tal_reference.assignment.targets_of")
def widened_target_box(
    truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None
) -> Targets:
    """The box to learn is the widened one."""
    wide = GroundTruths(truths.labels, tal_reference.assignment.widened(truths.boxes, (16, 16)))
    return _targets_of(wide, positives, weights, trace)


@fault("TAL-TGT-1", stage="targets", at="tal_reference.assignment.targets_of")
def label_of_the_first(
    truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None
) -> Targets:
    """Every positive learns the class of the first ground truth."""
    same = GroundTruths(truths.labels[:1].expand_as(truths.labels), truths.boxes)
    return _targets_of(same, positives, weights, trace)


class _Selected:
    """Remembers what was selected before contested anchors were settled."""

    selected: Tensor
    settle = staticmethod(tal_reference.assignment.settle_contested)

    @classmethod
    def settle_contested(cls, selected: Tensor, overlap: Tensor) -> Tensor:
        cls.selected = selected
        return cls.settle(selected, overlap)


@fault(
    "TAL-NORM-1",
    stage="normalisation",
    at="tal_reference.assignment.normalised",
    also={"tal_reference.assignment.settle_contested": _Selected.settle_contested},
)
def weights_before_conflict(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """t* and u* are the best of what was selected, not of what is left."""
    taken = _Selected.selected
    best_metric = (metric * taken).amax(1, keepdim=True)
    best_overlap = (overlap * taken).amax(1, keepdim=True)
    return (metric * positives * best_overlap / (best_metric + NORMALISATION_EPS)).sum(0)


@fault("TAL-NORM-1", stage="normalisation", at="tal_reference.assignment.normalised")
def clamped_for_added_eps(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """`clamp(min=eps)` for `+ eps`."""
    metric, overlap = metric * positives, overlap * positives
    best = metric.amax(1, keepdim=True).clamp(min=NORMALISATION_EPS)
    return (metric * overlap.amax(1, keepdim=True) / best).sum(0)


@fault("TAL-NORM-1", stage="normalisation", at="tal_reference.assignment.normalised")
def not_scaled_by_overlap(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """The best positive must learn a score of one."""
    metric = metric * positives
    return (metric / (metric.amax(1, keepdim=True) + NORMALISATION_EPS)).sum(0)


class _Losers:
    """Remembers the labels whose ground truths lost an anchor."""

    selected: Tensor
    labels: Tensor

    @classmethod
    def targets_of(
        cls, truths: GroundTruths, positives: Tensor, weights: Tensor, trace: Any = None
    ) -> Targets:
        cls.selected, cls.labels = _Selected.selected, truths.labels
        targets = _targets_of(truths, positives, weights, trace)
        return _KeepsLosers(**vars(targets))


class _KeepsLosers(Targets):
    def scores(self, classes: int) -> Tensor:
        one_hot = functional.one_hot(_Losers.labels, classes).to(self.weights.dtype)  # (M, C)
        taken = (_Losers.selected.to(one_hot.dtype).T @ one_hot).clamp(max=1)  # (A, C)
        return torch.maximum(super().scores(classes), taken * self.weights[:, None])


enter(
    "losing_truth_keeps_its_score",
    ("TAL-TGT-1",),
    "normalisation",
    {
        "tal_reference.assignment.targets_of": _Losers.targets_of,
        "tal_reference.assignment.settle_contested": _Selected.settle_contested,
    },
    outputs_stages=("normalisation", "metric"),  # weights that do not follow t, whatever the reason
)


def _padded(annotations: Tensor, images: int, size: tuple[int, int]) -> list[GroundTruths]:
    """Every image has as many ground truths as the fullest; the added ones are as large as the input."""
    truths = _ground_truths(annotations, images, size)
    most = max(map(len, truths))
    whole = annotations.new_tensor((0, 0, size[1], size[0]))  # (4,)
    return [
        GroundTruths(
            torch.cat((image.labels, image.labels.new_zeros(most - len(image)))),
            torch.cat((image.boxes, whole.to(image.boxes).expand(most - len(image), 4))),
        )
        for image in truths
    ]


enter(
    "padding_leaks",
    ("ANN-4", "ANN-3"),
    "candidates",
    {
        "tal_reference.loss.ground_truths": _padded,
        "tal_reference.annotations.GroundTruths.real": property(lambda self: self.boxes.sum(-1) >= 0),
    },
    outputs_stages=(
        "targets",
        "candidates",
        "conflict",
        "top-k",
    ),  # padding takes an anchor for itself, or makes it contested
    check="small_boxes",
)
enter(
    "negative_sum_kept",  # padding rows are kept too
    ("ANN-3", "ANN-4"),
    "candidates",
    {
        "tal_reference.annotations.GroundTruths.real": property(
            lambda self: torch.ones_like(self.labels, dtype=torch.bool)
        )
    },
    check="annotations",
)


enter(
    "every_row_counts",  # all that is no padding is taken for real
    ("ANN-3",),
    "candidates",
    {"tal_reference.annotations.GroundTruths.real": property(lambda self: (self.boxes != 0).any(-1))},
    check="annotations",
)


_background = tal_reference.assignment.background


@fault(
    "TAL-EMPTY-1", stage="normalisation", at="tal_reference.assignment.background", check="no_ground_truth"
)
def empty_image_scores(truths: GroundTruths, anchors: int) -> Targets:
    """An image without ground truths learns a little of its first class."""
    return replace(_background(truths, anchors), weights=truths.boxes.new_full((anchors,), 1e-3))


@fault("TAL-EMPTY-1", stage="targets", at="tal_reference.assignment.background", check="no_ground_truth")
def empty_image_is_foreground(truths: GroundTruths, anchors: int) -> Targets:
    """Every anchor of an image without ground truths is a positive, with weight zero."""
    return replace(_background(truths, anchors), foreground=torch.ones(anchors, dtype=torch.bool))


# Loss -----------------------------------------------------------------------------------------------------------------

_loss_items = tal_reference.loss.loss_items
_cls_loss = tal_reference.loss.cls_loss
_dfl_loss = tal_reference.loss.dfl_loss


def _with_targets(targets: Any, **changed: Tensor) -> Any:
    return type(targets)(**{**vars(targets), **changed})


@fault("LOSS-BOX-1", stage="box", at="tal_reference.loss.loss_items")
def target_box_in_pixels(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """The box loss compares grid units with pixels."""
    pixels = targets.boxes * predictions.anchors.strides[targets.anchor]
    return _loss_items(predictions, _with_targets(targets, boxes=pixels), head, numbers, *dialect)


@fault("LOSS-BOX-1", stage="box", at="tal_reference.loss.ciou")
def iou_for_ciou_in_the_loss(one: Tensor, other: Tensor) -> Tensor:
    """The plain overlap is learnt."""
    return tal_reference.boxes.iou(one, other)


@fault("LOSS-DFL-1", stage="dfl", at="tal_reference.loss.dfl_loss")
def dfl_weights_swapped(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """The farther bin has the larger share."""
    log_probability = distances.unflatten(1, (4, reg_max)).log_softmax(-1)
    clamped = target.clamp(0, reg_max - 1 - 0.01)
    lower = clamped.floor().long()[..., None]
    share = clamped - clamped.floor()
    below, above = (log_probability.gather(-1, lower + step).squeeze(-1) for step in (0, 1))
    return -(share * below + (1 - share) * above).mean(1)


enter("dfl_clamped_late", ("LOSS-DFL-1",), "dfl", {"tal_reference.loss.LAST_BIN_MARGIN": 1e-6})


def _clamped_at(distances: Tensor, target: Tensor, reg_max: int, last: float) -> Tensor:
    """DFL with another clamp; a bin that does not exist is the last one."""
    log_probability = distances.unflatten(1, (4, reg_max)).log_softmax(-1)
    clamped = target.clamp(0, last)
    lower = clamped.floor().long()
    share = clamped - lower
    below, above = (
        log_probability.gather(-1, (lower + step).clamp(max=reg_max - 1)[..., None]).squeeze(-1)
        for step in (0, 1)
    )
    return -((1 - share) * below + share * above).mean(1)


@fault("LOSS-DFL-1", stage="dfl", at="tal_reference.loss.dfl_loss", check="loss_of_large_boxes")
def dfl_clamp_15_99(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Clamped to R - 0.01 for R - 1 - 0.01."""
    return _clamped_at(distances, target, reg_max, reg_max - 0.01)


@fault(
    "LOSS-DFL-1",
    "LOSS-GRAD-1",
    stage="gradients",
    at="tal_reference.loss.dfl_loss",
    check="loss_of_large_boxes",
)
def dfl_clamp_15_99_in_the_gradient(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """The right value, with the gradient of that clamp."""
    wrong = _clamped_at(distances, target, reg_max, reg_max - 0.01)
    return _dfl_loss(distances, target, reg_max).detach() + wrong - wrong.detach()


@fault("LOSS-DFL-1", stage="gradients", at="tal_reference.loss.dfl_loss")
def dfl_without_gradient_at_the_clamp(distances: Tensor, target: Tensor, reg_max: int) -> Tensor:
    """Clamped sides have the right value and no gradient."""
    inside = (target < reg_max - 1 - 0.01)[..., None]  # (P, 4, 1)
    sides = distances.unflatten(1, (4, reg_max))
    return _dfl_loss(torch.where(inside, sides, sides.detach()).flatten(1), target, reg_max)


@fault("LOSS-SUM-1", stage="cls", at="tal_reference.loss.loss_items")
def score_sum_not_clamped(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """No max(1, .), as before 8.0.35."""
    total = targets.weights.sum()
    return (
        _loss_items(predictions, targets, head, numbers, *dialect)
        * total.clamp(min=1)
        / total.clamp(min=1e-3)
    )


@fault("LOSS-SUM-1", stage="cls", at="tal_reference.loss.loss_items")
def score_sum_an_image(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """N is the mean over images."""
    total = targets.weights.sum()
    each = (total / len(predictions.logits)).clamp(min=1)
    return _loss_items(predictions, targets, head, numbers, *dialect) * total.clamp(min=1) / each


@fault("LOSS-CLS-1", stage="cls", at="tal_reference.loss.cls_loss")
def mean_cross_entropy(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """The mean for the sum."""
    return _cls_loss(logits, at, scores) / logits.numel()


@fault("LOSS-CLS-1", stage="cls", at="tal_reference.loss.cls_loss")
def cross_entropy_of_positives(logits: Tensor, at: tuple[Tensor, Tensor, Tensor], scores: Tensor) -> Tensor:
    """Background anchors are left out."""
    image, anchor, label = (index[scores > 0] for index in at)  # (P,) each
    places = torch.arange(len(label), device=label.device)
    return _cls_loss(logits[image, anchor][None], (0 * places, places, label), scores[scores > 0])


@fault("LOSS-GAIN-1", stage="cls", at="tal_reference.loss.loss_items")
def gains_swapped(
    predictions: Predictions, targets: Any, head: Head, numbers: Hyperparameters, *dialect: Any
) -> Tensor:
    """The gains of box and cls."""
    swapped = Hyperparameters(**{**vars(numbers), "box_gain": numbers.cls_gain, "cls_gain": numbers.box_gain})
    return _loss_items(predictions, targets, head, swapped, *dialect)


class _WithoutBatchSize(tal_reference.loss.DetectionLoss):
    def __init__(
        self, terms: Tensor, items: Tensor, targets: list[Targets], predictions: Predictions
    ) -> None:
        super().__init__(terms / len(targets), items, targets, predictions)


enter(
    "missing_batch_size", ("LOSS-GAIN-1",), "total", {"tal_reference.loss.DetectionLoss": _WithoutBatchSize}
)


@fault("IOU-2", stage="gradients", at="tal_reference.boxes.shape_penalty")
def alpha_differentiated(one: Tensor, other: Tensor, overlap: Tensor) -> Tensor:
    """The weight of CIoU's last term has a gradient."""
    (w1, h1), (w2, h2) = (
        tal_reference.boxes.width_and_height(one),
        tal_reference.boxes.width_and_height(other),
    )
    difference = 4 / torch.pi**2 * (torch.atan(w2 / h2) - torch.atan(w1 / h1)).square()
    return difference / (1 - overlap + difference + EPS) * difference


_shape_penalty = tal_reference.boxes.shape_penalty


@fault("IOU-2", stage="gradients", at="tal_reference.boxes.shape_penalty")
def shape_penalty_without_gradient(one: Tensor, other: Tensor, overlap: Tensor) -> Tensor:
    """All of CIoU's last term is a constant, not its weight alone."""
    return _shape_penalty(one, other, overlap).detach()


def _assign_with_gradient(
    predictions: Predictions,
    truths: Any,
    head: Head,
    numbers: Hyperparameters,
    dialect: Any,
    keep_trace: bool = False,
) -> list[Targets]:
    """The assignment is not detached."""
    scores = predictions.logits.sigmoid()
    boxes = predictions.boxes * predictions.anchors.strides
    plain = tal_reference.assignment.assign.__wrapped__  # type: ignore[attr-defined]
    return [
        plain(
            scores[i],
            boxes[i],
            predictions.anchors.pixels,
            truths[i],
            head.strides,
            numbers,
            dialect,
            keep_trace,
        )
        for i in range(len(truths))
    ]


enter(
    "assignment_not_detached",
    ("LOSS-GRAD-1", "TAL-NORM-1"),
    "gradients",
    {"tal_reference.loss.assign_images": _assign_with_gradient},
)
