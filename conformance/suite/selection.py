"""Selection of the suite's tests in a run, by the options and by the task of each implementation."""

from pathlib import Path
from typing import Any

import pytest

from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.checks.registry import CHECKS
from tal_conformance.checks.relations.relations import RELATIONS_BY_TASK
from tal_conformance.checks.state.sequences import TASKS_OF
from tal_conformance.core.task import DETECT
from tal_conformance.suite.order import slow_modules_last
from tal_conformance.suite.session import SessionState, note_other_checks

EVERY_TASK = "every_task"
"""Mark of tests that are not generated checks, and that judge batches of the task of their implementation."""
PARTS_OF_FURTHER_TASKS = 3
"""In a run of several tasks, each task of an implementation after the first has the profile's number of batches divided
by this, so that a run of all tasks takes about twice as long as one of detection. `--task` tests a task with all of
them."""


def select_tests(run: SessionState, config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that the options exclude, give checks the strategies of their task, and order the tests.

    With `--case`, only case files are judged. Large batches are judged only with `--large`. For tasks other than
    detection, only generated checks are run, if they have a Hypothesis strategy of the task, which they then use, and
    tests with the mark `every_task`.

    Args:
        run: state of the session.
        config: configuration of pytest.
        items: the collected tests, changed in place.
    """
    own = [item for item in items if Path(__file__).resolve().parent in item.path.resolve().parents]
    unwanted = set(_excluded(own, run, config))
    if unwanted:
        config.hook.pytest_deselected(items=[item for item in own if item in unwanted])
        items[:] = [item for item in items if item not in unwanted]
    for item in own:
        if item not in unwanted and isinstance(item, pytest.Function):
            _use_strategy_of_task(item, run)
    items[:] = slow_modules_last(items)


def _excluded(own: list[pytest.Item], run: SessionState, config: pytest.Config) -> list[pytest.Item]:
    """Return the tests of the suite that the options or the task of their row exclude; log the excluded checks."""
    if run.cases or run.unreadable:
        return [
            item
            for item in own
            if _is_empty(item) or item.path.stem != "test_cases" or _of_another_row(item, run)
        ]
    large = config.getoption("--large")
    excluded = [
        item
        for item in own
        if _is_empty(item)
        or (item.path.stem == "test_large" and not large)
        or _concerns_another_task(item, run)
    ]
    known = set(excluded)
    others = [item for item in own if item not in known and not _applies(item, task_of_item(item, run))]
    # every worker collects all tests: the first one logs
    if getattr(config, "workerinput", {}).get("workerid", "gw0") == "gw0":
        for task in run.tasks:
            note_other_checks(run, task, [item for item in others if task_of_item(item, run) == task])
    return excluded + others


def _is_empty(item: pytest.Item) -> bool:
    """Return True if a test is skipped because the run has no parameter for it: no case file, or no problem."""
    return item.path.stem in ("test_cases", "test_findings") and item.get_closest_marker("skip") is not None


def _use_strategy_of_task(item: pytest.Function, run: SessionState) -> None:
    """Replace the function of a generated check by one with the strategy of its task, unless it is detection."""
    task, name = task_of_item(item, run), name_of_check(item)
    if task != DETECT.name and name in CHECKS:
        parts = 1 if _is_first_row(item, run) else PARTS_OF_FURTHER_TASKS
        item.obj = CHECKS[name].test_for(task, parts)


def task_of_item(item: pytest.Item, run: SessionState) -> str:
    """Return the task that a test judges: that of its implementation, or else detection if the run tests it."""
    callspec = getattr(item, "callspec", None)
    subject = None if callspec is None else callspec.params.get("subject")
    if subject is None:
        return DETECT.name if DETECT.name in run.tasks else run.tasks[0]
    task: str = subject.implementation.task
    return task


def _is_first_row(item: pytest.Function, run: SessionState) -> bool:
    """Return True if a test judges the first task on which the run tests an implementation."""
    subject: Any = item.callspec.params["subject"]
    tested = subject.implementation
    return next(row for row in run.implementations if row.spec == tested.spec).name == str(tested.name)


def _of_another_row(item: pytest.Item, run: SessionState) -> bool:
    """Return True if another row of the same implementation judges a test's case file, because it has the case's task.

    If no row has this task, the first row has the test, which logs that the case is not tested.
    """
    parameters: dict[str, Any] = (
        item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
    )
    subject, case = parameters.get("subject"), parameters.get("case")
    if subject is None or case is None:
        return False
    rows = [row for row in run.implementations if row.spec == subject.implementation.spec]
    judging = next((row for row in rows if row.task == case.task), rows[0])
    return subject.implementation.name != judging.name


def _concerns_another_task(item: pytest.Item, run: SessionState) -> bool:
    """Return True if a test is that of a relation, sequence or recorded batch of another task than its row's."""
    parameters: dict[str, Any] = item.callspec.params if hasattr(item, "callspec") else {}
    relation, task = parameters.get("relation"), task_of_item(item, run)
    if relation is not None:
        return relation.clause not in RELATIONS_BY_TASK[task]
    if "sequence" in parameters:
        return task not in TASKS_OF.get(parameters["sequence"], (task,))
    return parameters.get("task", task) != task


def name_of_check(item: pytest.Item) -> str:
    """Return the name in `CHECKS` of the check that a test may be."""
    return str(getattr(item, "originalname", item.name)).removeprefix("test_")


def _applies(item: pytest.Item, task: str) -> bool:
    """Return True if a test of the suite applies to a task."""
    if task == DETECT.name:
        return True
    if item.get_closest_marker(EVERY_TASK) is not None:
        strategy = item.callspec.params.get("name") if hasattr(item, "callspec") else None
        return strategy is None or strategy in STRATEGIES_BY_TASK[task]
    name = name_of_check(item)
    return name in CHECKS and CHECKS[name].strategy_of(task) is not None
