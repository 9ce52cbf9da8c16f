"""The simulated CUDA device looks real to Python, computes the CPU's values, and changes nothing permanently."""

import copy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import _get_current_dispatch_mode

from tal_conformance.checks.devices.events import WrongDevice
from tal_conformance.checks.devices.simulated_cuda import SimulatedTensor, Simulation, to_host
from tal_conformance.implementations.guards.torch_state import torch_state

ROOT = Path(__file__).parents[4]
CUDA = torch.device("cuda", 0)

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="stands in for a CUDA device, and there is one"
)

ON_DEVICE: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "to by name": lambda there, here: here.to("cuda"),
    "to by device": lambda there, here: here.to(there.device),
    "to by index": lambda there, here: here.to(0),
    "to by keyword": lambda there, here: here.to(dtype=torch.float64, device="cuda:0"),
    "to like": lambda there, here: here.to(there),
    "type_as": lambda there, here: here.type_as(there),
    "cuda": lambda there, here: here.cuda(),
    "factory": lambda there, here: torch.full((2,), 1.5, device=there.device),
    "tensor": lambda there, here: torch.tensor([1.0, 2.0], device="cuda"),
    "tensor of a tensor": lambda there, here: torch.tensor(there),
    "as_tensor": lambda there, here: torch.as_tensor([1.0], device="cuda"),
    "as_tensor of a tensor": lambda there, here: torch.as_tensor(here, device="cuda"),
    "new_tensor": lambda there, here: there.new_tensor([1.0]),
    "new_zeros": lambda there, here: there.new_zeros(3),
    "new_zeros elsewhere": lambda there, here: here.new_zeros(3, device="cuda"),
    "zeros_like": lambda there, here: torch.zeros_like(there),
    "zeros_like elsewhere": lambda there, here: torch.zeros_like(here, device="cuda"),
    "arithmetic": lambda there, here: (there * 2 + 1).sqrt(),
    "a number from the CPU": lambda there, here: there + torch.tensor(1.0),
    "index": lambda there, here: there[there > 0],
    "made inside PyTorch": lambda there, here: torch.combinations(there),
    "padded inside PyTorch": lambda there, here: torch.nn.utils.rnn.pad_sequence([there, there[:1]]),
    "one_hot": lambda there, here: torch.nn.functional.one_hot(there.long()),
    "detach": lambda there, here: there.detach(),
    "data": lambda there, here: there.data,
    "deepcopy": lambda there, here: copy.deepcopy(there),
    "parameter": lambda there, here: torch.nn.Parameter(there),
}
ON_CPU: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "cpu": lambda there, here: there.cpu(),
    "to by name": lambda there, here: there.to("cpu"),
    "to with a dtype": lambda there, here: there.to("cpu", torch.float64),
    "to like": lambda there, here: there.to(here),
    "factory": lambda there, here: torch.ones(3),
    "arange by a number of the device": lambda there, here: torch.arange(there.sum()),
    "tensor": lambda there, here: torch.tensor([1.0]),
    "zeros_like elsewhere": lambda there, here: torch.zeros_like(there, device="cpu"),
    "new_zeros elsewhere": lambda there, here: there.new_zeros(3, device="cpu"),
    "copy_": lambda there, here: here.copy_(there),
}


@pytest.mark.parametrize("name", ON_DEVICE)
def test_on_the_device(name: str):
    with Simulation() as simulation:
        made = ON_DEVICE[name](torch.ones(3, device="cuda"), torch.ones(3))
        assert isinstance(made, (SimulatedTensor, torch.nn.Parameter))
        assert (made.device, made.is_cuda, made.is_cpu, made.get_device()) == (CUDA, True, False, 0)
    assert simulation.watch.violations == []


@pytest.mark.parametrize("name", ON_CPU)
def test_on_the_cpu(name: str):
    with Simulation():
        made = ON_CPU[name](torch.ones(3, device="cuda"), torch.ones(3))
        assert type(made) is Tensor
        assert made.device.type == "cpu"


def test_numbers_are_those_of_the_cpu_forward_and_backward():
    def computed(device: str) -> tuple[Tensor, ...]:
        value = torch.linspace(-2, 2, 24).view(4, 6).to(device).requires_grad_()
        chosen = value.softmax(1).topk(3, dim=1)
        table = torch.zeros_like(value).scatter(1, chosen.indices, chosen.values)
        table[table > 0.2] *= 2
        loss = torch.nn.functional.binary_cross_entropy_with_logits(value, table.detach(), reduction="sum")
        (gradient,) = torch.autograd.grad((loss * value[1, 2]).atan(), value)
        return chosen.indices, table, loss, gradient

    expected = computed("cpu")
    with Simulation() as simulation:
        observed = computed("cuda")
    assert simulation.watch.violations == []
    for one, other in zip(expected, observed, strict=True):
        assert isinstance(other, SimulatedTensor)
        assert torch.equal(one, to_host(other))


def test_what_is_written_into_a_view_is_in_the_tensor():
    with Simulation():
        table = torch.zeros(3, 4, device="cuda")
        table[1].add_(1)
        table.T[0] = torch.arange(3.0, device="cuda")
        table.unsqueeze_(0)
        assert table.tolist() == [[[0, 0, 0, 0], [1, 1, 1, 1], [2, 0, 0, 0]]]
        assert tuple(table.shape) == (1, 3, 4)


@pytest.mark.parametrize("read", [float, bool, int, Tensor.item, Tensor.tolist, "{:.3f}".format])
def test_reading_a_number_is_a_synchronisation(read: Callable[[Tensor], object]):
    with Simulation() as simulation:
        number = torch.ones((), device="cuda")
        assert str(read(number)) == str(read(torch.ones(())))
    ((operation, line),) = simulation.watch.synchronisations
    assert operation.startswith("Tensor.")
    assert Path(line.path) == Path(__file__)


@pytest.mark.parametrize(
    ("name", "run"),
    [
        ("Tensor.nonzero", lambda there: there.nonzero()),
        ("Tensor.__getitem__", lambda there: there[there > 0]),
        ("Tensor.__setitem__", lambda there: there.__setitem__(there > 0, 2.0)),
        ("torch.equal", lambda there: torch.equal(there, there)),
        ("Tensor.unique", lambda there: there.unique()),
        ("Tensor.cpu", lambda there: there.cpu()),
        ("torch.cuda.synchronize", lambda there: torch.cuda.synchronize()),
    ],
)
def test_what_the_cpu_waits_for_is_counted(name: str, run: Callable[[Tensor], object]):
    with Simulation() as simulation:
        run(torch.ones(3, device="cuda"))
    assert {operation for operation, _ in simulation.watch.synchronisations} == {name}


def test_what_waits_for_nothing_is_not_counted():
    with Simulation() as simulation:
        there = torch.ones(3, device="cuda")
        torch.where(there > 0, there.sort().values, there[there.long().clamp(max=2)]).cumsum(0)
    assert not simulation.watch.synchronisations
    assert not simulation.watch.transfers


def test_transfers_are_counted_and_are_no_violation():
    with Simulation() as simulation:
        there = torch.arange(3).to("cuda")
        there[0] = 5
        there[[0, 1]]
        there[1:] = torch.ones(2, dtype=torch.long)
    counted = {operation: count for (operation, _), count in simulation.watch.transfers.items()}
    assert counted == {"Tensor.to": 1, "Tensor.__getitem__": 1, "Tensor.__setitem__": 1}
    assert simulation.watch.violations == []


@pytest.mark.parametrize("convert", [Tensor.numpy, np.asarray, np.array])
def test_a_tensor_on_the_device_has_no_array(convert: Callable[[Tensor], object]):
    with Simulation() as simulation:
        with pytest.raises(TypeError, match="no NumPy array"):
            convert(torch.ones(3, device="cuda"))
        assert len(simulation.watch.violations) == 1
        assert torch.ones(3, device="cuda").numpy(force=True).tolist() == [1, 1, 1]


def test_numbers_that_leave_for_good_are_no_violation():
    with Simulation() as simulation:
        left = torch.ones(3, device="cuda").cpu()
        assert (left + 1).numpy().tolist() == [2, 2, 2]
        torch.zeros_like(torch.ones(3, device="cuda"), device="cpu").cuda()  # only the shape left the device
    assert simulation.watch.violations == []


def test_numbers_that_come_back_are_a_violation_at_both_lines():
    with Simulation() as simulation:
        moved = torch.ones(3, device="cuda").cpu()
        torch.stack((moved, moved)).sum(0).cuda()
    (violation,) = simulation.watch.violations
    assert violation.operation == "Tensor.cuda"
    (origin,) = violation.origins
    assert (origin.operation, origin.moved, origin.line.number + 1) == (
        "Tensor.cpu",
        True,
        violation.line.number,
    )


def test_an_error_of_pytorch_is_its_own():
    with Simulation(), pytest.raises(RuntimeError, match=r"must match|size"):
        torch.ones(3, device="cuda") + torch.ones(4, device="cuda")


def state() -> dict[str, object]:
    names = "_lazy_init", "is_available", "device_count", "current_device", "synchronize"
    known = {name: getattr(torch.cuda, name) for name in names}
    known |= {key: value for key, value in torch_state().items() if key != "random numbers"}
    known |= {"modes": torch._C._len_torch_function_stack(), "mode": _get_current_dispatch_mode()}
    return known | {"attributes": sorted(vars(torch)), "of tensors": sorted(vars(Tensor))}


def test_nothing_is_left_behind():
    before, numbers = state(), torch.get_rng_state()
    with Simulation():
        torch.ones(3, device="cuda").sum().item()
    assert state() == before
    assert torch.equal(torch.get_rng_state(), numbers)


def test_nothing_is_left_behind_after_an_error():
    before = state()
    with pytest.raises(WrongDevice), Simulation():
        torch.ones(3, device="cuda") + torch.ones(3)
    assert state() == before
    with Simulation():
        assert torch.ones(3, device="cuda").sum() == 3


@pytest.mark.slow
def test_a_process_that_simulated_fails_on_cuda_as_before():
    """After a simulation, using CUDA raises the same error as before, although PyTorch caches its initialisation."""
    code = """
import sys, torch
def told():
    try:
        torch.zeros(1, device="cuda")
    except Exception as error:
        return type(error).__name__, str(error)
if sys.argv[1] == "simulate":
    from tal_conformance.checks.devices import simulate
    from tal_conformance.batches import Recipe, Truth
    from tal_conformance.implementations import find
    for name in ("article", "reference", "ultralytics"):
        assert simulate(find(name), Recipe(images=((Truth("ordinary"),),)).build()).outcome
x = torch.ones(3, requires_grad=True)
x.sum().backward()
print(told(), told(), torch.cuda.is_initialized(), x.grad.tolist())
"""
    said = [
        subprocess.run(
            [sys.executable, "-c", code, how],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=True,
            timeout=300,
        ).stdout
        for how in ("not", "simulate")
    ]
    assert said[0] == said[1]
    assert "[1.0, 1.0, 1.0]" in said[0]


def test_a_simulation_inside_another_is_refused():
    with Simulation(), pytest.raises(RuntimeError, match="inside another"), Simulation():
        pass
    with Simulation():
        pass


def test_a_tensor_that_outlives_its_simulation_can_be_shown_and_not_used():
    with Simulation():
        there = torch.ones(3, device="cuda")
    assert repr(there) == "tensor([1., 1., 1.]) on cuda:0"
    with pytest.raises(RuntimeError, match="after its simulation ended"):
        there + 1
    with Simulation():
        assert (there + 1).tolist() == [2, 2, 2]
