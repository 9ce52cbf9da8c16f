"""Dialects: the choices on which implementations and releases differ, by name (specification section 8)."""

from dataclasses import dataclass, replace
from enum import Enum

from tal_reference.variations import Variations


class SmallBoxFloor(Enum):
    """TAL-CAND-2: the sides of ground truths that are widened before candidates are chosen, and their new length."""

    NONE = "none"
    """No side is widened."""
    TO_FIRST_STRIDE = "to first stride"
    """A side shorter than the first level's stride is widened to it; no release does so."""
    BELOW_FIRST_STRIDE = "below first stride"
    """A side shorter than the first level's stride is widened to the second level's stride."""
    BELOW_SECOND_STRIDE = "below second stride"
    """A side shorter than the second level's stride is widened to it."""


class OverlapsCompared(Enum):
    """TAL-CONF-1, TAL-NORM-1: the (ground truth, anchor) pairs whose overlap and metric are computed; others have 0."""

    CANDIDATES = "candidates"
    """Candidates only: a ground truth cannot win an anchor whose centre lies outside it."""
    EVERYWHERE = "everywhere"
    """All pairs: a ground truth, real or not, may win a contested anchor that lies outside it."""


class SingleBin(Enum):
    """LOSS-DFL-1: the replacement of the distribution focal loss if the head has a single bin (R = 1)."""

    L1 = "L1"
    """The absolute error of the distances, as shares of the input's size."""
    NOTHING = "nothing"
    """No replacement: the third loss item is zero."""


class WeightBroadcast(Enum):
    """LOSS-BOX-1, LOSS-DFL-1: the box and DFL losses that are multiplied by the weight of a positive."""

    PER_POSITIVE = "own"
    """The loss of the same positive."""
    ALL_PAIRS = "all"
    """The losses of all positives: a defect, because weights (P, 1) and losses (P,) broadcast to (P, P)."""


@dataclass(frozen=True)
class Dialect(Variations):
    """The named choices of one implementation, or of a range of releases. The defaults are the newest release's.

    The attributes below are choices in which releases differ. The choices in which only other projects differ are
    inherited from `Variations`, which a reader of the official algorithm can ignore.

    Attributes:
        name: the name in reports.
        small_box_floor: TAL-CAND-2: how small boxes are widened. In a head with one level, its only stride counts as
            the second.
        one_level: TAL-CAND-2: True if heads with one level are supported; otherwise batches with ground truths raise.
        overlaps_compared: TAL-CONF-1, TAL-NORM-1: pairs whose overlap u and alignment metric t are computed.
        topk2: TAL-CONF-2: True if `Hyperparameters.topk2` is supported.
        score_sum_floor: LOSS-SUM-1: lower bound of N, the sum of target scores; 0: no bound, so that N may be 0.
        weights_meet: LOSS-BOX-1, LOSS-DFL-1: the losses that are multiplied by a positive's weight.
        single_bin: LOSS-DFL-1: replacement of the distribution focal loss where R = 1.
        rows_sorted: ANN-1: True if annotation rows must be sorted by image; results for other orders are undefined.
        weighted_branches: E2E-3: True if an end-to-end loss weights its two branches and logs the items of one2one;
            False if it adds the branches and their items, and one2one selects one anchor (YOLOv10 before 8.4.0).
        turned_distances: OBB-DFL-1: True if target distances are measured along the axes of the rotated box; False if
            along those of the image, as if the box were not turned.
        angle_term: OBB-ANG-1: True if the loss has an angle term; otherwise its item is zero.
        box_variance: OBB-BOX-1: variance F that the box loss adds along both axes of both boxes, in squared grid units.
        widened_truths: OBB-CAND-1: True if a rotated ground truth with a side below the floor of TAL-CAND-2 becomes the
            widened box itself, in overlap, targets and losses.
        filter_exchanged: OBB-ANN-2: True if boxes are dropped by w times the input's height and h times its width.
    """

    name: str
    small_box_floor: SmallBoxFloor = SmallBoxFloor.BELOW_SECOND_STRIDE
    one_level: bool = True
    overlaps_compared: OverlapsCompared = OverlapsCompared.CANDIDATES
    topk2: bool = True
    score_sum_floor: float = 1.0
    weights_meet: WeightBroadcast = WeightBroadcast.PER_POSITIVE
    single_bin: SingleBin = SingleBin.L1
    rows_sorted: bool = True
    weighted_branches: bool = True
    turned_distances: bool = True
    angle_term: bool = True
    box_variance: float = 0.01
    widened_truths: bool = False
    filter_exchanged: bool = False

    def floor(self, strides: tuple[int, ...]) -> tuple[int, int]:
        """Return two lengths in pixels: sides shorter than the first are widened to the second (TAL-CAND-2)."""
        first, second = strides[0], strides[min(1, len(strides) - 1)]
        match self.small_box_floor:
            case SmallBoxFloor.NONE:
                return 0, 0
            case SmallBoxFloor.TO_FIRST_STRIDE:
                return first, first
            case SmallBoxFloor.BELOW_FIRST_STRIDE:
                return first, second
            case SmallBoxFloor.BELOW_SECOND_STRIDE:
                return second, second


NEWEST = Dialect("ultralytics-8.4.190")
"""Ultralytics 8.4.128 to 8.4.190, the newest release when this was written."""

ARTICLE = Dialect("article", small_box_floor=SmallBoxFloor.NONE, rows_sorted=False)
"""The article's own algorithm, which was written before official code widened small boxes."""

LOWER_FLOOR = replace(NEWEST, name="ultralytics-8.4.127", small_box_floor=SmallBoxFloor.BELOW_FIRST_STRIDE)
"""Ultralytics 8.4.25 to 8.4.127: a lower threshold for widening small boxes."""

ANY_ORDER = replace(LOWER_FLOOR, name="ultralytics-8.4.24", rows_sorted=False)
"""Ultralytics 8.4.8 to 8.4.24: annotation rows in any order."""

MANY_LEVELS = replace(ANY_ORDER, name="ultralytics-8.4.7", one_level=False)
"""Ultralytics 8.4.0 to 8.4.7: heads need at least two levels."""

NO_FLOOR = replace(
    ANY_ORDER, name="ultralytics-8.3.253", small_box_floor=SmallBoxFloor.NONE, topk2=False, single_bin=SingleBin.NOTHING
)
"""Ultralytics 8.0.52 to 8.3.253, except 8.0.100: no small box is widened. YOLOv8 was trained with it."""

ALL_WEIGHTS = replace(NO_FLOOR, name="ultralytics-8.0.100", weights_meet=WeightBroadcast.ALL_PAIRS)
"""Ultralytics 8.0.100, with its broken box loss and distribution focal loss."""

EVERYWHERE = replace(NO_FLOOR, name="ultralytics-8.0.51", overlaps_compared=OverlapsCompared.EVERYWHERE)
"""Ultralytics 8.0.35 to 8.0.51: overlaps are computed everywhere, not only for candidates."""

FIRST = replace(EVERYWHERE, name="ultralytics-8.0.6", score_sum_floor=0.0)
"""Ultralytics 8.0.0 to 8.0.6, the first releases: N has no lower bound."""

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        NEWEST, LOWER_FLOOR, ANY_ORDER, MANY_LEVELS, NO_FLOOR, ALL_WEIGHTS, EVERYWHERE, FIRST, ARTICLE
    )
}
"""Every dialect by name, the newest first."""

ADDED_BRANCHES = replace(NO_FLOOR, weighted_branches=False)
"""End-to-end heads in Ultralytics 8.2.38 to 8.3.253: YOLOv10, whose loss adds its two branches."""

TURNED_TRUTHS_WIDENED = replace(LOWER_FLOOR, name="ultralytics-8.4.83", box_variance=0.0, widened_truths=True)
"""Rotated boxes in Ultralytics 8.4.80 to 8.4.83: small ground truths are replaced by widened ones, once more."""

TURNED_NO_VARIANCE = replace(TURNED_TRUTHS_WIDENED, name="ultralytics-8.4.79", widened_truths=False)
"""Rotated boxes in Ultralytics 8.4.39 to 8.4.79: ground truths are as annotated; no variance in the box loss."""

TURNED_SORTED = replace(TURNED_TRUTHS_WIDENED, name="ultralytics-8.4.38")
"""Rotated boxes in Ultralytics 8.4.25 to 8.4.38: small ground truths are replaced by widened ones."""

TURNED_ANY_ORDER = replace(TURNED_SORTED, name=ANY_ORDER.name, rows_sorted=False)
"""Rotated boxes in Ultralytics 8.4.8 to 8.4.24: as in 8.4.38, annotation rows in any order."""

TURNED_NO_FLOOR = replace(
    TURNED_NO_VARIANCE, name=MANY_LEVELS.name, small_box_floor=SmallBoxFloor.NONE, rows_sorted=False
)
"""Rotated boxes in Ultralytics 8.4.0 to 8.4.7: no small box is widened."""

TURNED_UPRIGHT_DISTANCES = replace(NO_FLOOR, box_variance=0.0, turned_distances=False, angle_term=False)
"""Rotated boxes in Ultralytics 8.3.242 to 8.3.253: no angle loss, and distances as if boxes were not turned."""

TURNED_FIRST = replace(TURNED_UPRIGHT_DISTANCES, name="ultralytics-8.3.241", filter_exchanged=True)
"""Rotated boxes in Ultralytics 8.0.235 to 8.3.241: the filter of tiny boxes exchanges width and height."""

OFFICIAL = (
    *DIALECTS.values(),
    ADDED_BRANCHES,
    TURNED_TRUTHS_WIDENED,
    TURNED_NO_VARIANCE,
    TURNED_SORTED,
    TURNED_ANY_ORDER,
    TURNED_NO_FLOOR,
    TURNED_UPRIGHT_DISTANCES,
    TURNED_FIRST,
)
"""All dialects, newest first: those of detection, then those of other tasks alone. Two may have the same name."""
