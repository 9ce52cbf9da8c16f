"""Dialects: the choices on which implementations and releases differ, by name (specification section 8)."""

from dataclasses import dataclass
from enum import Enum


class SmallBoxFloor(Enum):
    """TAL-CAND-2: which sides of a ground truth are widened before anchors are sought inside it, and to what."""

    NONE = "none"
    """No side is widened."""
    BELOW_FIRST_STRIDE = "below first stride"
    """A side shorter than the first level's stride is widened to the second level's stride."""
    BELOW_SECOND_STRIDE = "below second stride"
    """A side shorter than the second level's stride is widened to it."""


@dataclass(frozen=True)
class Dialect:
    """The named choices of one implementation, or of a range of releases.

    Attributes:
        name: how reports call it.
        small_box_floor: TAL-CAND-2. A head with one level has no second stride: its only stride stands in.
    """

    name: str
    small_box_floor: SmallBoxFloor = SmallBoxFloor.BELOW_SECOND_STRIDE

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

ARTICLE = Dialect("article", small_box_floor=SmallBoxFloor.NONE)
"""What the article's own algorithm computes: it was written before official code widened small boxes."""

DIALECTS = {dialect.name: dialect for dialect in (NEWEST, ARTICLE)}
"""Every dialect by name."""
