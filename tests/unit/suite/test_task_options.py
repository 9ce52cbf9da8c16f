"""The tasks that a run tests: one row of the results for each, and lines about everything that it does not test."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tal_conformance.core.task import DETECT, OBB
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.suite.loading import divide_by_task, find_implementations
from tal_conformance.suite.run_log import run_line_fields
from tal_conformance.suite.session import note_other_checks
from tal_reference import DIALECTS, parse


def offering(*tasks: str, dialect: str = "ultralytics-8.4.190") -> Implementation:
    """Return the reference as an implementation that offers the given tasks and declares a dialect."""
    return replace(find("reference"), tasks=tasks, dialect=parse(dialect))


@pytest.mark.parametrize(
    ("option", "offers", "rows"),
    [
        (None, ["detect", "obb"], [("reference", "detect"), ("reference (obb)", "obb")]),
        (None, ["obb"], [("reference", "obb")]),
        (None, ["obb", "detect"], [("reference", "obb"), ("reference (detect)", "detect")]),
        ("obb", ["detect", "obb"], [("reference (obb)", "obb")]),
        ("detect", ["detect"], [("reference", "detect")]),
    ],
)
def test_every_task_has_a_row(option: str | None, offers: list[str], rows: list[tuple[str, str]]):
    divided, untested = divide_by_task([offering(*offers)], option)
    assert [(row.name, row.task) for row in divided] == rows
    assert all(len(row.tasks) == 1 for row in divided)
    assert not untested


def test_implementations_are_divided_one_after_the_other():
    divided, _ = divide_by_task([offering("detect", "obb"), replace(offering("obb"), name="mine")], None)
    assert [row.name for row in divided] == ["reference", "reference (obb)", "mine"]


OTHER_DIALECTS = ["ultralytics-8.0.100", "ultralytics-8.4.190, overlap=iou"]


@pytest.mark.parametrize("dialect", OTHER_DIALECTS)
def test_a_chosen_task_without_specified_dialect_is_a_usage_error(dialect: str):
    with pytest.raises(
        pytest.UsageError, match=r"task obb: it is judged by the dialect '.*', expected one of"
    ):
        divide_by_task([offering("detect", "obb", dialect=dialect)], "obb")


@pytest.mark.parametrize("dialect", OTHER_DIALECTS)
def test_a_task_without_specified_dialect_is_not_tested_beside_others(dialect: str):
    divided, untested = divide_by_task([offering("detect", "obb", dialect=dialect)], None)
    assert [row.task for row in divided] == ["detect"]
    (reason,) = untested
    assert reason.startswith("reference: task obb: it is judged by the dialect")


def test_a_task_that_an_implementation_lacks_is_a_usage_error(tmp_path: Path):
    adapter = tmp_path / "adapter.py"
    adapter.write_text(
        "from tal_conformance.implementations.adapters.reference import ReferenceAdapter\n"
        "class Mine(ReferenceAdapter):\n    tasks = ('detect',)\n"
    )
    with pytest.raises(pytest.UsageError, match=r"--task obb: .*Mine declares only detect; add 'obb'"):
        find_implementations([f"{adapter}:Mine"], task="obb")


def test_every_dialect_is_accepted_for_detection():
    for name in DIALECTS:
        divided, _ = divide_by_task([offering("detect", "obb", dialect=name)], "detect")
        assert [row.task for row in divided] == ["detect"]


def test_the_run_line_has_stages_and_terms_of_all_tasks():
    alone, both = run_line_fields([DETECT]), run_line_fields([DETECT, OBB])
    assert alone == DETECT.as_log_line()
    assert [stage["name"] for stage in both["stages"]] == list(
        OBB.clauses
    )  # those of detection, and the angle
    assert both["terms"] == list(OBB.item_names)
    assert both["tasks"] == {"detect": DETECT.as_log_line(), "obb": OBB.as_log_line()}


class Lines:
    """A recorder that keeps the lines."""

    def __init__(self) -> None:
        self.reasons: list[tuple[str | None, str]] = []

    def line(self, kind: str, implementation: str | None, device: None, reason: str) -> None:
        """Append the implementation and the reason of a line about something that is not tested."""
        assert kind == "not_tested"
        self.reasons.append((implementation, reason))


def test_checks_without_counterpart_are_logged_in_one_line():
    relations, state = ModuleType("test_relations"), ModuleType("test_state")
    relations.__doc__ = "META: relations.\n\nMore."
    state.__doc__ = "STATE: equal results."
    items: Any = [
        SimpleNamespace(module=module, path=Path(f"{module.__name__}.py"))
        for module in (relations, relations, state)
    ]
    run: Any = SimpleNamespace(recorder=Lines())
    note_other_checks(run, OBB.name, items)
    note_other_checks(run, DETECT.name, [])
    assert run.recorder.reasons == [(None, "task obb: checks without batches of this task: META, STATE")]
