"""The simulated device rejects operations on mixed devices as PyTorch does. The tests need no CUDA device."""

import re
from collections.abc import Callable
from importlib import resources

import pytest
import torch
from torch import Tensor

from tal_conformance.checks.devices.device_rules import STRICT, VALUES, arguments_of, forbidden
from tal_conformance.checks.devices.events import WrongDevice
from tal_conformance.checks.devices.simulated_cuda import SimulatedTensor, Simulation

ELEMENTWISE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "add": torch.add,
    "maximum": torch.maximum,
    "pow": torch.pow,
    "eq": torch.eq,
    "logical_and": torch.logical_and,
    "atan2": torch.atan2,
    "where": lambda one, other: torch.where(one > 0, one, other),
}
"""Operations that PyTorch has a rule for on every device but the CPU, the one without data too."""


def refused(call: Callable[[], object]) -> bool:
    try:
        call()
    except RuntimeError as error:
        if not re.search("on the expected device|expected all tensors", str(error)):
            raise
        return True
    return False


@pytest.mark.parametrize("swapped", [False, True])
@pytest.mark.parametrize("shape", [(), (1,), (3,)])
@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_operations_as_pytorch_does(name: str, shape: tuple[int, ...], swapped: bool):
    def call(there: Tensor) -> Tensor:
        here = torch.ones(shape)
        return ELEMENTWISE[name](here, there) if swapped else ELEMENTWISE[name](there, here)

    expected = refused(lambda: call(torch.ones(3, device="meta")))
    with Simulation():
        assert refused(lambda: call(torch.ones(3, device="cuda"))) == expected


def test_operations_that_ask_for_one_device_are_those_that_pytorch_lists():
    """Element-wise operations that PyTorch lists with a device check are in the simulation's list STRICT."""
    folder = resources.files("torchgen") / "packaged" / "ATen" / "native" / "native_functions.yaml"
    if not folder.is_file():
        pytest.skip("this PyTorch comes without its list of operations")
    entries = re.split(r"\n(?=- func: )", folder.read_text(encoding="utf-8"))
    asking = set()
    for entry in entries:
        name, _, overload = entry[len("- func: ") : entry.index("(")].partition(".")
        packet = getattr(torch.ops.aten, name, None)
        if packet is None or "device_check: NoCheck" in entry:
            continue
        kernel = "CUDA" in entry or "structured_delegate" in entry
        operation = getattr(packet, overload or "default", None)
        if operation is None or not kernel or torch.Tag.pointwise not in operation.tags:
            continue
        inputs = [argument for argument in operation._schema.arguments if not argument.kwarg_only]
        if sum("Tensor" in str(argument.type) for argument in inputs) > 1:
            asking.add(name)
    assert asking - {"ldexp"} <= STRICT  # ldexp calls product and power, which check devices
    assert {"clamp", "clamp_min", "clamp_max"} <= asking


ALLOWED: dict[str, Callable[[Tensor, Tensor], object]] = {
    "indices from the CPU": lambda there, here: there[here.long()],
    "a mask from the CPU": lambda there, here: there[here > 0],
    "a list": lambda there, here: there[[0, 2]],
    "a number by an index": lambda there, here: there.__setitem__(here.long(), torch.tensor(2.0)),
    "a row by a slice": lambda there, here: there.__setitem__(slice(None), here),
    "a number to fill with": lambda there, here: there.masked_fill(there > 0, torch.tensor(2.0)),
    "copy_": lambda there, here: there.copy_(here),
    "one number of three": lambda there, here: torch.addcmul(there, there, here[0]),
    "numbers of Python": lambda there, here: torch.where(there > 0, 1.0, 2.0),
}
FORBIDDEN: dict[str, Callable[[Tensor, Tensor], object]] = {
    "cat": lambda there, here: torch.cat((there, here)),
    "stack of numbers": lambda there, here: torch.stack((there[0], here[0])),
    "matrix product": lambda there, here: there @ here,
    "gather": lambda there, here: there.gather(0, here.long()),
    "scatter": lambda there, here: there.scatter(0, there.long(), here),
    "index_select": lambda there, here: there.index_select(0, here.long()),
    "indices from the device": lambda there, here: here[there.long()],
    "a mask to fill": lambda there, here: there.masked_fill(here > 0, 1.0),
    "values by an index": lambda there, here: there.__setitem__(there.long(), here),
    "two numbers of three": lambda there, here: torch.addcmul(there, here[0], here[0]),
    "in place": lambda there, here: here[0].mul_(there[0]),
    "bounds": lambda there, here: there.clamp(min=here[0]),
    "out": lambda there, here: torch.add(there, there, out=here),
    "equal": torch.equal,
    "cross entropy": torch.nn.functional.binary_cross_entropy_with_logits,
}


@pytest.mark.parametrize("name", ALLOWED)
def test_allowed(name: str):
    with Simulation() as simulation:
        ALLOWED[name](torch.ones(3, device="cuda"), torch.ones(3))
    assert simulation.watch.violations == []


@pytest.mark.parametrize("name", FORBIDDEN)
def test_forbidden(name: str):
    with Simulation() as simulation, pytest.raises(WrongDevice) as caught:
        FORBIDDEN[name](torch.ones(3, device="cuda"), torch.ones(3))
    assert simulation.watch.violations == [caught.value.violation]
    assert "test_device_rules.py" in str(caught.value)
    assert "made on the CPU by torch.ones" in str(caught.value)


def test_operations_on_one_device_are_never_forbidden():
    with Simulation():
        there = torch.ones(3, device="cuda")
        for tensors in ([there, there], [torch.ones(3), torch.ones(3)]):
            assert forbidden(torch.ops.aten.cat.default, arguments_of([tensors], {}, SimulatedTensor)) == []


def test_no_operation_is_in_two_lists():
    assert not VALUES & STRICT
