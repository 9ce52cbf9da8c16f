"""Changes of torch's global state by an implementation are found, named and undone."""

from collections.abc import Callable

import pytest
import torch

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.truths import Truth
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

CHANGES: dict[str, Callable[[], object]] = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "gradients enabled": lambda: torch.set_grad_enabled(False),
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
