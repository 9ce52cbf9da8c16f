"""Variations: choices that no official release makes, found in other projects and in reports of faults.

A reader of the official algorithm can ignore this module and its users, `varied_assignment`, `varied_loss`, `composed`
and `choices`: every default is the behaviour of the releases. Each choice replaces one step and leaves all others
unchanged, so that choices can be combined.
"""

from dataclasses import dataclass, fields, replace
from enum import Enum
from functools import cached_property
from typing import Any, TypeVar

from tal_reference.settings import Hyperparameters


class Overlap(Enum):
    """TAL-MET-1, LOSS-BOX-1: the overlap of two boxes."""

    CIOU = "ciou"
    IOU = "iou"
    GIOU = "giou"
    DIOU = "diou"
    V_SQUARED = "ciou v squared"
    """CIoU whose shape penalty is v squared, without the weight 1 / (1 - IoU + v)."""
    IOU_SQUARED = "iou squared"
    """The square of IoU, of PP-YOLO."""


class CentreRadius(Enum):
    """TAL-CAND-1: the distance from a ground truth's centre, in strides of the anchor, that a candidate is below.

    It is the larger of the distances along x and along y.
    """

    NONE = "none"
    """No limit: a candidate is inside the ground truth."""
    ONE_AND_A_HALF = "1.5"
    """1.5 strides, of FCOS."""
    TWO_AND_A_HALF = "2.5"
    """2.5 strides, of YOLOX."""


class Contested(Enum):
    """TAL-CONF-1: the ground truth that wins an anchor selected by several ground truths."""

    OVERLAP = "overlap"
    """The largest u of all ground truths."""
    ANY_OVERLAP = "any overlap"
    """The largest overlap of all ground truths, also where u is zero because the anchor is not a candidate."""
    CLAIMANTS = "claimants"
    """The largest u of the ground truths that selected the anchor."""
    METRIC = "metric"
    """The largest t of all ground truths."""
    CLAIMANTS_METRIC = "claimants metric"
    """The largest t of the ground truths that selected the anchor."""
    FIRST = "first"
    """The first ground truth that selected the anchor."""
    LAST = "last"
    """The last ground truth that selected the anchor."""


class DroppedPicks(Enum):
    """TAL-TOPK-1: the anchors that are not selected although they are among the k best."""

    NONE = "none"
    ZERO = "zero"
    """Anchors whose t is zero."""
    TINY = "tiny"
    """Anchors whose t is at most 1e-9."""


class Exponents(Enum):
    """TAL-MET-1: the exponents of score and overlap."""

    GIVEN = "given"
    BUILT_IN = "built in"
    """alpha = 0.5 and beta = 6, whatever the hyperparameters are."""
    ONE_AND_SIX = "one and six"
    """alpha = 1 and beta = 6, whatever the hyperparameters are."""
    EXCHANGED = "exchanged"
    """alpha is the exponent of the overlap, beta that of the score."""


class BuiltInK(Enum):
    """TAL-TOPK-1: the number k of anchors that a ground truth selects."""

    NO = "no"
    """k is that of the hyperparameters."""
    NINE = "9"
    """k is 9, the number of ATSS."""
    TEN = "10"
    """k is 10, the number of YOLOv8."""
    THIRTEEN = "13"
    """k is 13, the number of TOOD and YOLOv6."""

    def of(self, given: int) -> int:
        """Return k, where the hyperparameters say `given`."""
        return given if self is BuiltInK.NO else int(self.value)


class Gains(Enum):
    """LOSS-GAIN-1: the gains by which the three loss terms are multiplied."""

    GIVEN = "given"
    BUILT_IN = "built in"
    """7.5, 0.5 and 1.5 for box, cls and dfl, whatever the hyperparameters are."""
    EXCHANGED = "exchanged"
    """The gains of the box loss and the class loss are exchanged."""


class Rows(Enum):
    """ANN-1: the meaning of the last four numbers of an annotation row."""

    NORMALISED = "normalised"
    """Centre, width and height as shares of the input's size."""
    PIXELS = "pixels"
    """Centre, width and height in pixels."""
    CORNERS = "corners"
    """Left, top, right and bottom as shares of the input's size."""
    CONVERTED_TWICE = "converted twice"
    """Centre, width and height as shares, but their corners are taken for centre, width and height once more."""


class ScoreSum(Enum):
    """LOSS-SUM-1: the number N by which the terms are divided, before it is clamped from below."""

    BATCH = "batch"
    """The sum of all target scores."""
    PER_IMAGE = "per image"
    """The sum of all target scores divided by the number of images."""
    POSITIVES = "positives"
    """The number of positives."""


class ClassLoss(Enum):
    """LOSS-CLS-1: the class loss of the whole batch, before division by N."""

    SUM = "sum"
    """The sum of the cross-entropies of all anchors and classes."""
    MEAN = "mean"
    """The mean of the cross-entropies of all anchors and classes."""
    POSITIVES = "positives"
    """The sum over the positives only: background anchors have no class loss."""
    VARIFOCAL = "varifocal"
    """The sum, each cross-entropy weighted with its target score at the label of a positive, and else with 0.75 s^2,
    where s is the class score (Zhang et al., VarifocalNet, 2021)."""
    FOCAL = "focal"
    """The sum, each cross-entropy weighted with a (1 - p)^1.5, where p is the probability that the score gives to the
    target, and a is 0.25 for a target of 1 and 0.75 for a target of 0 (Lin et al., Focal Loss, 2017)."""
    QUALITY = "quality focal"
    """The sum, each cross-entropy weighted with the squared difference of target score and class score (Li et al.,
    Generalized Focal Loss, 2020)."""


class DflClamp(Enum):
    """LOSS-DFL-1: the range to which target distances are clamped; a bin beyond the ends counts as the end bin."""

    BELOW_LAST_BIN = "below last bin"
    """Clamped to 0 .. R - 1 - 0.01, so that both neighbouring bins exist."""
    BIN_LATER = "bin later"
    """Clamped to 0 .. R - 0.01: a distance may lie beyond the last bin."""
    NONE_BELOW = "none below"
    """Clamped from above to R - 1 - 0.01; negative distances stay negative."""
    NONE = "none"
    """Not clamped."""


class DistanceLoss(Enum):
    """LOSS-DFL-1: the loss of the distances of heads with several bins."""

    DFL = "dfl"
    """The distribution focal loss."""
    NOTHING = "nothing"
    """No loss: the third item is zero."""


Varied = TypeVar("Varied", bound="Variations")
"""The class of a dialect. The checker of types at run time does not accept `Self` in these dataclasses."""


@dataclass(frozen=True, kw_only=True)
class Variations:
    """The choices that no official release makes; the defaults are those of every release.

    Attributes:
        overlap: TAL-MET-1: the overlap u in the assignment.
        signed_overlap: TAL-MET-1: True if negative overlaps are not set to zero.
        every_row_counts: ANN-3: True if all ground truths count as real, whatever the sum of their corners is.
        edge_counts: TAL-CAND-1: True if an anchor on the edge of a ground truth is a candidate.
        centre_radius: TAL-CAND-1: distance from a ground truth's centre that a candidate inside it is below.
        reach_limits: TAL-CAND-1: True if an anchor with a side farther away than the bins reach is not a candidate.
        metric_masked: TAL-MET-1: True if the metric t is zero for non-candidates even if their u is not.
        dropped_picks: TAL-TOPK-1: anchors among the k best that are not selected.
        at_least_one: TAL-TOPK-1: True if a ground truth that selects no anchor takes the anchor with its largest t.
        built_in_k: TAL-TOPK-1: the k that is used whatever the hyperparameters say, if any.
        k_offset: TAL-TOPK-1: number added to k, -1 or 1 for an error by one; the sum is at least 1.
        k_cut: TAL-TOPK-2: True if k is cut to the number of anchors; otherwise a larger k raises.
        exponents: TAL-MET-1: exponents of score and overlap.
        contested: TAL-CONF-1: ground truth that wins a contested anchor.
        topk2_ignored: TAL-CONF-2: True if topk2 is accepted and has no effect.
        topk2_offset: TAL-CONF-2: number added to a topk2 that has an effect; the sum is at least 1.
        norm_before_conflict: TAL-NORM-1: True if t* and u* are the largest t and u of the selected pairs; otherwise
            of the positives.
        norm_eps: TAL-NORM-1: the number that keeps the quotient t / t* finite.
        norm_clamped: TAL-NORM-1: True if t* is clamped at `norm_eps`; otherwise `norm_eps` is added to it.
        norm_scaled: TAL-NORM-1: True if weights are multiplied by the largest overlap u*.
        widened_target: TAL-TGT-1: True if the target box is the widened ground truth.
        rows: ANN-1: meaning of the last four numbers of an annotation row.
        sides_exchanged: ANN-1: True if x is scaled by the input's height and y by its width.
        image_index_ignored: ANN-1: True if every image has the rows of all images.
        box_overlap: LOSS-BOX-1: the overlap in the box loss.
        score_sum: LOSS-SUM-1: the number N by which the terms are divided.
        class_loss: LOSS-CLS-1: the class loss of the whole batch.
        distance_loss: LOSS-DFL-1: the loss of the distances of heads with several bins.
        dfl_clamp: LOSS-DFL-1: range to which target distances are clamped.
        dfl_shares_exchanged: LOSS-DFL-1: True if the bin below a target distance gets the share of the bin above, and
            the bin above that of the bin below.
        gains: LOSS-GAIN-1: the gains of the terms.
        total_times_images: LOSS-GAIN-1: True if the sum of the items is multiplied by B before it is differentiated.
    """

    overlap: Overlap = Overlap.CIOU
    signed_overlap: bool = False
    every_row_counts: bool = False
    edge_counts: bool = False
    centre_radius: CentreRadius = CentreRadius.NONE
    reach_limits: bool = False
    metric_masked: bool = False
    dropped_picks: DroppedPicks = DroppedPicks.NONE
    at_least_one: bool = False
    built_in_k: BuiltInK = BuiltInK.NO
    k_offset: int = 0
    k_cut: bool = False
    exponents: Exponents = Exponents.GIVEN
    contested: Contested = Contested.OVERLAP
    topk2_ignored: bool = False
    topk2_offset: int = 0
    norm_before_conflict: bool = False
    norm_eps: float = 1e-9
    norm_clamped: bool = False
    norm_scaled: bool = True
    widened_target: bool = False
    rows: Rows = Rows.NORMALISED
    sides_exchanged: bool = False
    image_index_ignored: bool = False
    box_overlap: Overlap = Overlap.CIOU
    score_sum: ScoreSum = ScoreSum.BATCH
    class_loss: ClassLoss = ClassLoss.SUM
    distance_loss: DistanceLoss = DistanceLoss.DFL
    dfl_clamp: DflClamp = DflClamp.BELOW_LAST_BIN
    dfl_shares_exchanged: bool = False
    gains: Gains = Gains.GIVEN
    total_times_images: bool = True

    def but(self: Varied, **choices: Any) -> Varied:
        """Return a copy with some choices changed. Its name lists them: "ultralytics-8.4.190, overlap=iou".

        Args:
            choices: new values of fields of `Dialect`, by name.

        Raises:
            TypeError: a field or the type of its value is unknown.
        """
        name = ", ".join([vars(self)["name"], *(spelt(field, value) for field, value in choices.items())])
        for field, value in choices.items():
            known = getattr(self, field, None)
            if field == "name" or known is None or not isinstance(value, type(known)):
                expected = "a choice of a dialect" if known is None else f"a value of {type(known).__name__}"
                raise TypeError(f"{field}={value!r}: expected {expected}")
        return replace(self, **({"name": name} | choices))

    @cached_property
    def varied(self) -> set[str]:
        """Names of the fields of `Variations` whose value is not that of the releases."""
        return {field.name for field in fields(Variations) if getattr(self, field.name) != field.default}

    @property
    def is_varied(self) -> bool:
        """True if a field of `Variations` has a value other than that of the releases."""
        return bool(self.varied)

    def effective(self, hyperparameters: Hyperparameters, anchors: int) -> Hyperparameters:
        """Return the hyperparameters that this dialect uses instead of the given ones, for `anchors` anchors."""
        given, default = hyperparameters, Hyperparameters()
        changes: dict[str, Any] = {}
        match self.exponents:
            case Exponents.BUILT_IN:
                changes |= {"alpha": default.alpha, "beta": default.beta}
            case Exponents.ONE_AND_SIX:
                changes |= {"alpha": 1.0, "beta": 6.0}
            case Exponents.EXCHANGED:
                changes |= {"alpha": given.beta, "beta": given.alpha}
        match self.gains:
            case Gains.BUILT_IN:
                changes |= {name: getattr(default, name) for name in ("box_gain", "cls_gain", "dfl_gain")}
            case Gains.EXCHANGED:
                changes |= {"box_gain": given.cls_gain, "cls_gain": given.box_gain}
        topk = max(1, self.built_in_k.of(given.topk) + self.k_offset)
        if topk != given.topk or self.k_cut:
            changes["topk"] = min(topk, anchors) if self.k_cut else topk
        topk2 = None if self.topk2_ignored else given.effective_topk2
        if topk2 is not None and self.topk2_offset:
            topk2 = max(1, topk2 + self.topk2_offset)
        if self.topk2_ignored or topk2 != given.effective_topk2 or topk != given.topk:
            changes["topk2"] = topk2  # explicit: a topk2 without effect must stay so with another k
        return replace(given, **changes)

    @property
    def settled(self: Varied) -> Varied:
        """The same dialect without the choices that `effective` has already applied to the hyperparameters."""
        return replace(
            self, exponents=Exponents.GIVEN, gains=Gains.GIVEN, built_in_k=BuiltInK.NO, k_offset=0, k_cut=False,
            topk2_ignored=False, topk2_offset=0,
        )  # fmt: skip


def spelt(field: str, value: Any) -> str:
    """Return the notation of a choice for `Dialect.but` and the command line: "overlap=iou", "edge_counts=yes"."""
    if isinstance(value, bool):
        return f"{field}={'yes' if value else 'no'}"
    return f"{field}={value.value if isinstance(value, Enum) else value}"
