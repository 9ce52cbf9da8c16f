"""The changes of a dialect's choices that a search tries.

A dialect is the complete behaviour of an implementation, such as a release of Ultralytics. A choice is one property of
a dialect, such as CIoU instead of IoU as the overlap. A move is a change of one or a few choices.
"""

from dataclasses import fields
from enum import Enum
from typing import Any

from tal_conformance.core.task import DETECT
from tal_reference import Dialect
from tal_reference.choices import NORM_EPS, choices_of
from tal_reference.dialect import OverlapsCompared, SmallBoxFloor
from tal_reference.variations import Contested

Move = dict[str, Any]
"""New values of some choices of a dialect, by name of the choice."""

_FIELDS = {field.name: field.default for field in fields(Dialect)}
_NUMBERS: dict[str, tuple[float, ...]] = {
    "norm_eps": NORM_EPS,
    "k_offset": (0, -1, 1),
    "topk2_offset": (0, 1),
    "box_variance": (0.0, 0.01),
}
"""Values that are tried for choices that are numbers, where they are not 0 and 1."""
_EVERYWHERE: Move = {"overlaps_compared": OverlapsCompared.EVERYWHERE, "contested": Contested.OVERLAP}
JOINT: tuple[Move, ...] = (
    _EVERYWHERE | {"metric_masked": True},
    _EVERYWHERE | {"contested": Contested.CLAIMANTS},
    _EVERYWHERE | {"contested": Contested.CLAIMANTS, "metric_masked": True},
    _EVERYWHERE | {"contested": Contested.CLAIMANTS, "at_least_one": True},
    _EVERYWHERE | {"at_least_one": True},
    {"small_box_floor": SmallBoxFloor.BELOW_FIRST_STRIDE, "widened_truths": True},
)
"""Changes of several choices that are tried as one: `metric_masked` and `at_least_one` have no effect unless overlaps
are computed off candidates too, and this change alone may explain fewer batches than before."""


def values_of(name: str) -> list[Any]:
    """Return the values that the search tries for the choice `name`, a field of `Dialect`."""
    default = _FIELDS[name]
    if isinstance(default, bool):
        return [False, True]
    if isinstance(default, Enum):
        return list(type(default))
    return list(_NUMBERS.get(name, (0.0, 1.0)))


def moves_from(dialect: Dialect, task: str = DETECT.name) -> list[Move]:
    """Return every possible change of one choice of a task to another value, in the order of the stages."""
    return [
        {name: value}
        for name in choices_of(task)
        if name != "rows_sorted"
        for value in values_of(name)
        if value != getattr(dialect, name)
    ]


def joint_moves(dialect: Dialect, task: str = DETECT.name) -> list[Move]:
    """Return the changes of `JOINT` that change several choices of a dialect, in a task that follows them."""
    followed = [move for move in JOINT if move.keys() <= set(choices_of(task))]
    changes = [{k: v for k, v in move.items() if getattr(dialect, k) != v} for move in followed]
    return [move for move in changes if len(move) > 1]
