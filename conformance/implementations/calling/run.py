"""Call an implementation in a given way, or several times in a row, in this process or in a worker process."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.case_file import head_as_dict, head_from_dict
from tal_conformance.implementations.calling.call import Answer, Call, Caller, Mode
from tal_conformance.implementations.calling.ways import WAYS
from tal_conformance.implementations.guards.exceptions import failure_from
from tal_conformance.implementations.kept import KeptAdapter
from tal_reference import Hyperparameters

IN_TURN = "in turn"
"""Name that stands for plain calls in sequence, instead of a way of calling."""
DTYPES = {str(dtype): dtype for dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16)}


def run_calls(make: Callable[[], KeptAdapter], way: str, calls: Sequence[Call]) -> list[Answer]:
    """Make an adapter, call it in the given way, and return the results up to and including the first failure.

    Args:
        make: function that makes the adapter.
        way: way of calling: a key of `WAYS`, or `IN_TURN` for all calls one after the other.
        calls: the arguments of the calls.
    """
    answers: list[Answer] = []
    try:
        answers.extend(_answers(Caller(make(), calls), way))
    except MemoryError:
        raise  # a worker that reached its limit ends
    except BaseException as error:  # pytest.skip() and SystemExit too
        failed = failure_from(error)
        number = min(len(answers), len(calls) - 1) if way == IN_TURN else 0
        how = "" if way == IN_TURN else f"in the way {way!r}"
        answers.append(Answer(number, how, {}, failed.what, failed.details))
    return answers


def _answers(caller: Caller, way: str) -> Iterator[Answer]:
    if way == IN_TURN:
        for number, _ in enumerate(caller.calls):
            yield caller.plain("", number)
        return
    chosen = WAYS[way]
    run = chosen.assign if caller.calls[0].kind == "assign" else chosen.loss
    if run is not None:
        yield from run(caller)


def encode_calls(way: str, calls: Sequence[Call]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return calls as the fields and tensors of a message to a worker."""
    facts = [
        {
            "kind": call.kind,
            "head": head_as_dict(call.head),
            "hyperparameters": asdict(call.hyperparameters),
            "autocast": None if call.autocast is None else str(call.autocast),
            "mode": call.mode.value,
            "device": str(call.device),
        }
        for call in calls
    ]
    tensors = {
        f"{number}.{name}": tensor
        for number, call in enumerate(calls)
        for name, tensor in call.tensors.items()
    }
    return {"kind": "calls", "way": way, "calls": facts}, tensors


def decode_calls(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[Call]:
    """Return the calls from the fields and tensors of a message to a worker."""
    return [
        Call(
            facts["kind"],
            head_from_dict(facts["head"]),
            Hyperparameters(**facts["hyperparameters"]),
            {name: tensor.to(facts["device"]) for name, tensor in numbered(tensors, number).items()},
            DTYPES.get(facts["autocast"] or ""),
            Mode(facts["mode"]),
        )
        for number, facts in enumerate(fields["calls"])
    ]


def encode_answers(answers: Sequence[Answer]) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the results of calls as the fields and tensors of a message from a worker."""
    facts = [
        {"call": answer.call, "how": answer.how, "failure": answer.failure, "details": answer.details}
        for answer in answers
    ]
    tensors = {
        f"{number}.{name}": tensor
        for number, answer in enumerate(answers)
        for name, tensor in answer.tensors.items()
    }
    return {"calls": facts}, tensors


def decode_answers(fields: Mapping[str, Any], tensors: Mapping[str, Tensor]) -> list[Answer]:
    """Return the results of calls from the fields and tensors of a worker's message."""
    return [
        Answer(facts["call"], facts["how"], numbered(tensors, number), facts["failure"], facts["details"])
        for number, facts in enumerate(fields["calls"])
    ]


def numbered(tensors: Mapping[str, Tensor], number: int) -> dict[str, Tensor]:
    """Return the tensors whose names begin with the given number and a dot, without this prefix."""
    prefix = f"{number}."
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
