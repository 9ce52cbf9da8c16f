"""Eras: ranges of Ultralytics releases that follow the same dialect (specification section 8).

The first release of each era was found by running neighbouring releases.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from tal_reference.dialect import (
    ALL_WEIGHTS,
    ANY_ORDER,
    EVERYWHERE,
    FIRST,
    LOWER_FLOOR,
    MANY_LEVELS,
    NEWEST,
    NO_FLOOR,
    Dialect,
)  # fmt: skip

Version = tuple[int, int, int]


@dataclass(frozen=True)
class Era:
    """A range of releases with the same dialect.

    Attributes:
        first: first release of the era, which ends where the next era begins.
        dialect: dialect of its releases.
        clause: clause of the specification in which the era differs from the previous era; "" for the first era.
        change: description of the difference from the previous era.
    """

    first: Version
    dialect: Dialect
    clause: str
    change: str

    @property
    def begins(self) -> str:
        """The first release as text, such as "8.4.0"."""
        return ".".join(map(str, self.first))


ERAS = (
    Era((8, 0, 0), FIRST, "", "the first releases"),
    Era(
        (8, 0, 35), EVERYWHERE, "LOSS-SUM-1",
        "N is at least 1: a batch without ground truths has a finite loss",
    ),
    Era(
        (8, 0, 52), NO_FLOOR, "TAL-CONF-1",
        "u and t are zero off candidates",
    ),
    Era(
        (8, 0, 100), ALL_WEIGHTS, "LOSS-BOX-1",
        "box and distance loss of every positive are weighted with the sum of all weights",
    ),
    Era(
        (8, 0, 101), NO_FLOOR, "LOSS-BOX-1",
        "each positive has its own weight again",
    ),
    Era(
        (8, 4, 0), MANY_LEVELS, "TAL-CAND-2",
        "a side below the first stride is widened to the second; topk2; L1 where R = 1; one level raises",
    ),
    Era(
        (8, 4, 8), ANY_ORDER, "TAL-CAND-2",
        "a head with one level is accepted: its stride is the floor",
    ),
    Era(
        (8, 4, 25), LOWER_FLOOR, "ANN-1",
        "annotation rows must come sorted by image",
    ),
    Era(
        (8, 4, 128), NEWEST, "TAL-CAND-2",
        "a side below the second stride is widened to it",
    ),
)
"""Every era, from the oldest to the newest."""


def era_of(release: Version, eras: Sequence[Era] = ERAS) -> Era:
    """Return the era of a release; a release newer than all known ones belongs to the newest era.

    Args:
        release: numbers of the release.
        eras: eras of a task, from the oldest to the newest; by default those of detection.

    Raises:
        LookupError: the release is older than the first era.
    """
    known = [era for era in eras if era.first <= release]
    if not known:
        text = ".".join(map(str, release))
        raise LookupError(f"{text} is older than the first release with this loss, {eras[0].begins}")
    return known[-1]


def dialect_of(release: Version) -> Dialect:
    """Return the dialect of a release.

    Raises:
        LookupError: the release is older than the first era.
    """
    return era_of(release).dialect
