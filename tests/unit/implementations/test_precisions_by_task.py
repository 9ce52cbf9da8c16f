"""Precisions of single tasks, which an adapter declares in `precisions_by_task`."""

from typing import Any

import pytest

from tal_conformance.core.task import DETECT, OBB, SEGMENT26
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import EVERY, ProtocolViolation, implementation_from
from tal_conformance.implementations.registry import find


class OfTwoTasks(ReferenceAdapter):
    """The reference of two tasks, with a declaration of their precisions."""

    tasks = (DETECT.name, OBB.name)

    def __init__(self, precisions_by_task: Any) -> None:
        super().__init__()
        self.precisions_by_task = precisions_by_task


def test_a_task_has_its_own_precisions():
    """A task that is not in the dictionary has those of `precisions`."""
    implementation = implementation_from(OfTwoTasks({OBB.name: ("float64",)}), "two")
    assert implementation.of_task(OBB.name).precisions == ("float64",)
    assert implementation.of_task(DETECT.name).precisions == EVERY


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (("float64",), r"declares precisions_by_task = \('float64',\): expected a dictionary"),
        ({"poses": ("float64",)}, "unknown task 'poses'"),
        ({OBB.name: ("float46",)}, "task obb, precisions: unknown precision 'float46'"),
        ({OBB.name: "float64"}, "expected a tuple of names"),
    ],
)
def test_a_wrong_declaration_is_refused(value: Any, message: str):
    """A declaration that is not a dictionary of declared tasks and known precisions raises `ProtocolViolation`."""
    with pytest.raises(ProtocolViolation, match=message):
        implementation_from(OfTwoTasks(value), "two")


def test_official_masks_that_assign_are_not_tested_in_float64():
    """The release raises there; all its other precisions are tested."""
    pytest.importorskip("ultralytics.utils.loss")
    implementation = find("ultralytics")
    assert set(EVERY) - set(implementation.of_task(SEGMENT26.name).precisions) == {"float64"}
    assert implementation.of_task(DETECT.name).precisions == EVERY
