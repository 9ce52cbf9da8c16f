"""An adapter whose code runs in a worker process. The suite uses it like any other adapter.

The worker computes the gradients of the loss too. Differentiating the returned total gives the worker's gradients.

A question is the arguments of one call of the adapter, or of a sequence of calls, as JSON fields and tensors; the
worker's answer holds the results in the same form.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, fields, replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.case_file import head_as_dict, head_from_dict
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, Stages
from tal_conformance.core.outcome_tensors import BRANCHES, OPTIONAL, branch_tensors, part_from, tensors_of
from tal_conformance.core.outcome_tensors import assignment_from as named_assignment
from tal_conformance.core.task import DETECT, task_of
from tal_conformance.implementations.calling.call import Answer, Call
from tal_conformance.implementations.calling.run import (
    decode_answers,
    decode_calls,
    encode_answers,
    encode_calls,
    numbered,
    run_calls,
)
from tal_conformance.implementations.calling.ways import MOST_ANSWERS
from tal_conformance.implementations.errors import PackageUnavailable, ProtocolViolation, WorkerError
from tal_conformance.implementations.given_gradients import GivenGradients
from tal_conformance.implementations.guards.plain_copies import PlainCopies
from tal_conformance.implementations.guards.side_effects import (
    ReturnedTensors,
    SideEffectError,
    check_inputs_unchanged,
    forbid_side_effects,
)
from tal_conformance.implementations.guards.torch_state import StateChanged, unchanged_torch_state
from tal_conformance.implementations.kept import KeptAdapter
from tal_conformance.implementations.support import Shapes, asked_support
from tal_conformance.implementations.validation import Findings, check_loss
from tal_conformance.implementations.workers.memory import UNLIMITED, description
from tal_conformance.implementations.workers.process import Worker, WorkerFailed
from tal_reference import Dialect, Head, Hyperparameters

Question = tuple[dict[str, Any], dict[str, Tensor]]
"""A request: its fields and its tensors; answers have the same form."""
GRADIENT = "gradients."
REFUSED = {kind.__name__ for kind in (ProtocolViolation, SideEffectError, StateChanged)}
"""Names of the exceptions that the guards raise in the worker, as opposed to the adapter itself."""
LAST = ReturnedTensors()
"""Tensors that the worker's one adapter returned last; used only in the worker."""
HEADER = 2**16
"""Number of bytes that names and shapes of an answer's tensors may take."""
DESCRIPTION = {
    "name": str, "version": str, "dialect": str, "shows_stages": bool, "precisions": list, "assigns": bool,
    "computes_loss": bool, "network": str,
}  # fmt: skip
"""Fields of the first answer of a worker, and their types."""
NOT_TENSORS = ("head", "hyperparameters", "stages")
"""Fields of an assignment or of an assigner's inputs that need not be tensors."""
DTYPES = {str(dtype): dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


class RemoteAdapter:
    """An adapter whose methods run in a worker process.

    Args:
        name: name of the implementation.
        worker: the worker process.
        dialect: dialect that the implementation is judged by; None: the dialect that the adapter declares.
        dialects: dialects of single tasks, by name of the task, where they are not those of `dialect`'s releases.

    Raises:
        PackageUnavailable: the adapter could not be made in the worker.
    """

    in_subprocess = True

    def __init__(
        self,
        name: str,
        worker: Worker,
        dialect: Dialect | None = None,
        dialects: Mapping[str, Dialect] | None = None,
    ) -> None:
        self.name, self.worker, self._fresh, self.dialect_given = name, worker, False, dialect
        self.dialects = dict(dialects or {})
        try:
            about = worker.start().fields
        except WorkerFailed as error:
            raise PackageUnavailable(f"{name}: {error.what}") from error
        if "raised" in about:
            worker.close()
            raise PackageUnavailable(
                f"cannot make the adapter of {name}: {about['raised']}: {about['message']}",
                str(about.get("traceback", "")),
            )
        check_description(name, about)
        self.version: str = about["version"]
        self.own_name: str = about["name"]
        self.exposes_stages: bool = about["shows_stages"]
        self.precisions = tuple(about["precisions"])
        self.precisions_by_task = about.get("precisions_by_task", {})
        self.tasks = tuple(about.get("tasks", (DETECT.name,)))
        self.network: str = about["network"]
        self.memory = description(worker.limit, str(about.get("memory", UNLIMITED)))
        self.dialect: Dialect | str = dialect if dialect is not None else about["dialect"]
        self.unsupported_ways = tuple(about.get("unsupported_ways", ()))
        self.reduces_over_ranks: str | None = about.get("reduces_over_ranks")
        self.supports_no_truths = bool(about.get("supports_no_truths", True))
        self.class_weights = tuple(map(str, about.get("class_weights", ())))
        self._offer(about)

    def _offer(self, about: dict[str, Any]) -> None:
        """Add `assign` and `loss` to this object, each only if the adapter in the worker has that method."""
        self._about = about
        if about["assigns"]:
            self.assign = self._assign
        if about["computes_loss"]:
            self.loss = self._loss
        if about.get("supports"):
            self.supports = self._supports

    def renewed(self) -> "RemoteAdapter":
        """Return a copy of this object, for which the worker makes a new adapter for every call."""
        other = copy(self)
        other._fresh = True
        other._offer(self._about)  # methods of the copy
        return other

    def in_new_worker(self) -> "RemoteAdapter":
        """Return the adapter in another worker process, without earlier calls.

        Raises:
            PackageUnavailable: the adapter could not be made in the other process.
        """
        worker = Worker(self.worker.launch, self.worker.timeout)
        return RemoteAdapter(self.name, worker, self.dialect_given, self.dialects)

    def answers(self, way: str, calls: Sequence[Call]) -> list[Answer]:
        """Make an adapter in the worker, call it in the given way, and return the results.

        Raises:
            WorkerError, ProtocolViolation: as `_ask`.
        """
        facts, tensors = self._ask(*encode_calls(way, calls))
        device = calls[0].device
        return decode_answers(facts, {name: tensor.to(device) for name, tensor in tensors.items()})

    def _supports(self, head: Head, hyperparameters: Hyperparameters, shapes: Shapes) -> bool | str:
        """Return the result of the adapter's `supports`, called in the worker."""
        facts = question("supports", head, hyperparameters, torch.device("cpu"))
        answer, _ = self._ask(facts | {"shapes": [list(shape) for shape in shapes]}, {})
        reason: str = answer["reason"]
        return reason or True

    def _assign(self, inputs: AssignerInputs) -> Assignment:
        """Call the adapter's assigner in the worker, and return the assignment."""
        arguments = {name: value for name, value in vars(inputs).items() if isinstance(value, Tensor)}
        facts = question("assign", inputs.head, inputs.hyperparameters, inputs.scores.device)
        _, tensors = self._ask(facts, arguments)
        device = inputs.scores.device
        return assignment_from({name: tensor.to(device) for name, tensor in tensors.items()})

    def _loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Compute the loss and its gradient in the worker, and return the loss."""
        device = annotations.device
        facts = question("loss", head, hyperparameters, device)
        facts["differentiate"] = torch.is_grad_enabled() and any(
            level.requires_grad for level in feature_maps
        )
        arguments = {f"level.{number}": level for number, level in enumerate(feature_maps)}
        answer, tensors = self._ask(facts, arguments | {"annotations": annotations})
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        gradients = [tensors.get(f"{GRADIENT}{number}") for number in range(len(feature_maps))]
        total = (
            GivenGradients.apply(tensors["total"], gradients, *feature_maps)
            if answer["total"]
            else tensors["total"]
        )
        loss = _exposed_loss(answer, tensors, total, head, hyperparameters)
        if "branches" not in answer:
            return loss
        branches = {}
        for name, visible in answer["branches"].items():
            own = branch_tensors(tensors, name)
            branches[name] = _exposed_loss(visible, own, own["total"], head, hyperparameters)
        return replace(loss, branches=branches)

    def _ask(self, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Question:
        """Send the arguments of one call to the worker, and return the results of the call.

        Raises:
            WorkerError: the adapter raised, or the process failed.
            ProtocolViolation: the adapter violated the protocol.
        """
        if self._fresh:
            facts = facts | {"fresh": True}
        try:
            ((answer, results),) = self.worker.ask([(facts, tensors)], longest_reply(facts, tensors))
        except WorkerFailed as error:
            raise WorkerError(error.what) from error
        if answer.get("raised") in REFUSED:
            raise ProtocolViolation(answer["message"])
        if "raised" in answer:
            types = tuple(answer.get("types", (answer["raised"],)))
            raise WorkerError(
                f"raised {answer['raised']}: {answer['message']}", answer.get("traceback"), types
            )
        return answer, results


def check_description(name: str, about: Mapping[str, Any]) -> None:
    """Raise unless a worker's first message, `about`, describes its adapter by fields of the expected types.

    Raises:
        PackageUnavailable: a field is missing or has another type.
    """
    for field, kind in DESCRIPTION.items():
        if not isinstance(about.get(field), kind):
            raise PackageUnavailable(
                f"{name}: its process described its adapter with {field} = {about.get(field)!r:.80}, expected "
                f"{kind.__name__}: code of the adapter wrote into the process's pipe"
            )
    if not all(isinstance(precision, str) for precision in about["precisions"]):
        raise PackageUnavailable(
            f"{name}: the worker reported precisions {about['precisions']!r:.80}; expected a list of names such as "
            "'autocast-float16'"
        )


def longest_reply(facts: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> int:
    """Return the maximum size in bytes of the tensors that a worker may correctly return for a call.

    Args:
        facts: fields of the call, such as head and hyperparameters.
        tensors: tensors among the call's arguments, by name.
    """
    if facts["kind"] == "supports":
        return HEADER
    if facts["kind"] != "calls":
        return longest_answer(tensors)
    each = (longest_answer(numbered(tensors, number)) for number, _ in enumerate(facts["calls"]))
    return MOST_ANSWERS * sum(each)


def longest_answer(tensors: Mapping[str, Tensor]) -> int:
    """Return the maximum size in bytes of all results and stages of one call, with 8 bytes for a number.

    Args:
        tensors: tensors among the call's arguments, by name.
    """
    if "scores" in tensors:
        images, anchors, classes = tensors["scores"].shape
        truths, gradients = tensors["labels"].shape[1], 0
    else:
        maps = [level for name, level in tensors.items() if name.startswith("level.")]
        images, classes = maps[0].shape[0], maps[0].shape[1]  # more channels than classes
        anchors = sum(level.shape[2] * level.shape[3] for level in maps)
        rows = tensors["annotations"][:, 0].long().clamp(0, images - 1)
        truths = int(torch.bincount(rows).max()) if len(rows) else 0
        gradients = sum(level.numel() for level in maps)
    assignment = images * anchors * (7 + classes + 5 * truths)
    inputs = images * anchors * (4 + classes) + 3 * anchors + images * truths * 6
    return 8 * (assignment + inputs + gradients) + HEADER


def question(kind: str, head: Head, hyperparameters: Hyperparameters, device: torch.device) -> dict[str, Any]:
    """Return the fields that a worker needs for every call: head, hyperparameters, device and mixed precision."""
    mixed = torch.is_autocast_enabled(device.type)
    return {
        "kind": kind,
        "head": head_as_dict(head),
        "hyperparameters": asdict(hyperparameters),
        "device": str(device),
        "autocast": str(torch.get_autocast_dtype(device.type)) if mixed else None,
    }


def answer(adapter: Any, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Question:
    """Call the adapter as a request of the suite demands, and return the results; runs in the worker.

    Raises:
        ProtocolViolation: the adapter returned a value that the protocol does not allow.
    """
    if facts["kind"] == "calls":
        return calls_answer(adapter, facts, tensors)
    head = head_from_dict(facts["head"])
    hyperparameters = Hyperparameters(**facts["hyperparameters"])
    if facts["kind"] == "supports":
        reason = asked_support(adapter.supports, head, hyperparameters, facts["shapes"])
        return {"reason": "" if reason is True else reason}, {}
    if facts.get("fresh"):
        adapter = KeptAdapter(remake(adapter))
    device = torch.device(facts["device"])
    originals = {name: tensor.to(device) for name, tensor in tensors.items()}
    given = {name: tensor.clone() for name, tensor in originals.items()}
    LAST.begin()
    copies = PlainCopies(LAST, device)
    with unchanged_torch_state(), forbid_side_effects(), mixed_precision(device, facts["autocast"]):
        if facts["kind"] == "assign":
            shown = copies.assignment(
                adapter.assign(AssignerInputs(**given, head=head, hyperparameters=hyperparameters))
            )
            reply: Question = {}, checked_tensors(shown, Assignment)
        else:
            reply = loss_answer(adapter, facts, given, head, hyperparameters, copies)
        check_inputs_unchanged({name: tensor.detach() for name, tensor in given.items()}, originals)
        strangers = [name for name, tensor in reply[1].items() if tensor.device != device]
        if strangers:
            raise ProtocolViolation(
                f"{strangers[0]} is on {reply[1][strangers[0]].device}, expected {device}"
            )
    LAST.check()
    return reply


REMAKE: list[Callable[[], Any]] = []
"""Makes the worker's adapter once more; used only in the worker."""


def remake(adapter: Any) -> Any:
    """Return a new adapter, without earlier calls, in the worker; the given adapter if it cannot be made again."""
    if not REMAKE:
        return adapter
    try:
        return REMAKE[0]()
    except Exception:  # the adapter was made before: the suite does not test that it can be made twice
        return adapter


def calls_answer(adapter: Any, facts: dict[str, Any], tensors: dict[str, Tensor]) -> Question:
    """Call the adapter in the way that the fields `facts` name, and return the results; runs in the worker."""
    calls = decode_calls(facts, tensors)
    with unchanged_torch_state(), forbid_side_effects():
        answers = run_calls(lambda: KeptAdapter(remake(adapter)), facts["way"], calls)
    return encode_answers(answers)


def loss_answer(
    adapter: Any,
    facts: dict[str, Any],
    tensors: dict[str, Tensor],
    head: Head,
    hyperparameters: Hyperparameters,
    copies: PlainCopies,
) -> Question:
    """Return the loss of a batch, its gradients, and the exposed tensors of its assigner; runs in the worker."""
    maps = tuple(
        tensors[f"level.{number}"].requires_grad_(facts["differentiate"])
        for number in range(sum(name.startswith("level.") for name in tensors))
    )
    loss = copies.loss(adapter.loss(maps, tensors["annotations"], head, hyperparameters), maps)
    if facts["differentiate"]:
        # the suite's process validates the results again, and finds the mistakes
        task = task_of(head, tensors["annotations"].shape[1], len(maps))
        check_loss(loss, maps, task, findings=Findings())
    total = loss.total.sum()
    results = {"total": total}
    if facts["differentiate"]:
        gradients: tuple[Tensor | None, ...] = torch.autograd.grad(total, maps, allow_unused=True)
        results |= {
            f"{GRADIENT}{level}": copies.gradient(level, gradient)
            for level, gradient in enumerate(gradients)
            if gradient is not None
        }
    visible, tensors_shown = _exposed(loss)
    answer = {"total": facts["differentiate"]} | visible
    if isinstance(loss.branches, dict):
        answer["branches"] = {}
        for name, part in loss.branches.items():
            answer["branches"][name], own = _exposed(part)
            own["total"] = part.total.sum()
            tensors_shown |= {f"{BRANCHES}.{name}.{key}": tensor for key, tensor in own.items()}
    return answer, results | tensors_shown


def _exposed(loss: Loss) -> Question:
    """Return the parts of a loss that an adapter may expose: which of them it exposes, and their tensors."""
    results = {} if loss.items is None else {"items": loss.items.detach()}
    if loss.assignment is not None:
        results |= checked_tensors(loss.assignment, Assignment)
    if loss.inputs is not None:
        results |= checked_tensors(loss.inputs, AssignerInputs)
    learns = loss.items is not None and loss.items.requires_grad
    visible = {"assignment": loss.assignment is not None, "inputs": loss.inputs is not None}
    return {"items_learn": learns} | visible, results


def _exposed_loss(
    visible: Mapping[str, Any],
    tensors: Mapping[str, Tensor],
    total: Tensor,
    head: Head,
    hyperparameters: Hyperparameters,
) -> Loss:
    """Rebuild a loss from the parts that `_exposed` returned in the worker."""
    shown = assignment_from(tensors) if visible["assignment"] else None
    read = inputs_from(tensors, head, hyperparameters) if visible["inputs"] else None
    items = tensors.get("items")
    if items is not None and visible.get("items_learn"):
        items.requires_grad_()
    return Loss(total, items, shown, read)


@contextmanager
def mixed_precision(device: torch.device, dtype: str | None) -> Iterator[None]:
    """Turn on automatic mixed precision while the `with` block runs, if `dtype` is not None."""
    with torch.autocast(device.type, dtype=DTYPES.get(dtype or ""), enabled=dtype is not None):
        yield


def checked_tensors(part: Any, kind: type) -> dict[str, Tensor]:
    """Return a dict from names to the tensors of an assignment, with its stages, or of an assigner's inputs.

    Raises:
        ProtocolViolation: `part` is not of the class `kind`, or a field is not a tensor.
    """
    if not isinstance(part, kind):
        raise ProtocolViolation(f"returned a value of type {type(part).__name__}, expected {kind.__name__}")
    tensors = tensors_of(part, kind.__name__)
    for field in fields(kind):
        value = getattr(part, field.name)
        if isinstance(value, Stages):
            tensors |= checked_tensors(value, Stages)
        elif value is None and kind is Assignment and field.name in OPTIONAL:
            continue
        elif f"{kind.__name__}.{field.name}" not in tensors and field.name not in NOT_TENSORS:
            raise ProtocolViolation(f"{kind.__name__}.{field.name} is {type(value).__name__}, not a tensor")
    return tensors


def assignment_from(tensors: Mapping[str, Tensor]) -> Assignment:
    """Rebuild the assignment, with its stages if any, from the tensors that the worker sent."""
    stages = part_from(tensors, Stages, Stages.__name__)
    assignment = named_assignment(tensors, stages)
    if assignment is None:
        raise ProtocolViolation("returned an assignment without any tensor")
    return assignment


def inputs_from(
    tensors: Mapping[str, Tensor], head: Head, hyperparameters: Hyperparameters
) -> AssignerInputs:
    """Rebuild the assigner's inputs from the tensors that the worker sent."""
    inputs: AssignerInputs = part_from(
        tensors, AssignerInputs, AssignerInputs.__name__, head=head, hyperparameters=hyperparameters
    )
    return inputs
