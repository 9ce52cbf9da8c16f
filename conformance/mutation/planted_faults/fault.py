"""A planted fault: functions or constants of the reference that are replaced, with a name in the index."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, Protocol
from unittest.mock import patch

import tal_conformance.suite.every_check  # noqa: F401 (enters the checks into the registry)
from tal_conformance.checks.registry import check_for
from tal_conformance.core.task import DETECT, StageName
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.mutation.planted_faults.index import INDEX

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]
LEFT_OUT = (StageName.CANDIDATES, StageName.TOP_K)
"""Stages that the report may name for a missing positive if only the assigner's outputs are visible: the
anchor was either not a candidate, or not selected."""
SEEN_LATER = DETECT.stages_of("assignment")
"""Stages that the report may name for a fault in the assigner's inputs if only the outputs are visible."""


@dataclass(frozen=True)
class Fault:
    """One planted fault.

    Faults must be found whether or not the implementation returns the stages of its assigner.

    Attributes:
        name: key of the fault in the index of planted faults.
        clauses: the clauses that the fault violates.
        stage: the first stage that must diverge if the implementation returns the stages of its assigner.
        replaces: dotted names of functions or constants, with their replacements.
        outputs_stages: stages that the report may name if only the assigner's outputs are visible.
        check: name of the check that must find the fault, followed by the value of its parameter in brackets
            if it has one.
        implementation: function that makes the faulty implementation; its argument "stages", "outputs" or
            "loss" is the visible part of the result. None: the reference, with the replacements planted while
            it runs.
    """

    name: str
    clauses: tuple[str, ...]
    stage: str
    replaces: dict[str, Any]
    outputs_stages: tuple[str, ...]
    check: str
    implementation: Callable[[str], Implementation] | None = None

    @contextmanager
    def planted(self) -> Iterator[None]:
        """Plant the fault in the reference while the `with` block runs."""
        with ExitStack() as stack:
            for name, replacement in self.replaces.items():
                stack.enter_context(patch(name, replacement))
            yield


ENTERED: dict[str, Fault] = {}
"""Every registered fault by name; importing a module of faults registers them."""


def enter(name: str, replaces: dict[str, Any], outputs_stages: tuple[str, ...] = ()) -> None:
    """Register a fault of the index with its replacements.

    Args:
        name: key of the fault in the index.
        replaces: dotted names of functions or constants, with their replacements.
        outputs_stages: stages that the report may name if only the assigner's outputs are visible; by default, the
            stage of the fault.
    """
    row = INDEX[name]
    check = row.check or check_for(DETECT.clauses[row.stage]).name
    stages = outputs_stages or (row.stage,)
    ENTERED[name] = Fault(name, tuple(row.clauses.split()), row.stage, replaces, stages, check)


def fault(
    at: str, also: dict[str, Any] | None = None, outputs_stages: tuple[str, ...] = ()
) -> Callable[[Any], Any]:
    """Return a decorator that registers a fault: the decorated function replaces the function `at`.

    Args:
        at: dotted name of the replaced function.
        also: further dotted names with their replacements.
        outputs_stages: see `enter`.
    """

    def register(replacement: Any) -> Any:
        enter(replacement.__name__, {at: replacement, **(also or {})}, outputs_stages)
        return replacement

    return register


class Registering(Protocol):
    """Function that returns a decorator, which registers a fault: the decorated function replaces another function.

    Args:
        clauses: the clauses that the fault violates, separated by spaces.
        stage: the first stage that must diverge if stages are exposed.
        at: dotted name of the replaced function, or its name in the home module.
        outputs_stages: stages that the report may name if only the assigner's outputs are visible; by default the
            fault's stage.
        check: name of the check that must find the fault.
    """

    def __call__(
        self, clauses: str, stage: str, at: str, *outputs_stages: str, check: str = "loss"
    ) -> Decorator:
        """Return the decorator."""


def registering(faults: dict[str, Fault], home: str) -> Registering:
    """Return a function whose decorators register faults of a task.

    Args:
        faults: the faults of the task by name, to which faults are added.
        home: module of the replaced functions.
    """

    def planted(clauses: str, stage: str, at: str, *outputs_stages: str, check: str = "loss") -> Decorator:
        def register(replacement: Callable[..., Any]) -> Callable[..., Any]:
            name, place = replacement.__name__, at if "." in at else f"{home}.{at}"
            faults[name] = Fault(
                name, tuple(clauses.split()), stage, {place: replacement}, outputs_stages or (stage,), check
            )
            return replacement

        return register

    return planted
