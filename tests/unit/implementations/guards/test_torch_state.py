"""Changes of torch's global state by an implementation are detected, reported by name and undone."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.implementations.adapters.article import ArticleAdapter
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.guards.torch_state import (
    StateChanged,
    official_code,
    torch_state,
    unchanged_torch_state,
)
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find

ENTERED: list[Any] = []


class Doubling(TorchFunctionMode):
    """Function mode that doubles the result of every function of torch."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        return result + result if isinstance(result, torch.Tensor) else result


class Dispatching(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return func(*args, **(kwargs or {}))


CHANGES: dict[str, Callable[[], object]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "gradients enabled": lambda: torch.set_grad_enabled(False),
    "default device": lambda: torch.set_default_device("meta"),
    "inference mode": lambda: ENTERED.append(torch.inference_mode()) or ENTERED[-1].__enter__(),
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True),
    "denormal numbers flushed": lambda: torch.set_flush_denormal(True),
    "function modes": lambda: Doubling().__enter__(),
    "dispatch modes": lambda: Dispatching().__enter__(),
    "autocast on cpu": lambda: torch.set_autocast_enabled("cpu", True),
    "autocast dtype on cpu": lambda: torch.set_autocast_dtype("cpu", torch.float16),
    "cuDNN deterministic": lambda: setattr(
        torch.backends.cudnn, "deterministic", not torch.backends.cudnn.deterministic
    ),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "deterministic algorithms": lambda: torch.use_deterministic_algorithms(True),
    "float32 matmul precision": lambda: torch.set_float32_matmul_precision("medium"),
    "cuDNN benchmark": lambda: setattr(torch.backends.cudnn, "benchmark", not torch.backends.cudnn.benchmark),
    "random numbers": lambda: torch.rand(1),
}


@pytest.mark.parametrize("what", CHANGES)
def test_a_change_is_named_and_put_back(what: str):
    before = torch_state()
    with pytest.raises(StateChanged, match=what), unchanged_torch_state():
        CHANGES[what]()
    after = torch_state()
    assert torch.equal(before.pop("random numbers"), after.pop("random numbers"))
    assert after == before


def test_an_exception_passes_and_the_state_is_put_back():
    before = torch.get_default_dtype()
    with pytest.raises(KeyError), unchanged_torch_state():  # noqa: PT012 - the change comes before the exception
        torch.set_default_dtype(torch.float64)
        raise KeyError("theirs")
    assert torch.get_default_dtype() == before


def test_an_implementation_that_draws_random_numbers_fails():
    class Draws(ArticleAdapter):
        def assign(self, inputs: AssignerInputs) -> Assignment:
            torch.rand(1)
            return super().assign(inputs)

    batch = Recipe(images=((Truth("ordinary"),),)).build()
    with pytest.raises(ImplementationFailed, match="random numbers"):
        execute(implementation_from(Draws(), "draws"), batch)


def test_the_official_code_shows_a_patched_method(monkeypatch: pytest.MonkeyPatch):
    find("ultralytics")
    before = official_code()
    assert set(before) >= {"ultralytics.utils.tal", "ultralytics.utils.loss"}
    assert official_code() == before
    from ultralytics.utils.tal import TaskAlignedAssigner

    monkeypatch.setattr(TaskAlignedAssigner, "get_targets", lambda self: None)
    assert official_code()["ultralytics.utils.tal"] != before["ultralytics.utils.tal"]
