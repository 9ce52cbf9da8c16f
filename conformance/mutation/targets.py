"""The functions to mutate: functions of the official assigner and detection loss, and of the reference."""

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from types import FrameType, FunctionType, ModuleType
from typing import Any

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.task import DETECT, E2E, OBB
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.operators import Mutant, Place, places, statement_at
from tal_reference import NEWEST, Head, Hyperparameters

OFFICIAL = {
    "ultralytics.utils.tal": ("TaskAlignedAssigner", "make_anchors", "dist2bbox", "bbox2dist"),
    "ultralytics.utils.loss": ("DFLoss", "BboxLoss", "v8DetectionLoss"),
    "ultralytics.utils.metrics": ("bbox_iou",),
}
"""The official functions and classes of assigner and detection loss, by module."""
OFFICIAL_BY_TASK: dict[str, dict[str, tuple[str, ...]]] = {
    OBB.name: {
        "ultralytics.utils.tal": ("RotatedTaskAlignedAssigner", "dist2rbox", "rbox2dist"),
        "ultralytics.utils.loss": ("RotatedBboxLoss", "v8OBBLoss"),
        "ultralytics.utils.metrics": ("probiou", "_get_covariance_matrix"),
    },
    E2E.name: {"ultralytics.utils.loss": ("E2ELoss",)},
}
"""The official functions and classes that only tasks other than detection use."""
REFERENCE = ("anchors", "annotations", "assignment", "boxes", "decoding", "dialect", "loss", "settings")
"""Modules of the reference that contain computations."""
COPIED = "tal_conformance.implementations.adapters.reference"
"""Module of the reference's adapter, which is imported a second time together with the copy of the reference."""


@dataclass(frozen=True)
class Target:
    """Functions to mutate, and the implementation that runs them.

    Attributes:
        name: "official", "official-" and a task, or "reference".
        places: the functions to mutate.
        implementation: function that returns the implementation under test, which runs these functions.
        task: name of the task on whose batches they are judged.
    """

    name: str
    places: tuple[Place, ...]
    implementation: Callable[[], Implementation]
    task: str = DETECT.name


def official(task: str = DETECT.name) -> Target:
    """Return the functions to mutate in the installed release of Ultralytics.

    Args:
        task: name of a task; for detection, assigner and loss of detection are mutated, and for another task only what
            it does not share with detection.

    Raises:
        UnknownImplementation: no release is installed.
    """
    from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter, load_release

    load_release()
    found = tuple(
        place
        for module, names in OFFICIAL_BY_TASK.get(task, OFFICIAL).items()
        for place in places(importlib.import_module(module), names)
    )
    if task == DETECT.name:
        return Target("official", found, lambda: implementation_from(UltralyticsAdapter(), "ultralytics"))

    def of_task() -> Implementation:
        return implementation_from(UltralyticsAdapter(), "ultralytics").of_task(task)

    return Target(f"official-{task}", found, of_task, task)


def reference() -> Target:
    """Return the functions to mutate in a second copy of the reference, because the judge uses the first."""
    copied = copy_of_reference()
    found = []
    for name in REFERENCE:
        module = copied[f"tal_reference.{name}"]
        own = [
            attribute
            for attribute, value in vars(module).items()
            if getattr(value, "__module__", "") == module.__name__ and callable(value)
        ]
        found += list(places(module, own))
    adapter, settings = copied[COPIED].ReferenceAdapter, copied["tal_reference.settings"]
    return Target(
        "reference", tuple(found), lambda: implementation_from(Copy(adapter(), settings), "reference-copy")
    )


TARGETS: dict[str, Callable[[], Target]] = {"official": official, "reference": reference} | {
    f"official-{task}": partial(official, task) for task in OFFICIAL_BY_TASK
}


class Copy:
    """The copy of the reference as an implementation, which declares the dialect of the original."""

    name, version, exposes_stages, dialect = "reference-copy", "1", True, NEWEST

    def __init__(self, inner: Any, settings: Any) -> None:
        self.inner, self.settings = inner, settings
        self.precisions = inner.precisions

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Return the assignment that the copied reference computes."""
        head, numbers = self._own(inputs.head, inputs.hyperparameters)
        assignment: Assignment = self.inner.assign(replace(inputs, head=head, hyperparameters=numbers))
        return assignment

    def loss(self, maps: Any, annotations: Any, head: Head, hyperparameters: Hyperparameters) -> Loss:
        """Return the loss that the copied reference computes."""
        loss: Loss = self.inner.loss(maps, annotations, *self._own(head, hyperparameters))
        return loss

    def _own(self, head: Head, numbers: Hyperparameters) -> tuple[Any, Any]:
        """Convert head and hyperparameters to instances of the copy's classes."""
        return self.settings.Head(**vars(head)), self.settings.Hyperparameters(**vars(numbers))


def copy_of_reference() -> dict[str, ModuleType]:
    """Import reference and adapter a second time, restore `sys.modules`, and return the new modules."""
    originals = {name: module for name, module in sys.modules.items() if _is_copied(name)}
    holders = {name: getattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], None)
               for name in originals if "." in name}  # fmt: skip
    for name in originals:
        del sys.modules[name]
    try:
        for name in REFERENCE:
            importlib.import_module(f"tal_reference.{name}")
        importlib.import_module(COPIED)
        return {name: module for name, module in sys.modules.items() if _is_copied(name)}
    finally:
        for name in [name for name in sys.modules if _is_copied(name)]:
            del sys.modules[name]
        sys.modules.update(originals)
        for name, value in holders.items():
            if value is not None:  # importing a submodule sets an attribute of its package
                setattr(sys.modules[name.rpartition(".")[0]], name.rpartition(".")[2], value)


def _is_copied(name: str) -> bool:
    return name == COPIED or name.partition(".")[0] == "tal_reference"


class Seen(dict[Place, dict[int | str, set[int]]]):
    """Executed lines and used default values of the watched functions, each with the batches that reached it.

    Attributes:
        batch: number of the batch that is being judged.
    """

    batch = 0

    def note(self, place: Place, what: int | str) -> None:
        """Record that the current batch executed the line `what`, or used the default value of the parameter `what`."""
        self[place].setdefault(what, set()).add(self.batch)

    def batches_of(self, mutant: Mutant, place: Place) -> list[int] | None:
        """Return the numbers of the batches that run the mutated statement; None for all batches.

        For a mutation of the function's definition, these are the batches that call the function. A mutation of a
        constructor affects all batches, because later batches use the same object.
        """
        if place.name in ("__init__", "__post_init__"):
            return None
        ran = self[place]
        lines = statement_at(*place.source(), mutant.line)
        found: set[int] = set()
        return sorted(found.union(*(numbers for what, numbers in ran.items() if not lines or what in lines)))


@contextmanager
def watching(chosen: tuple[Place, ...]) -> Iterator[Seen]:
    """Record executed lines and used default values of some functions while the `with` block runs."""
    # compared by identity, because the copy's code equals the original's code, which the judge runs
    wanted = {id(place.live.__code__): place for place in chosen}
    seen = Seen({place: {} for place in chosen})

    def called(frame: FrameType, _event: str, _argument: Any) -> Any:
        place = wanted.get(id(frame.f_code))
        if place is None:
            return None
        for name, default in defaults[place].items():
            if frame.f_locals.get(name, frame) is default:
                seen.note(place, name)

        def ran(inner: FrameType, event: str, _: Any) -> Any:
            if event == "line":
                seen.note(place, inner.f_lineno)
            return ran

        return ran

    originals = {place: place.live.__defaults__ for place in chosen}
    for place, values in originals.items():
        place.live.__defaults__ = values and tuple(map(distinct, values))
    defaults = {place: defaults_of(place.live) for place in chosen}
    before = sys.gettrace()
    sys.settrace(called)
    try:
        yield seen
    finally:
        sys.settrace(before)
        for place, values in originals.items():
            place.live.__defaults__ = values


class _Whole(int):
    """An int that is not identical to any other int of the same value, to mark a parameter's default value."""


class _Real(float):
    """A float that is not identical to any other float of the same value, to mark a parameter's default value."""


def distinct(default: Any) -> Any:
    """Return a number as a new object: a default value then differs in identity from an equal number of a caller."""
    kinds: dict[type, Callable[[Any], Any]] = {int: _Whole, float: _Real}
    return kinds.get(type(default), lambda same: same)(default)


def defaults_of(function: FunctionType) -> dict[str, Any]:
    """Return the default values of a function's parameters, by name."""
    parameters = inspect.signature(function).parameters.values()
    return {
        parameter.name: parameter.default
        for parameter in parameters
        if parameter.default is not inspect.Parameter.empty
    }
