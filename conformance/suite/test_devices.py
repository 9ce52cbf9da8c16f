"""DEVICE: equal results on every device and in every run."""

from collections.abc import Iterator
from functools import partial

import pytest
import torch
from hypothesis import strategies as st

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import LOSS_STRATEGIES, STRATEGIES_BY_TASK
from tal_conformance.checks.devices.checks import allocates_on_device, repeatable, same_as_cpu
from tal_conformance.checks.devices.events import Watch
from tal_conformance.checks.registry import check, share_of_examples
from tal_conformance.suite.checker import Checker

EVERY_STRATEGY = st.one_of(*LOSS_STRATEGIES.values())
PLACES = 12
"""Number of code lines with the most synchronisations and transfers that are logged."""


@pytest.fixture
def watch(checker: Checker) -> Iterator[Watch]:
    """Yield a counter of the implementation's synchronisations and transfers, and log it at the end."""
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
    """DEVICE-1: on a simulated CUDA device, the implementation creates its tensors where its inputs are."""
    if checker.subject.device != "cpu" or torch.cuda.is_available():
        pytest.skip("a CUDA device is available: every test runs on it, so that none is simulated")
    if checker.subject.implementation.in_subprocess:
        pytest.skip("the implementation runs in a separate process, where the device cannot be simulated")
    checker(recipe, by=partial(allocates_on_device, watch=watch), relates=True)


@check("DEVICE", batches=EVERY_STRATEGY, share=3, mutants="never")
def test_as_on_the_cpu(checker: Checker, recipe: Recipe) -> None:
    """DEVICE-2: the implementation's results on a CUDA device agree with its results on the CPU."""
    if checker.subject.device == "cpu":
        pytest.skip(
            "the test compares results on other devices with those on the CPU: nothing to compare on the CPU"
        )
    checker(recipe, by=same_as_cpu, relates=True)


@pytest.mark.clauses("DEVICE")
@pytest.mark.every_task
@pytest.mark.parametrize("name", LOSS_STRATEGIES)
def test_repeatable(checker: Checker, name: str) -> None:
    """DEVICE-3: repeated calls on a batch are bitwise equal. Flaky failures are not shrunk by Hypothesis."""
    strategy = STRATEGIES_BY_TASK[checker.subject.implementation.task][name]
    for recipe in sample_recipes(strategy, share_of_examples(3 * len(LOSS_STRATEGIES))):
        checker(recipe, by=repeatable, relates=True)
