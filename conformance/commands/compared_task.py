"""The task of a command that compares dialects: `diff`, `bisect` and `identify`."""

from collections.abc import Sequence

from tal_conformance.commands.arguments import COMPARED_TASKS
from tal_conformance.commands.program import CommandError
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.protocol import Implementation


def with_task(implementations: Sequence[Implementation], task: str | None) -> list[Implementation]:
    """Return implementations with one task alone, judged by their dialects of this task.

    Args:
        implementations: the implementations with all tasks that they declare.
        task: name of the task; None for detection or, without it, the first of `COMPARED_TASKS` that all have.

    Raises:
        CommandError: an implementation does not have the task, or its dialect is not specified for it.
    """
    shared = [name for name in COMPARED_TASKS if all(name in each.tasks for each in implementations)]
    if task is None and not shared:
        declared = "; ".join(f"{each.name}: {', '.join(each.tasks)}" for each in implementations)
        raise CommandError(
            f"no task to compare: expected one of {', '.join(COMPARED_TASKS)}, found {declared}"
        )
    try:
        return [each.of_task(task or shared[0]) for each in implementations]
    except ProtocolViolation as error:
        raise CommandError(str(error)) from error
