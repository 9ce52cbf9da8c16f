"""Load the implementations that `--implementation` names, before the first test."""

from collections.abc import Sequence
from dataclasses import replace

import pytest

from tal_conformance.core.supervision import supervised
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.protocol import Implementation, unspecified
from tal_conformance.implementations.registry import find
from tal_reference import Dialect
from tal_text import visible

TRACEBACK_LINES = 30
"""Maximum number of lines of an adapter's traceback that are printed."""


def find_implementations(
    names: list[str], dialect: Dialect | None = None, isolate: bool = False, task: str | None = None
) -> list[Implementation]:
    """Return the implementations to test.

    Args:
        names: values of `--implementation`.
        dialect: the dialect to judge all implementations by; None for the dialects that they declare.
        isolate: run every implementation from a module or file in its own process.
        task: name of the task that every implementation must declare; None if any will do.

    Returns:
        The implementations with all tasks that they declare; `divide_by_task` divides them.

    Raises:
        pytest.UsageError: implementations could not be loaded; the message has a line for each of them. The run stops,
        because it would judge less than the user requested.
    """
    found: list[Implementation] = []
    taken: set[str] = set()
    loaded, problems = _load(list(dict.fromkeys(names)), isolate)
    for implementation in loaded:
        if task is not None and task not in implementation.tasks:
            problems.append(_without_task(implementation, task))
            continue
        spec = implementation.spec
        candidates = (
            implementation.name,
            spec,
            *(f"{spec} ({number})" for number in range(1, len(loaded) + 1)),
        )
        name = next(text for text in candidates if text not in taken)
        taken.add(name)
        named = replace(implementation, name=name)
        found.append(named if dialect is None else named.with_dialect(dialect))
    if problems:
        raise pytest.UsageError(*problems)
    return found


def divide_by_task(
    implementations: Sequence[Implementation], chosen: str | None
) -> tuple[list[Implementation], list[str]]:
    """Return the implementations with one task each, and a sentence for each task that the run does not test.

    Each task of an implementation has a row in the results. The row of the first task that the adapter declares has
    the implementation's name, and any other has its task added: "ultralytics (obb)".

    Args:
        implementations: the implementations with all tasks that they declare.
        chosen: the task of `--task`; None to test all tasks.

    Raises:
        pytest.UsageError: the dialect of an implementation is specified for none of the tasks to test.
    """
    divided: list[Implementation] = []
    untested: list[str] = []
    for implementation in implementations:
        problems = {
            task: _unspecified(implementation, task)
            for task in implementation.tasks
            if chosen in (None, task)
        }
        tested = [task for task, problem in problems.items() if not problem]
        if not tested:
            raise pytest.UsageError(*problems.values())
        untested += [problem for problem in problems.values() if problem]
        for task in tested:
            name = f"{implementation.name} ({task})" if task != implementation.task else implementation.name
            divided.append(replace(implementation.of_task(task), name=name))
    return divided, untested


def _unspecified(implementation: Implementation, task: str) -> str:
    """Return a sentence if the dialect of an implementation is not specified for a task, or ""."""
    specified = implementation.dialect_of(task) is not None
    return "" if specified else f"{implementation.name}: {unspecified(implementation.dialect, task)}"


def _without_task(implementation: Implementation, task: str) -> str:
    declared = ", ".join(implementation.tasks)
    return visible(
        f"--task {task}: {implementation.spec} declares only {declared}; add {task!r} to its attribute `tasks`"
    )


def _load(names: list[str], isolate: bool) -> tuple[list[Implementation], list[str]]:
    """Return the named implementations in the given order, and a line for every implementation that cannot be loaded.

    A user's own code is imported last, after the official modules, so that changes of these are noticed.
    """
    loaded: dict[str, Implementation] = {}
    problems: dict[str, str] = {}
    for name in sorted(names, key=lambda name: ":" in name):
        try:
            with supervised.calling(name):
                loaded[name] = find(name, isolate)
        except (UnknownImplementation, ProtocolViolation) as error:
            message = visible(f"--implementation {name}: {' '.join(str(error).split())}")
            details = [visible(f"  {line}") for line in error.details.splitlines()[-TRACEBACK_LINES:]]
            problems[name] = "\n".join([message, *details])
    return [loaded[name] for name in names if name in loaded], [
        problems[name] for name in names if name in problems
    ]
