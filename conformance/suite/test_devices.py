"""DEVICE: the same on every device, every time."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import strategies as st

from tal_conformance.batches.named_strategies import LOSS_STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.checks.devices.checks import allocates_on_device, repeatable, same_as_cpu
from tal_conformance.checks.devices.events import Watch
from tal_conformance.checks.registry import check, share_of_examples
from tal_conformance.suite.checker import Checker

EVERY_STRATEGY = st.one_of(*LOSS_STRATEGIES.values())
PLACES = 12
"""Lines of an implementation's code that are listed."""


@pytest.fixture
def watch(checker: Checker) -> Iterator[Watch]:
    """Takes what the implementation waits for and transfers; the log gets it at the end."""
    seen = Watch()
    yield seen
    if not seen.batches:
        return
    checker.sink.line(
        "synchronisations",
        implementation=checker.subject.implementation.name,
        device="cuda (simulated)",
        batches=seen.batches,
        synchronisations=seen.synchronisations.total(),
        transfers=seen.transfers.total(),
        places=seen.places(PLACES),
    )


@check("DEVICE", batches=EVERY_STRATEGY, share=3, mutants="never")
def test_made_on_the_device(checker: Checker, watch: Watch, recipe: Recipe) -> None:
    """DEVICE-1: without a CUDA device, on a simulated one."""
    if checker.subject.device != "cpu" or torch.cuda.is_available():
        pytest.skip("there is a CUDA device: every test runs on it")
    if checker.subject.implementation.in_subprocess:
        pytest.skip("a simulated device cannot follow an implementation into a process of its own")
    checker(recipe, by=partial(allocates_on_device, watch=watch), relates=True)


@check("DEVICE", batches=EVERY_STRATEGY, share=3, mutants="never")
def test_as_on_the_cpu(checker: Checker, recipe: Recipe) -> None:
    """DEVICE-2: with a CUDA device, an implementation there against itself on the CPU."""
    if checker.subject.device == "cpu":
        pytest.skip("what other devices are compared with")
    checker(recipe, by=same_as_cpu, relates=True)


@pytest.mark.clauses("DEVICE")
@pytest.mark.parametrize("lane", LOSS_STRATEGIES)
def test_repeatable(checker: Checker, lane: str) -> None:
    """DEVICE-3: the same batches again and again. Hypothesis cannot shrink what comes and goes: they are only drawn."""
    for recipe in sample_recipes(lane, share_of_examples(3 * len(LOSS_STRATEGIES))):
        checker(recipe, by=repeatable, relates=True)
