"""Checks of DEVICE-1 to DEVICE-3: violating implementations are found, and conforming implementations are accepted."""

from dataclasses import replace
from itertools import count

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.devices.checks import (
    allocates_on_device,
    first_difference,
    repeatable,
    same_as_cpu,
)
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.article import ArticleAdapter
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject

ASSIGNER = implementation_from(ArticleAdapter, "article")


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Recipe(images=((Truth("ordinary"), Truth("ordinary")), (Truth("ordinary"),)), classes=2).build()


def changing(name: str, change: float | str, every: int = 2) -> Implementation:
    """Return an adapter with only an assigner, whose results `change` modifies in every `every`-th call."""
    calls = count(1)

    class Changing:
        dialect = ArticleAdapter.dialect
        exposes_stages = True

        def assign(self, inputs: AssignerInputs) -> Assignment:
            assignment = ArticleAdapter().assign(inputs)
            return changed(assignment, change) if next(calls) % every == 0 else assignment

    Changing.name = name  # type: ignore[attr-defined]
    return implementation_from(Changing, name)


def changed(assignment: Assignment, change: float | str) -> Assignment:
    if isinstance(change, float):
        return replace(assignment, scores=assignment.scores * (1 + change))
    if change == "background":
        labels = torch.where(assignment.foreground, assignment.labels, assignment.labels + 1)
        return replace(assignment, labels=labels)
    assert assignment.stages is not None
    owners: Tensor = assignment.stages.positives.flip(1)
    return replace(assignment, stages=replace(assignment.stages, positives=owners))


@pytest.mark.parametrize("name", ["ultralytics", "article", "reference"])
def test_the_same_every_time(name: str, batch: Batch):
    assert repeatable(Subject(find(name), "cpu"), batch).verdict is Verdict.EXACT


@pytest.mark.parametrize("every", [2, 3])
def test_one_bit_that_comes_and_goes_is_nondeterministic(batch: Batch, every: int):
    bit = 2.0**-22
    with pytest.raises(Failure) as caught:
        repeatable(Subject(changing("flickers", bit, every), "cpu"), batch)
    failure = caught.value
    assert (failure.verdict, failure.stage, failure.clause) == (
        Verdict.NONDETERMINISTIC, "normalisation", "DEVICE-3",
    )  # fmt: skip
    assert "assignment.scores" in failure.summary
    assert failure.outcome is not None


def test_the_first_stage_that_differs_is_named(batch: Batch):
    with pytest.raises(Failure) as caught:
        repeatable(Subject(changing("swaps", "owners"), "cpu"), batch)
    assert caught.value.stage == "conflict"


def test_what_background_holds_by_chance_does_not_count(batch: Batch):
    assert repeatable(Subject(changing("chance", "background"), "cpu"), batch).verdict is Verdict.EXACT


def test_one_run_differs_from_itself_nowhere(batch: Batch):
    outcome = execute(ASSIGNER, batch)
    assert first_difference([outcome, outcome]) is None


def test_agreement_with_the_cpu_is_exact_or_within_rounding(batch: Batch):
    assert same_as_cpu(Subject(ASSIGNER, "cpu"), batch).verdict is Verdict.EXACT
    rounded = Subject(changing("rounds", 2.0**-23), "cpu")
    assert same_as_cpu(rounded, batch).verdict in (Verdict.EXACT, Verdict.WITHIN_BOUND)


def test_another_number_than_on_the_cpu_is_found(batch: Batch):
    with pytest.raises(Failure) as caught:
        same_as_cpu(Subject(changing("differs", 1e-3), "cpu"), batch)
    failure = caught.value
    assert (failure.verdict, failure.stage, failure.clause) == (
        Verdict.DIVERGENT,
        "normalisation",
        "DEVICE-2",
    )
    assert failure.summary.startswith("on cpu and not on the CPU, target score w is")


def test_other_numbers_on_the_device_alone_are_found(batch: Batch):
    class ByDevice:
        name = "by device"
        dialect = ArticleAdapter.dialect
        exposes_stages = True

        def assign(self, inputs: AssignerInputs) -> Assignment:
            assignment = ArticleAdapter().assign(inputs)
            return changed(assignment, 1e-3) if inputs.scores.is_cuda else assignment

    with pytest.raises(Failure) as caught:
        allocates_on_device(Subject(implementation_from(ByDevice, "by device"), "cpu"), batch)
    assert (caught.value.verdict, caught.value.clause) == (Verdict.DIVERGENT, "DEVICE-1")
    assert "on a simulated CUDA device" in caught.value.summary


def test_one_that_fails_on_the_cpu_fails_as_itself(batch: Batch):
    class Raises:
        name = "raises"

        def assign(self, inputs: AssignerInputs) -> Assignment:
            raise LookupError(f"theirs, about {len(inputs.labels)} images")

    with pytest.raises(Failure, match="theirs, about 2 images") as caught:
        allocates_on_device(Subject(implementation_from(Raises, "raises"), "cpu"), batch)
    assert caught.value.verdict is Verdict.ERROR
