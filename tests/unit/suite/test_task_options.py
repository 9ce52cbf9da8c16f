"""The task that a run tests, and the lines about everything that it does not test."""

from dataclasses import replace
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from tal_conformance.core.task import DETECT, OBB
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.suite.options import task_to_test
from tal_conformance.suite.session import note_other_checks, note_other_tasks
from tal_reference import DIALECTS, parse


def config_with(task: str | None) -> Any:
    return SimpleNamespace(getoption=lambda option: {"--task": task}[option])


def offering(*tasks: str, dialect: str = "ultralytics-8.4.190") -> Implementation:
    """Return the reference as an implementation that offers the given tasks and declares a dialect."""
    return replace(find("reference"), tasks=tasks, dialect=parse(dialect))


@pytest.mark.parametrize(
    ("option", "offers", "task"),
    [
        (None, ["detect", "obb"], "detect"),
        (None, ["obb"], "obb"),
        ("obb", ["detect", "obb"], "obb"),
        ("detect", ["detect"], "detect"),
    ],
)
def test_the_task_of_a_run(option: str | None, offers: list[str], task: str):
    assert task_to_test(config_with(option), [offering(*offers)]) == task


def test_the_task_that_all_implementations_offer():
    assert task_to_test(config_with(None), [offering("detect", "obb"), offering("obb")]) == "obb"


@pytest.mark.parametrize(
    ("implementation", "message"),
    [
        (
            offering("detect"),
            "--task obb: reference offers detect. Name a task that every implementation offers",
        ),
        (
            offering("obb", dialect="ultralytics-8.0.100"),
            "is judged by the dialect 'ultralytics-8.0.100', expected one of",
        ),
        (offering("obb", dialect="ultralytics-8.4.190, overlap=iou"), "overlap=iou', expected one of"),
    ],
)
def test_a_task_that_cannot_be_tested_is_a_usage_error(implementation: Implementation, message: str):
    with pytest.raises(pytest.UsageError) as caught:
        task_to_test(config_with("obb"), [implementation])
    assert message in str(caught.value)


def test_every_dialect_is_accepted_for_detection():
    for name in DIALECTS:
        assert task_to_test(config_with("detect"), [offering("detect", "obb", dialect=name)]) == "detect"


class Lines:
    """A recorder that keeps the lines."""

    def __init__(self) -> None:
        self.reasons: list[tuple[str | None, str]] = []

    def line(self, kind: str, implementation: str | None, device: None, reason: str) -> None:
        """Append the implementation and the reason of a line about something that is not tested."""
        assert kind == "not_tested"
        self.reasons.append((implementation, reason))


def test_tasks_that_a_run_does_not_test_are_logged():
    for task, other in ((DETECT.name, OBB.name), (OBB.name, DETECT.name)):
        run: Any = SimpleNamespace(task=task, recorder=Lines(), implementations=[offering("detect", "obb")])
        note_other_tasks(run)
        assert run.recorder.reasons == [(None, f"reference: task {other}: --task {other} tests it")]


def test_checks_without_counterpart_are_logged_by_module():
    module = ModuleType("test_relations")
    module.__doc__ = "META: relations.\n\nMore."
    items: Any = [
        SimpleNamespace(module=module, originalname=name, name=f"{name}[x]", path=Path("test_relations.py"))
        for name in ("test_b", "test_a", "test_a")
    ]
    run: Any = SimpleNamespace(task=OBB.name, recorder=Lines())
    note_other_checks(run, items)
    assert run.recorder.reasons == [(None, "task obb: META: relations (test_a, test_b)")]
