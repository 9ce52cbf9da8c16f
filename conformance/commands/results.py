"""The machine-readable result of a command: one JSON object on standard output, for the option `--json`.

While a command runs with `--json`, everything that is printed goes to standard error, also the output of native code
and of child processes. `docs/command-line.md` documents the object and the fields of each command's result.
"""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from tal_text import say_json

if TYPE_CHECKING:
    from tal_conformance.implementations.protocol import Implementation
    from tal_conformance.judgement.failure import Failure

STDOUT, STDERR = 1, 2
"""File descriptors that native code and child processes print to."""
SCHEMA = 1
"""Version of the printed object. It rises if a field is removed or its meaning changes, not if a field is added."""


@dataclass
class Result:
    """The result of a running command.

    Attributes:
        fields: result of the command by field name, as documented for the command.
        error: message of the error that ended the command; None without an error.
    """

    fields: dict[str, Any] = field(default_factory=dict)
    error: str | None = None


_running: ContextVar[Result | None] = ContextVar("result of the running command", default=None)


def set_result(**fields: Any) -> None:
    """Add fields to the result of the running command; without `--json`, do nothing."""
    result = _running.get()
    if result is not None:
        result.fields |= fields


def set_error(message: str) -> None:
    """Set the error message of the running command; without `--json`, do nothing."""
    result = _running.get()
    if result is not None:
        result.error = message


@contextmanager
def collected_result() -> Iterator[Result]:
    """Collect the result of a command while the block runs, and send everything that is printed to standard error."""
    result = Result()
    token = _running.set(result)
    try:
        with _stdout_to_stderr():
            yield result
    finally:
        _running.reset(token)


def print_result(command: str, version: str, status: int | None, meaning: str, result: Result) -> None:
    """Print the JSON object of a command that ended.

    Args:
        command: name of the command.
        version: version of this project.
        status: exit status; None if the command's process ended before the command.
        meaning: meaning of the exit status in words.
        result: result of the command.
    """
    from tal_reports import json_types

    heading = {"schema": SCHEMA, "command": command, "version": version, "status": status, "meaning": meaning}
    say_json(json_types({**heading, "error": result.error, "result": result.fields}))


@contextmanager
def _stdout_to_stderr() -> Iterator[None]:
    """Send standard output to standard error while the block runs: Python's stream, and the file descriptor."""
    stdout = sys.stdout
    stdout.flush()
    saved = None
    with suppress(OSError):  # a process that was started without one of the two
        saved = os.dup(STDOUT)
        os.dup2(STDERR, STDOUT)
    sys.stdout = sys.stderr
    try:
        yield
    finally:
        sys.stdout = stdout
        if saved is not None:
            os.dup2(saved, STDOUT)
            os.close(saved)


def implementation_fields(implementation: "Implementation") -> dict[str, Any]:
    """Return name, version and dialect of an implementation."""
    return {
        "name": implementation.name,
        "version": implementation.version,
        "dialect": implementation.dialect.name,
    }


def failure_fields(failure: "Failure") -> dict[str, Any]:
    """Return implementation, verdict, stage, clause, summary and batch of a failure."""
    return {
        "implementation": failure.subject.implementation.name,
        "device": failure.subject.device,
        "verdict": failure.verdict.value,
        "stage": failure.stage or None,
        "clause": failure.clause or None,
        "summary": failure.summary,
        "batch": failure.batch.origin or failure.batch.describe(),
    }
