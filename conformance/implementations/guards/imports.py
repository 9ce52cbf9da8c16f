"""Reject code that changes this process when it is imported, and undo its changes."""

import threading
from collections.abc import Callable
from typing import TypeVar

from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.guards.code_state import computing_code, own_code, raise_if_changed
from tal_conformance.implementations.guards.process_state import watched
from tal_conformance.implementations.guards.side_effects import end_threads, threads_left
from tal_conformance.implementations.guards.torch_state import StateChanged, changes, torch_state

T = TypeVar("T")


def import_unchanged(name: str, load: Callable[[], T]) -> T:
    """Import an implementation, and raise if the import changes this process, torch's state, or code used by others.

    The state of random number generators is restored without an error: many modules draw random numbers on import.

    Args:
        name: value of `--implementation`, for the message.
        load: function that imports the implementation.

    Raises:
        UnknownImplementation: the import changed something, or left a thread running.
    """
    state, code, threads = torch_state(), (computing_code(), own_code()), threading.enumerate()
    problems: list[str] = []
    try:
        loaded, process = watched(load, importing=True)
        problems += [f"changed the state of the process: {', '.join(process)}"] if process else []
    finally:
        left = threads_left(threads)
        end_threads(left)
        problems += [f"left a thread running: {thread.name!r:.120}" for thread in left[:1]]
        changed = changes(state, random_numbers=False)
        problems += [f"changed global torch state: {', '.join(changed)}"] if changed else []
        for part in code:
            try:
                raise_if_changed(part)
            except StateChanged as error:
                problems.append(str(error))
    if problems:
        raise UnknownImplementation(
            f"importing {name} {'; '.join(problems)}. This would change what other implementations compute, and was "
            "undone. Remove that code from the module, or give each implementation its own process with --isolate"
        )
    return loaded
