"""Dialects: the choices on which implementations and releases differ, by name (specification section 8)."""

from dataclasses import dataclass, replace
from enum import Enum


class SmallBoxFloor(Enum):
    """TAL-CAND-2: which sides of a ground truth are widened before anchors are sought inside it, and to what."""

    NONE = "none"
    """No side is widened."""
    BELOW_FIRST_STRIDE = "below first stride"
    """A side shorter than the first level's stride is widened to the second level's stride."""
    BELOW_SECOND_STRIDE = "below second stride"
    """A side shorter than the second level's stride is widened to it."""


class OverlapsCompared(Enum):
    """TAL-CONF-1, TAL-NORM-1: on which pairs of ground truth and anchor u and t are more than zero."""

    CANDIDATES = "candidates"
    """Only on candidate pairs: a ground truth cannot win an anchor whose centre it does not hold."""
    EVERYWHERE = "everywhere"
    """On all pairs: a ground truth, real or not, may win a contested anchor that lies outside it."""


class SingleBin(Enum):
    """LOSS-DFL-1 where R = 1: what stands in the place of the distribution focal loss."""

    L1 = "L1"
    """The absolute error of the distances, as shares of the input's size."""
    NOTHING = "nothing"
    """Nothing: that part of the loss is zero."""


class WeightBroadcast(Enum):
    """LOSS-BOX-1, LOSS-DFL-1: which positives' losses a positive's weight is multiplied with."""

    PER_POSITIVE = "own"
    """Its own."""
    ALL = "all"
    """Every positive's, and all products are summed: a defect, (P, 1) weights meet (P,) losses."""


@dataclass(frozen=True)
class Dialect:
    """The named choices of one implementation, or of a range of releases. The defaults are the newest release's.

    Attributes:
        name: how reports call it.
        small_box_floor: TAL-CAND-2. A head with one level has no second stride: its only stride stands in.
        one_level: TAL-CAND-2: a head with one level is accepted; where not, a batch with ground truths is an error.
        overlaps_compared: TAL-CONF-1, TAL-NORM-1.
        topk2: TAL-CONF-2: ground truths can be made to keep fewer anchors than they took.
        score_sum_floor: LOSS-SUM-1: N is at least this; 0: N is the sum itself, which may be zero.
        weights_meet: LOSS-BOX-1, LOSS-DFL-1.
        single_bin: LOSS-DFL-1 where R = 1.
        rows_sorted: ANN-1: annotation rows must come sorted by image; where they do not, anything may happen.
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

    def floor(self, strides: tuple[int, ...]) -> tuple[int, int]:
        """Sides shorter than the first number are widened to the second, both in pixels (TAL-CAND-2)."""
        first, second = strides[0], strides[min(1, len(strides) - 1)]
        match self.small_box_floor:
            case SmallBoxFloor.NONE:
                return 0, 0
            case SmallBoxFloor.BELOW_FIRST_STRIDE:
                return first, second
            case SmallBoxFloor.BELOW_SECOND_STRIDE:
                return second, second


NEWEST = Dialect("ultralytics-8.4.190")
"""What Ultralytics 8.4.128 to 8.4.190, the newest when this was written, compute."""

ARTICLE = Dialect("article", small_box_floor=SmallBoxFloor.NONE, rows_sorted=False)
"""What the article's own algorithm computes: it was written before official code widened small boxes."""

LOWER_FLOOR = replace(NEWEST, name="ultralytics-8.4.127", small_box_floor=SmallBoxFloor.BELOW_FIRST_STRIDE)
"""8.4.25 to 8.4.127."""

ANY_ORDER = replace(LOWER_FLOOR, name="ultralytics-8.4.24", rows_sorted=False)
"""8.4.8 to 8.4.24."""

MANY_LEVELS = replace(ANY_ORDER, name="ultralytics-8.4.7", one_level=False)
"""8.4.0 to 8.4.7."""

NO_FLOOR = replace(
    ANY_ORDER, name="ultralytics-8.3.253", small_box_floor=SmallBoxFloor.NONE, topk2=False, single_bin=SingleBin.NOTHING
)
"""8.0.52 to 8.3.253, but for 8.0.100: what YOLOv8 was trained with for three years."""

ALL_WEIGHTS = replace(NO_FLOOR, name="ultralytics-8.0.100", weights_meet=WeightBroadcast.ALL)
"""The broken box and distribution focal loss of 8.0.100."""

EVERYWHERE = replace(NO_FLOOR, name="ultralytics-8.0.51", overlaps_compared=OverlapsCompared.EVERYWHERE)
"""8.0.35 to 8.0.51."""

FIRST = replace(EVERYWHERE, name="ultralytics-8.0.6", score_sum_floor=0.0)
"""8.0.0 to 8.0.6, the first releases."""

DIALECTS = {
    dialect.name: dialect
    for dialect in (
        NEWEST, LOWER_FLOOR, ANY_ORDER, MANY_LEVELS, NO_FLOOR, ALL_WEIGHTS, EVERYWHERE, FIRST, ARTICLE
    )
}
"""Every dialect by name, the newest first."""
