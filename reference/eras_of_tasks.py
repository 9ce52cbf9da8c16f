"""Eras of every task, and the dialect of the same releases for another task (specification of families, section 17).

The losses of other tasks than detection changed with other releases. A dialect is named by the last release of its era,
so that dialects of several tasks may have one name: that of detection in 8.4.7 widens small boxes, that of rotated
boxes does not.
"""

import re

from tal_reference.choice import DETECT, END_TO_END, ROTATED
from tal_reference.choices import choices_of, differences, stated_choices
from tal_reference.dialect import (
    ADDED_BRANCHES,
    DIALECTS,
    LOWER_FLOOR,
    NEWEST,
    OFFICIAL,
    TURNED_ANY_ORDER,
    TURNED_FIRST,
    TURNED_NO_FLOOR,
    TURNED_NO_VARIANCE,
    TURNED_SORTED,
    TURNED_TRUTHS_WIDENED,
    TURNED_UPRIGHT_DISTANCES,
    Dialect,
)  # fmt: skip
from tal_reference.eras import ERAS, Era, Version

POSE, SEGMENT, POSE26, SEGMENT26 = "pose", "segment", "pose26", "segment26"

END_TO_END_ERAS = (
    Era((8, 2, 38), ADDED_BRANCHES, "", "the first release with YOLOv10"),
    Era(
        (8, 4, 0), ERAS[-4].dialect, "E2E-3",
        "branches are weighted, one2one selects 7 anchors and keeps 1; what changed for detection",
    ),
    *ERAS[-3:],
)
"""Eras of heads with two branches. Their changes after 8.4.0 are those of detection."""

ROTATED_ERAS = (
    Era((8, 0, 235), TURNED_FIRST, "", "the first release with rotated boxes"),
    Era((8, 3, 242), TURNED_UPRIGHT_DISTANCES, "OBB-ANN-2", "tiny boxes are dropped by their own width and height"),
    Era(
        (8, 4, 0), TURNED_NO_FLOOR, "OBB-DFL-1",
        "distances along the box's own axes; an angle loss; topk2; L1 where R = 1",
    ),
    Era(
        (8, 4, 8), TURNED_ANY_ORDER, "OBB-CAND-1",
        "a side below the first stride is widened to the second, and the ground truth is replaced by that box",
    ),
    Era((8, 4, 25), TURNED_SORTED, "ANN-1", "annotation rows must come sorted by image"),
    Era((8, 4, 39), TURNED_NO_VARIANCE, "OBB-CAND-1", "candidates alone are those of the widened box"),
    Era((8, 4, 80), TURNED_TRUTHS_WIDENED, "OBB-CAND-1", "ground truths are replaced by widened ones again"),
    Era(
        (8, 4, 84), LOWER_FLOOR, "OBB-BOX-1",
        "candidates alone are those of the widened box; the box loss adds a variance",
    ),
    Era((8, 4, 128), NEWEST, "TAL-CAND-2", "a side below the second stride is widened to it"),
)
"""Eras of rotated boxes."""

ERAS_BY_TASK: dict[str, tuple[Era, ...]] = {
    DETECT: ERAS,
    END_TO_END: END_TO_END_ERAS,
    ROTATED: ROTATED_ERAS,
    POSE: (Era((8, 4, 141), NEWEST, "", "the first release whose poses are specified"),),
    SEGMENT: (
        Era((8, 4, 83), LOWER_FLOOR, "", "the first release whose masks are specified"),
        Era((8, 4, 128), NEWEST, "TAL-CAND-2", "a side below the second stride is widened to it"),
    ),
    POSE26: (Era((8, 4, 187), NEWEST, "", "the first release that assigns poses by OKS alone"),),
    SEGMENT26: (Era((8, 4, 190), NEWEST, "", "the first release whose masks take part in the assignment"),),
}
"""Eras of every task, from the oldest to the newest."""
RELEASE = re.compile(r"ultralytics-(\d+)\.(\d+)\.(\d+)\b")
ANY_DIALECT = DETECT, END_TO_END
"""Tasks that follow dialects which are not of a release, such as that of the article."""


def dialect_in(release: Version, task: str) -> Dialect | None:
    """Return a release's dialect of a task; None if the release is older than the task's first era."""
    eras = [era for era in ERAS_BY_TASK[task] if era.first <= release]
    return eras[-1].dialect if eras else None


def dialects_of(task: str) -> dict[str, Dialect]:
    """Return the dialects of a task by name, the newest first; of detection also that of the article."""
    if task == DETECT:
        return DIALECTS
    return {era.dialect.name: era.dialect for era in reversed(ERAS_BY_TASK[task])}


def for_task(dialect: Dialect, task: str) -> Dialect | None:
    """Return the dialect of the same releases, with the same changed choices, for a task.

    Args:
        dialect: a dialect of any task.
        task: key of `ERAS_BY_TASK`.

    Returns:
        The dialect; None if the reference of the task does not follow it: no release of its era has the task, or the
        dialect has choices that the task's reference does not follow.
    """
    if dialect in dialects_of(task).values():
        return dialect
    own = _official(dialect)
    if own is None:
        return dialect if task in ANY_DIALECT else None
    official, followed = dialect_in(_release(own), task), choices_of(task)
    stated = stated_choices(dialect)
    wanted = differences(dialect, own) if stated is None else stated
    if official is None or any(name not in followed and getattr(own, name) != wanted[name] for name in wanted):
        return None
    own_choices = {name: wanted[name] for name in followed if name in wanted}
    changed = {name: value for name, value in own_choices.items() if value != getattr(official, name)}
    return official.but(**changed) if changed else official


def _official(dialect: Dialect) -> Dialect | None:
    """Return the official dialect after whose release a dialect is named; of several, the nearest; None without one."""
    named = RELEASE.match(dialect.name)
    known = [base for base in OFFICIAL if named and base.name == named[0]]
    return min(known, key=lambda base: len(differences(dialect, base)), default=None)


def _release(official: Dialect) -> Version:
    """Return the release after which an official dialect is named."""
    named = RELEASE.match(official.name)
    assert named is not None
    major, minor, patch = map(int, named.groups())
    return major, minor, patch
