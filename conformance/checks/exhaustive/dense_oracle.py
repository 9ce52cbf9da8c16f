"""Oracle for many small images at once: vectorised, in float64, with an enumeration of all top-k selections.

The ordinary judge goes image by image, and searches for an admissible selection that explains an ambiguous outcome.
Images of a scope have at most two ground truths and few anchors, so that all selections are enumerated; geometry comes
from `tal_conformance.core.geometry`. An outcome that this oracle accepts is right; the ordinary judge judges all other
outcomes. B images, M ground truths (1 or 2, padded), A anchors, C classes, S sets of k anchors.
"""

from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import combinations

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.checks.exhaustive.scope import Images
from tal_conformance.core.geometry import INSIDE, ciou, depth
from tal_conformance.core.outcome import AssignerInputs, CheckedAssignment, Stages
from tal_conformance.judgement.oracle.admissible import Range
from tal_conformance.judgement.rounding.bounds import bound, ciou_unit, metric_unit, smallest
from tal_reference import NEWEST, Dialect, Hyperparameters

NORMALISATION_EPS = 1e-9
"""TAL-NORM-1."""
DTYPE = torch.float32
EPS = torch.finfo(DTYPE).eps


@dataclass(frozen=True)
class Uncertainty:
    """Possible difference between an assigner's actual inputs, which are not exposed, and the reconstructed inputs.

    Attributes:
        boxes: (B, A) difference of a predicted edge in pixels.
        scores: (B, A, C) difference of a score.
    """

    boxes: Tensor
    scores: Tensor


@dataclass(frozen=True)
class Expected:
    """Values that the specification prescribes for each image, with their float32 rounding bounds.

    Attributes:
        boxes: (B, M, 4) ground truths, xyxy in pixels, float64; zeros for padding.
        labels: (B, M) classes of the ground truths.
        real: (B, M) bool: True for a ground truth that is not padding and not dropped (ANN-3).
        candidate: (B, M, A) bool: True for a candidate (TAL-CAND-1, TAL-CAND-2). Corners and centres are exact.
        score: (B, M, A) class score s that the assigner read. This and the following values are zero for
            non-candidates.
        overlap, overlap_error: (B, M, A) overlap u in float64 and its rounding bound.
        metric, metric_error: (B, M, A) alignment metric t in float64 and its rounding bound.
        naive_overlap, naive_metric: (B, M, A) u and t computed in float32.
        numbers: hyperparameters: k, alpha and beta.
    """

    boxes: Tensor
    labels: Tensor
    real: Tensor
    candidate: Tensor
    score: Tensor
    overlap: Tensor
    overlap_error: Tensor
    metric: Tensor
    metric_error: Tensor
    naive_overlap: Tensor
    naive_metric: Tensor
    numbers: Hyperparameters

    @property
    def overlap_range(self) -> Range:
        """Least and greatest possible overlap u, (B, M, A) each."""
        return Range((self.overlap - self.overlap_error).clamp(min=0), self.overlap + self.overlap_error)

    @property
    def metric_range(self) -> Range:
        """Least and greatest possible alignment metric t, (B, M, A) each."""
        return Range((self.metric - self.metric_error).clamp(min=0), self.metric + self.metric_error)


def understands(dialect: Dialect) -> bool:
    """Return True if this oracle supports the dialect: the newest, with any minimum box size (TAL-CAND-2)."""
    return dialect == replace(NEWEST, name=dialect.name, small_box_floor=dialect.small_box_floor)


def expected(
    images: Images, inputs: AssignerInputs, dialect: Dialect, uncertain: Uncertainty | None = None
) -> Expected:
    """Return the candidates, overlaps and metrics that follow from the inputs of an assigner.

    Args:
        images: the images, as indices of boxes, classes and predictions.
        inputs: inputs of the assigner.
        dialect: the dialect to follow.
        uncertain: possible error of the inputs; None if the implementation exposes them.
    """
    scope, numbers, device = images.scope, inputs.hyperparameters, inputs.boxes.device
    present = images.present.to(device)  # (B, M)
    boxes = scope.boxes.to(device)[images.boxes.to(device)].where(present[..., None], 0)  # (B, M, 4)
    labels = images.labels.to(device).where(present, 0)  # (B, M)
    real = boxes.sum(-1) > 0  # (B, M) ANN-3
    inside = depth(inputs.anchors.double(), widened(boxes, dialect.floor(scope.strides)))  # (B, M, A)
    candidate = (inside > INSIDE) & real[..., None]  # (B, M, A)

    score = _of_class(inputs.scores, labels).where(candidate, 0)  # (B, M, A)
    score_error = torch.zeros_like(score) if uncertain is None else _of_class(uncertain.scores, labels)
    predicted = inputs.boxes[:, None]  # (B, 1, A, 4)
    moved = 0.0 if uncertain is None else uncertain.boxes[:, None]  # (B, 1, A)
    overlap = ciou(boxes[:, :, None], predicted.double()).clamp(min=0).where(candidate, 0)
    naive_overlap = ciou(boxes[:, :, None].to(DTYPE), predicted).clamp(min=0).where(candidate, 0)
    unit = ciou_unit(boxes[:, :, None], predicted.double(), moved, EPS)  # (B, M, A)
    overlap_error = bound(naive_overlap, overlap, unit, DTYPE, "overlap u").where(candidate, 0)

    exact = score.double()
    metric, naive_metric = metric_of(exact, overlap, numbers), metric_of(score, naive_overlap, numbers)
    large = exact + score_error, overlap + overlap_error
    small = (exact - score_error).clamp(min=0), (overlap - overlap_error).clamp(min=0)
    unit = metric_unit(*large, numbers.alpha, numbers.beta, EPS)
    rounding = bound(naive_metric, metric, unit, DTYPE, "metric t")
    reach = torch.maximum(metric_of(*large, numbers) - metric, metric - metric_of(*small, numbers))
    return Expected(
        boxes,
        labels,
        real,
        candidate,
        score,
        overlap,
        overlap_error,
        metric,
        (reach + rounding).where(candidate, 0),
        naive_overlap,
        naive_metric,
        numbers,
    )


def widened(boxes: Tensor, floor: tuple[int, int]) -> Tensor:
    """Return boxes (.., 4) whose sides below `floor[0]` are widened about the centre to `floor[1]` (TAL-CAND-2)."""
    below, to = floor
    left_top, right_bottom = boxes.split(2, dim=-1)
    middle = (left_top + right_bottom) / 2
    small = right_bottom - left_top < below
    return torch.cat(
        (torch.where(small, middle - to / 2, left_top), torch.where(small, middle + to / 2, right_bottom)),
        dim=-1,
    )


def metric_of(score: Tensor, overlap: Tensor, numbers: Hyperparameters) -> Tensor:
    """Return the alignment metric t = s^alpha u^beta (TAL-MET-1)."""
    return score.pow(numbers.alpha) * overlap.pow(numbers.beta)


def _of_class(scores: Tensor, labels: Tensor) -> Tensor:
    """Return the score (B, M, A) of each ground truth's class, from scores (B, A, C) and labels (B, M)."""
    return scores.transpose(1, 2).gather(1, labels[..., None].expand(-1, -1, scores.shape[1]))


@lru_cache(maxsize=64)
def _sets(anchors: int, k: int) -> Tensor:
    """Return every set of k anchors, (S, A) bool."""
    sets = torch.zeros(0, anchors, dtype=torch.bool)
    for chosen in combinations(range(anchors), k):
        row = torch.zeros(1, anchors, dtype=torch.bool)
        row[0, list(chosen)] = True
        sets = torch.cat((sets, row))
    return sets


@dataclass(frozen=True)
class Choices:
    """Every top-k selection, and its admissibility (TAL-TOPK-1).

    Attributes:
        admissible: (B, M, S) bool: True if the metrics of the k anchors of the set can be the k largest.
        selected: (B, M, S, A) bool: the candidates among the anchors of the set.
    """

    admissible: Tensor
    selected: Tensor

    @classmethod
    def of(cls, metric: Range, candidate: Tensor, k: int) -> "Choices":
        """Enumerate the sets: a set is admissible if none of its metrics is surely smaller than a metric outside it."""
        sets = _sets(candidate.shape[-1], k).to(candidate.device)  # (S, A)
        worst_inside = metric.high[:, :, None].where(sets, torch.inf).amin(-1)  # (B, M, S)
        best_outside = metric.low[:, :, None].where(~sets, -torch.inf).amax(-1)  # (B, M, S)
        return cls(worst_inside >= best_outside, sets & candidate[:, :, None])

    def always(self) -> Tensor:
        """Return (B, M, A) bool: True for anchors that all admissible selections contain."""
        return (self.selected | ~self.admissible[..., None]).all(2)

    def ever(self) -> Tensor:
        """Return (B, M, A) bool: True for anchors that at least one admissible selection contains."""
        return (self.selected & self.admissible[..., None]).any(2)


def may_own(overlap: Range) -> Tensor:
    """Return (B, M, A) bool: True if the ground truth's overlap u may be the anchor's largest (TAL-CONF-1).

    Such a ground truth may own the anchor.
    """
    return overlap.high >= overlap.low.amax(1, keepdim=True)


def reachable(owner: Tensor, choices: Choices, winners: Tensor, exposed: Tensor | None = None) -> Tensor:
    """Return (B,) bool: True if some admissible selection leads to the given owners.

    With two ground truths the owners constrain each selection independently: the owner of an anchor selected it; the
    other ground truth selected it only if the owner may win the conflict; no ground truth selected background.

    Args:
        owner: (B, A) index of the ground truth, -1 on background.
        choices: the admissible selections.
        winners: (B, M, A) bool: ground truths that may win a contested anchor.
        exposed: (B, M, A) bool: the selection of the implementation; None if it does not expose its stages.
    """
    rows = torch.arange(winners.shape[1], device=owner.device)[:, None]  # (M, 1)
    own = owner[:, None] == rows  # (B, M, A)
    wins = (winners & own).any(1, keepdim=True)  # (B, 1, A) the owner may win a conflict
    must, may = own[:, :, None], (own | wins)[:, :, None]  # (B, M, 1, A)
    fits = choices.admissible & ((choices.selected | ~must) & (~choices.selected | may)).all(-1)  # (B, M, S)
    if exposed is not None:
        fits = fits & (choices.selected == exposed[:, :, None]).all(-1)
    return fits.any(-1).all(-1)


def ambiguous(prescribed: Expected, metric: Range, overlap: Range, least: float = -1.0) -> Tensor:
    """Return (B,) bool: True if rounding of t and u admits more than one selection or owner in the image.

    Args:
        prescribed: candidates and hyperparameters of the images.
        metric: range of the alignment metric t.
        overlap: range of the overlap u.
        least: choices between anchors whose t is at most this value do not count.
    """
    choices = Choices.of(metric, prescribed.candidate, prescribed.numbers.topk)
    counts = metric.high > least
    ever, always = choices.ever(), choices.always()  # (B, M, A) twice
    contested, tied = ever.sum(1) > 1, may_own(overlap).sum(1) > 1  # (B, A) twice
    return ((ever & ~always & counts).any(1) | (contested & tied & counts.any(1))).any(1)


def weights_of(metric: Tensor, overlap: Tensor, positives: Tensor) -> Tensor:
    """Return the weights w (B, A) that follow from metric t, overlap u and positives, (B, M, A) each (TAL-NORM-1)."""
    metric, overlap = metric * positives, overlap * positives
    best = metric.amax(2, keepdim=True) + NORMALISATION_EPS  # (B, M, 1)
    return (metric * overlap.amax(2, keepdim=True) / best).sum(1)


def stages_hold(prescribed: Expected, stages: Stages, positives: Tensor) -> Tensor:
    """Return (B,) bool: True if all exposed stages are correct; a stage is judged from the exposed earlier stages.

    Args:
        prescribed: prescribed values.
        stages: stages that the implementation exposes.
        positives: (B, M, A) bool: positives according to the outputs.
    """
    rows = prescribed.candidate.shape[1]
    exposed = {name: _padded(value, rows) for name, value in vars(stages).items()}
    overlap, metric, selected = exposed["overlap"], exposed["metric"], exposed["selected"]  # (B, M, A) each
    exact = metric_of(prescribed.score.double(), overlap.double().clamp(min=0), prescribed.numbers)
    same_dtype = metric_of(prescribed.score, overlap.clamp(min=0), prescribed.numbers)
    unit = metric_unit(
        prescribed.score.double(),
        overlap.double().clamp(min=0),
        prescribed.numbers.alpha,
        prescribed.numbers.beta,
        EPS,
    )
    metric_error = bound(same_dtype, exact, unit, DTYPE, "metric t").where(prescribed.candidate, 0)
    choices = Choices.of(Range.exact(metric.double()), prescribed.candidate, prescribed.numbers.topk)
    winners, owner = may_own(Range.exact(overlap.double())), owner_of(positives)
    holds = (
        exposed["candidates"] == prescribed.candidate,
        (overlap.double() - prescribed.overlap).abs() <= prescribed.overlap_error,
        (metric.double() - exact).abs() <= metric_error,
        exposed["positives"] == positives,
    )
    all_hold = torch.stack([stage.flatten(1).all(1) for stage in holds]).all(0)  # (B,)
    return all_hold & reachable(owner, choices, winners, selected)


def _padded(value: Tensor, rows: int) -> Tensor:
    """Return a stage (B, M', A) with M' <= M, padded with zeros to (B, M, A)."""
    return functional.pad(value, (0, 0, 0, rows - value.shape[1]))


def owner_of(positives: Tensor) -> Tensor:
    """Return the owner (B, A) of each anchor from positives (B, M, A): index of the ground truth, -1 on background."""
    return torch.where(positives.any(1), positives.int().argmax(1), -1)


def targets_hold(prescribed: Expected, assignment: CheckedAssignment, positives: Tensor) -> Tensor:
    """Return (B,) bool: True if the target label and box of each positive equal its owner's bitwise (TAL-TGT-1)."""
    own = positives.transpose(1, 2).double()  # (B, A, M)
    boxes = own @ prescribed.boxes  # (B, A, 4) the owner's box, or zeros
    labels = (own @ prescribed.labels[..., None].double()).squeeze(-1)  # (B, A)
    foreground = assignment.foreground
    right = (assignment.boxes.double() == boxes).all(-1) & (assignment.labels.double() == labels)
    return (right | ~foreground).all(1) & (positives.any(1) == foreground).all(1)


def scores_hold(prescribed: Expected, assignment: CheckedAssignment, positives: Tensor) -> Tensor:
    """Return (B,) bool: True if target scores are the weight w at each positive's label and 0 elsewhere.

    Clauses TAL-NORM-1 and TAL-TGT-1.
    """
    exact, error = _weights_from_stages(prescribed, assignment.stages, positives)
    at = functional.one_hot(prescribed.labels, assignment.scores.shape[-1]).double()  # (B, M, C)
    at_label = positives.transpose(1, 2).double() @ at  # (B, A, C) 1 at the label of a positive
    difference = (assignment.scores.double() - exact[..., None] * at_label).abs()  # (B, A, C)
    return (difference <= error[..., None] * at_label).flatten(1).all(1)


def _weights_from_stages(
    prescribed: Expected, stages: Stages | None, positives: Tensor
) -> tuple[Tensor, Tensor]:
    """Return weights w (B, A) and their bound, from the exposed overlap u and metric t, else the prescribed ones."""
    if stages is not None:
        metric, overlap = (_padded(value, positives.shape[1]) for value in (stages.metric, stages.overlap))
        moved: Tensor | float = 0.0
    else:
        metric, overlap = prescribed.naive_metric, prescribed.naive_overlap
        moved = _moved_weights(prescribed, positives)
    large = (
        (metric.double(), overlap.double()) if stages is not None else (prescribed.metric, prescribed.overlap)
    )
    exact, same_dtype = weights_of(*large, positives), weights_of(metric, overlap, positives)  # (B, A) twice
    unit = 4 * EPS * exact + smallest(DTYPE) / NORMALISATION_EPS
    return exact, bound(same_dtype, exact, unit, DTYPE, "target score w") + moved


def _moved_weights(prescribed: Expected, positives: Tensor) -> Tensor:
    """Return the error of the weights w (B, A) that the errors of overlap u and metric t cause (TAL-NORM-1)."""
    metric, metric_error = prescribed.metric * positives, prescribed.metric_error * positives
    overlap, overlap_error = prescribed.overlap * positives, prescribed.overlap_error * positives
    best = metric.amax(2, keepdim=True) + NORMALISATION_EPS  # (B, M, 1)
    best_error = metric_error.amax(2, keepdim=True)
    best_overlap, best_overlap_error = overlap.amax(2, keepdim=True), overlap_error.amax(2, keepdim=True)
    moved = (
        metric_error * best_overlap + metric * best_overlap_error + metric * best_overlap * best_error / best
    )
    return (moved / (best - best_error).clamp(min=NORMALISATION_EPS)).sum(1)


def assignment_holds(prescribed: Expected, assignment: CheckedAssignment) -> Tensor:
    """Return (B,) bool: True if the assignment is certainly correct: admissible, with correct targets and weights."""
    rows = torch.arange(prescribed.real.shape[1], device=prescribed.real.device)[:, None]  # (M, 1)
    owner = assignment.truth_index.long().where(assignment.foreground, -1)  # (B, A)
    positives = owner[:, None] == rows  # (B, M, A)
    if assignment.stages is not None:
        follows = stages_hold(prescribed, assignment.stages, positives)
    else:
        choices = Choices.of(prescribed.metric_range, prescribed.candidate, prescribed.numbers.topk)
        follows = reachable(owner, choices, may_own(prescribed.overlap_range))
    return (
        follows
        & targets_hold(prescribed, assignment, positives)
        & scores_hold(prescribed, assignment, positives)
    )


def only_assignment(prescribed: Expected, classes: int) -> CheckedAssignment:
    """Return the assignment, computed in float32, of images that admit only one; choices with t = 0 do not count.

    The result is used to judge a loss that does not expose its assignment. If all overlaps of a contested anchor are
    zero, the first ground truth wins, because any winner gets the weight zero.
    """
    selected = Choices.of(
        prescribed.metric_range, prescribed.candidate, prescribed.numbers.topk
    ).always()  # (B, M, A)
    largest = torch.zeros_like(selected).scatter(1, prescribed.overlap.argmax(1, keepdim=True), True)
    contested = selected.sum(1, keepdim=True) > 1
    positives = selected & (~contested | largest)
    weights = weights_of(prescribed.naive_metric, prescribed.naive_overlap, positives)  # (B, A)
    own = positives.transpose(1, 2).to(DTYPE)  # (B, A, M)
    labels = (own @ prescribed.labels[..., None].to(DTYPE)).squeeze(-1).long()  # (B, A)
    scores = weights[..., None] * functional.one_hot(labels, classes)
    boxes = own @ prescribed.boxes.to(DTYPE)
    return CheckedAssignment(labels, boxes, scores, positives.any(1), owner_of(positives).clamp(min=0))
