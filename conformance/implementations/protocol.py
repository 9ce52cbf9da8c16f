"""The protocol of adapters, and the validation of their results.

An adapter is an object (or class, or function without arguments that returns one) with a `name` and at least one of

- `assign(inputs: AssignerInputs) -> Assignment`: the label assigner alone;
- `loss(feature_maps, annotations, head, hyperparameters) -> Loss`: the whole detection loss;
- `make(head, hyperparameters) -> criterion`, with `criterion(feature_maps, annotations) -> Loss`: the detection loss as
  an object that a trainer makes once and reuses.

Optional attributes: `version`; `dialect` (default: the newest official one); `exposes_stages`; `precisions` (precisions
besides float32; default: those of mixed-precision training); `tasks` (names of loss families; default: `("detect",)`);
`unsupported_ways` (ways of calling and sequences of calls that the code is not meant for; default: none);
`supports(head, hyperparameters)`, or with a third parameter for the shapes of the feature maps (True, or the reason why
the code does not support them, as a text; default: True);
`supports_no_truths` (False if the code does not support a batch without ground truths; default: True);
`reduces_over_ranks` (how N is reduced over the processes of a distributed training: "mean", "sum" or None);
`class_weights` (True if the loss multiplies each class's cross-entropy by its number in `head.class_weights`, or the
names of the tasks in which it does); `dialects` (dialects of single tasks by name of the task, where they are not those
of the releases after which `dialect` is named); `precisions_by_task` (precisions of single tasks by name of the task,
where they are not `precisions`).
An adapter needs only this module and torch.
"""

import dataclasses
import inspect
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Protocol, runtime_checkable

from torch import Tensor

from tal_conformance.core.names import unknown_name
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.outcome import Stages as Stages  # noqa: PLC0414 - adapters import it from here, as before 0.2
from tal_conformance.core.task import DETECT, TASKS
from tal_conformance.core.ways import SEQUENCE_NAMES, WAY_NAMES
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.guards.exceptions import (
    exception_text,
    own_traceback,
    recorded_interrupts,
)
from tal_conformance.implementations.guards.side_effects import Identity
from tal_conformance.implementations.support import Support, support_of
from tal_reference import NEWEST, Dialect, Head, Hyperparameters, parse
from tal_reference.choices import choices_of, title
from tal_reference.eras_of_tasks import dialects_of, for_task

MIXED = ("autocast-float16", "autocast-bfloat16")
"""Precisions that occur in training with automatic mixed precision."""
ADAPTER_METHODS = {"assign": 1, "loss": 4, "make": 2}
"""Methods of the protocol of adapters, with their number of arguments."""
EVERY = ("float64", *MIXED, "float16", "bfloat16")
"""All precisions that are tested besides float32."""


@runtime_checkable
class Assigner(Protocol):
    """An implementation whose assigner can be called alone."""

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Assign ground truths to anchors."""
        ...


@runtime_checkable
class LossFunction(Protocol):
    """An implementation with a detection loss."""

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the loss of `feature_maps` (B, 4R + C, H, W) of each level and `annotations` (N, 6) as in ANN-1."""
        ...


@runtime_checkable
class CriterionMaker(Protocol):
    """An implementation whose detection loss is an object (criterion) that a trainer makes once and reuses."""

    def make(
        self, head: Head, hyperparameters: Hyperparameters
    ) -> Callable[[tuple[Tensor, ...], Tensor], Loss]:
        """Return a criterion for the given head and hyperparameters, to be called with feature maps and annotations.

        The criterion of an end-to-end loss may have a method `update(hyperparameters)`, which a trainer calls after
        each epoch (E2E-5); the hyperparameters have the new number of updates, and the number of epochs.
        """
        ...


class LossOfCriterion:
    """An adapter with `make`, extended by a `loss` that makes a new criterion for every call.

    Args:
        adapter: the adapter, which provides all other attributes.
    """

    def __init__(self, adapter: Any) -> None:
        self._adapter, self.make = adapter, adapter.make
        if isinstance(adapter, Assigner):
            self.assign = adapter.assign

    def __getattr__(self, name: str) -> Any:
        return getattr(self._adapter, name)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Make a new criterion, call it, and return its loss."""
        loss: Loss = self.make(head, hyperparameters)(feature_maps, annotations)
        return loss


@dataclass(frozen=True)
class Implementation:
    """An adapter that follows the protocol.

    Attributes:
        name: the name that the adapter declares.
        spec: the `--implementation` value that selects it.
        version: version of the code under test, as the adapter declares it.
        dialect: the dialect that the implementation is judged by.
        adapter: the object with `assign`, `loss` or both.
        exposes_stages: True if its assignments contain `Stages`.
        precisions: supported precisions besides float32; "autocast-" means mixed precision.
        tasks: names of the loss families that the implementation computes, keys of `TASKS`.
        values_only: True if the loss has no gradients, as in a folder of outcomes, so that its values alone are judged.
        in_subprocess: True if the implementation runs in a worker process, so that its results can be checked, but not
            its side effects.
        unsupported_ways: names of ways of calling and of sequences of calls that the code is not meant for.
        reduces_over_ranks: reduction of N, the sum of target scores, over the processes of a distributed training:
            "mean", "sum" or None.
        support: the heads and hyperparameters that the adapter supports.
        factory: function that makes a new adapter; None if the adapter was given as an object.
        dialects: dialects of single tasks by name, of an adapter that has others than those of `dialect`'s releases.
        precisions_by_task: precisions of single tasks by name, where they are not `precisions`.
        identity: object shared by all variants of an implementation; key of the tensors that they returned last.
    """

    name: str
    spec: str
    version: str
    dialect: Dialect
    adapter: Any
    exposes_stages: bool
    precisions: tuple[str, ...] = MIXED
    tasks: tuple[str, ...] = (DETECT.name,)
    values_only: bool = False
    in_subprocess: bool = False
    unsupported_ways: tuple[str, ...] = ()
    reduces_over_ranks: str | None = None
    support: Support = dataclasses.field(default_factory=Support, compare=False, repr=False)
    factory: Callable[[], Any] | None = dataclasses.field(default=None, compare=False, repr=False)
    dialects: Mapping[str, Dialect] = dataclasses.field(default_factory=dict, compare=False, repr=False)
    precisions_by_task: Mapping[str, tuple[str, ...]] = dataclasses.field(
        default_factory=dict, compare=False, repr=False
    )
    identity: Identity = dataclasses.field(default_factory=Identity, compare=False, repr=False)

    def of_task(self, task: str) -> "Implementation":
        """Return the implementation with one of its tasks alone, and the dialect and the precisions of that task.

        Raises:
            ProtocolViolation: the implementation does not declare the task, or its dialect is not specified for it.
        """
        if task not in self.tasks:
            raise ProtocolViolation(
                f"{self.spec} has no task {task!r}. It declares only {', '.join(self.tasks)}"
            )
        dialect = self.dialect_of(task)
        if dialect is None:
            raise ProtocolViolation(f"{self.name}: {unspecified(self.dialect, task)}")
        precisions = self.precisions_by_task.get(task, self.precisions)
        return dataclasses.replace(self, tasks=(task,), dialect=dialect, dialects={}, precisions=precisions)

    def for_batch_of(self, task: str) -> "Implementation":
        """Return the implementation as it judges a batch of a task: unchanged if it has no dialect of the task."""
        dialect = self.dialect_of(task)
        return self if dialect is None else dataclasses.replace(self, dialect=dialect, dialects={})

    def dialect_of(self, task: str) -> Dialect | None:
        """Return the dialect by which a task is judged; None if none is specified for it."""
        return self.dialects.get(task) or for_task(self.dialect, task)

    def with_dialect(self, dialect: Dialect) -> "Implementation":
        """Return the implementation, judged by another dialect in every task."""
        return dataclasses.replace(self, dialect=dialect, dialects={})

    @property
    def task(self) -> str:
        """Name of the task that a run tests: the first of `tasks`."""
        return self.tasks[0]

    @property
    def capabilities(self) -> list[str]:
        """The capabilities that the implementation has: a list of "assign", "loss" and "stages"."""
        offers = {
            "assign": _offers(self.adapter, Assigner),
            "loss": _offers(self.adapter, LossFunction),
            "stages": self.exposes_stages,
        }
        return [capability for capability, offered in offers.items() if offered]

    @property
    def variants(self) -> "list[Implementation]":
        """The implementation itself and, if it has a loss and an assigner, its assigner alone."""
        if not {"assign", "loss"} <= set(self.capabilities):
            return [self]
        alone = SimpleNamespace(assign=self.adapter.assign)
        return [self, dataclasses.replace(self, adapter=alone, factory=None)]


def _offers(adapter: Any, kind: type) -> bool:
    """Return True if the adapter has the methods of a protocol; a method that raises when it is read counts."""
    try:
        return isinstance(adapter, kind)
    except KeyboardInterrupt:
        raise
    except BaseException:
        return True


def implementation_from(adapter: Any, name: str, factory: Callable[[], Any] | None = None) -> Implementation:
    """Check an adapter against the protocol, and return it as an `Implementation`.

    Args:
        adapter: an object with `assign`, `loss` or `make`, or a class or function without arguments that makes one.
        name: value of `--implementation`.
        factory: function that made the adapter and can make it again; not needed if `adapter` is a class or function.

    Raises:
        ProtocolViolation: the adapter has none of the methods `assign`, `loss` and `make`, cannot be made, or declares
            an unknown dialect, precision, task or reduction.
    """
    with recorded_interrupts() as interrupts:
        try:
            return _checked(adapter, name, factory)
        except ProtocolViolation:
            raise
        except BaseException as error:
            interrupts.raise_if_arrived()
            raise ProtocolViolation(
                f"{name}: reading the attributes of the adapter raised {exception_text(error)}"
            ) from error


def _checked(adapter: Any, name: str, factory: Callable[[], Any] | None) -> Implementation:
    methods = Assigner, LossFunction, CriterionMaker
    if callable(adapter) and (isinstance(adapter, type) or not isinstance(adapter, methods)):
        factory = adapter
        adapter = _called(adapter, name)
    if isinstance(adapter, CriterionMaker) and not isinstance(adapter, LossFunction):
        adapter = LossOfCriterion(adapter)
    if not isinstance(adapter, (Assigner, LossFunction)):
        raise ProtocolViolation(
            f"{name} has type {type(adapter).__name__}, without `assign(inputs)` and without `loss(feature_maps, "
            f"annotations, head, hyperparameters)`; expected an adapter with one of them. {_init_hint(name)}"
        )
    dialect = _dialect(getattr(adapter, "dialect", NEWEST), name, "dialect")
    return Implementation(
        name=_one_line(getattr(adapter, "name", name)),
        spec=name,
        version=_one_line(getattr(adapter, "version", "unknown")),
        dialect=dialect,
        adapter=adapter,
        exposes_stages=exposes_stages_of(adapter),
        precisions=_names(adapter, name, "precisions", MIXED, EVERY),
        tasks=_tasks(adapter, name),
        in_subprocess=bool(getattr(adapter, "in_subprocess", False)),
        unsupported_ways=_names(adapter, name, "unsupported_ways", (), (*WAY_NAMES, *SEQUENCE_NAMES)),
        reduces_over_ranks=_reduction(adapter, name),
        support=support_of(adapter, name),
        dialects=_dialects(adapter, name),
        precisions_by_task=_precisions_by_task(adapter, name),
        factory=factory,
    )


def _dialect(value: Any, name: str, attribute: str) -> Dialect:
    """Return the dialect that an attribute of the adapter contains or names.

    Raises:
        ProtocolViolation: no dialect has this name, or the value is neither a dialect nor a text.
    """
    if isinstance(value, str):
        try:
            return parse(value)
        except ValueError as error:
            raise ProtocolViolation(f"{name}: {error}") from error
    if not isinstance(value, Dialect):
        raise ProtocolViolation(
            f"{name}: `{attribute}` must be a dialect or its name, not {type(value).__name__}"
        )
    return value


def _dialects(adapter: Any, name: str) -> dict[str, Dialect]:
    """Return the dialects of single tasks that the adapter declares, by name of the task.

    Raises:
        ProtocolViolation: the attribute is not a dict, names an unknown task or dialect, or a dialect that is not
            specified for its task.
    """
    given = getattr(adapter, "dialects", {})
    if not isinstance(given, dict):
        raise ProtocolViolation(
            f"{name} declares dialects = {given!r:.80}: expected a dict such as {{'obb': 'ultralytics-8.4.83'}}"
        )
    for task in given:
        if task not in TASKS:
            raise ProtocolViolation(f"{name}, dialects: {unknown_name('task', str(task), TASKS)}")
    found: dict[str, Dialect] = {}
    for task, value in given.items():
        dialect = _dialect(value, name, f"dialects[{task!r}]")
        converted = for_task(dialect, task)
        if converted is None:
            raise ProtocolViolation(f"{name}, dialects: {unspecified(dialect, task)}")
        found[task] = converted
    return found


def unspecified(dialect: Dialect, task: str) -> str:
    """Return the reason why the results of a task cannot be judged by a dialect."""
    changes = "without changed choices of other tasks" if choices_of(task) else "without changed choices"
    return (
        f"task {task}: it is judged by the dialect {title(dialect)!r}, expected one of "
        f"{', '.join(dialects_of(task))} {changes}: other dialects are not specified for this task"
    )


LONGEST_NAME = 200
"""Number of characters of a name or version that are used."""


def _one_line(value: Any) -> str:
    """Return the text of a value on one line, truncated if it is long."""
    return "".join(map(str.__str__, " ".join(str(value).split())))[:LONGEST_NAME]


REDUCTIONS = (None, "mean", "sum")
"""Ways in which N may be reduced over the processes of a distributed training."""


def _names(
    adapter: Any, name: str, attribute: str, default: tuple[str, ...], known: tuple[str, ...]
) -> tuple[str, ...]:
    """Return the names in an attribute of the adapter, such as `precisions`.

    Raises:
        ProtocolViolation: the attribute is not a tuple, or an entry is not a known name.
    """
    names = getattr(adapter, attribute, default)
    if not isinstance(names, (tuple, list)):
        raise ProtocolViolation(
            f"{name} declares {attribute} = {names!r}: expected a tuple of names among {', '.join(known)}"
        )
    kind = {"precisions": "precision", "tasks": "task", "unsupported_ways": "way"}[attribute]
    for entry in names:
        if entry not in known:
            raise ProtocolViolation(f"{name}, {attribute}: {unknown_name(kind, str(entry), known)}")
    return tuple(names)


def _precisions_by_task(adapter: Any, name: str) -> dict[str, tuple[str, ...]]:
    """Return the precisions of single tasks that the adapter declares, by the name of the task.

    Raises:
        ProtocolViolation: the attribute is not a dictionary of the adapter's tasks, or an entry is not a known name.
    """
    declared = getattr(adapter, "precisions_by_task", {})
    if not isinstance(declared, Mapping):
        raise ProtocolViolation(
            f"{name} declares precisions_by_task = {declared!r}: expected a dictionary of tasks and their precisions"
        )
    tasks = _tasks(adapter, name)
    for task in declared:
        if task not in tasks:
            raise ProtocolViolation(f"{name}, precisions_by_task: {unknown_name('task', str(task), tasks)}")
    return {
        task: _names(SimpleNamespace(precisions=own), f"{name}, task {task}", "precisions", MIXED, EVERY)
        for task, own in declared.items()
    }


def _tasks(adapter: Any, name: str) -> tuple[str, ...]:
    """Return the names of the loss families that the adapter declares to compute.

    Raises:
        ProtocolViolation: the attribute is not a tuple, is empty, or an entry is not the name of a family.
    """
    tasks = _names(adapter, name, "tasks", (DETECT.name,), tuple(TASKS))
    if not tasks:
        raise ProtocolViolation(
            f"{name} declares tasks = (): expected a tuple of names among {', '.join(TASKS)}"
        )
    return tasks


def _reduction(adapter: Any, name: str) -> str | None:
    """Return the declared reduction of N (sum of target scores) over processes: "mean", "sum" or None.

    Raises:
        ProtocolViolation: the value is not one of `REDUCTIONS`.
    """
    value: str | None = getattr(adapter, "reduces_over_ranks", None)
    if value not in REDUCTIONS:
        raise ProtocolViolation(
            f"{name} declares reduces_over_ranks = {value!r}: expected one of {', '.join(map(repr, REDUCTIONS))}"
        )
    return value


def _called(factory: Any, name: str) -> Any:
    """Call a class or function, and return the adapter that it makes.

    Raises:
        ProtocolViolation: the call raised.
    """
    with recorded_interrupts() as interrupts:
        try:
            return factory()
        except BaseException as error:
            interrupts.raise_if_arrived()
            needs_arguments = isinstance(error, TypeError) and not _is_adapter(factory)
            hint = f". {_init_hint(name)}" if needs_arguments else ""
            raise ProtocolViolation(
                f"{name}: making the adapter raised {exception_text(error)}{hint}", own_traceback(error)
            ) from error


def _is_adapter(target: Any) -> bool:
    """Return True if an object, or every instance of a class, has a method of adapters, with its arguments."""
    return any(takes(target, method, count) for method, count in ADAPTER_METHODS.items())


def takes(target: Any, method: str, count: int) -> bool:
    """Return True if an object, or every instance of a class, has a method that accepts `count` arguments."""
    function = getattr(target, method, None)
    if not callable(function):
        return False
    unbound = isinstance(target, type) and inspect.isfunction(function)
    try:
        inspect.signature(function).bind(*[None] * (count + unbound))
    except (TypeError, ValueError):
        return False
    return True


def _init_hint(name: str) -> str:
    return (
        "For an assigner or loss that is not an adapter, write one: "
        f"tal-conformance init my_adapter.py --from {name}"
    )


def exposes_stages_of(adapter: Any) -> bool:
    """Return True if the adapter declares that its assignments contain `Stages`.

    The attribute is `exposes_stages`. Its old name `shows_stages` is accepted until 0.3, with a DeprecationWarning.
    """
    if hasattr(adapter, "exposes_stages"):
        return bool(adapter.exposes_stages)
    if not hasattr(adapter, "shows_stages"):
        return False
    warnings.warn(
        f"{type(adapter).__name__}.shows_stages: rename the attribute to exposes_stages",
        DeprecationWarning,
        stacklevel=2,
    )
    return bool(adapter.shows_stages)
