"""Ways of calling, sequences and devices of end-to-end losses: correct losses pass, planted faults are found."""

from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.common.tiers import mostly_nightly

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import IMAGES
from tal_conformance.checks.calling.check import CallingFailure, called
from tal_conformance.checks.devices.checks import allocates_on_device, repeatable
from tal_conformance.checks.state.check import SequenceJudge, StateFailure, steps_of
from tal_conformance.checks.state.sequences import EPOCHS, SEQUENCES
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import E2E
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.calling.ways import WAYS
from tal_conformance.implementations.kept import KeptAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults import PROGRESS_FAULTS
from tal_conformance.mutation.planted_faults.end_to_end_use import Progress, ProgressFault, nothing, right
from tal_conformance.mutation.planted_faults.faulty_criterion import USAGE_FAULTS, UsageFault
from tal_reference import Head, Hyperparameters

RECIPE = Recipe(
    images=IMAGES[0],
    cells=(4, 6),
    strides=(8, 16),
    classes=3,
    reg_max=4,
    predictions="near",
    hyperparameters=Hyperparameters(updates=2, epochs=5),
    task=E2E.name,
)
BATCH = RECIPE.build()
QUICK = [name for name in WAYS if name not in ("compile", "two-processes", "threads")]
OTHER_K = {
    "fewer_positives_without_memory",
    "stays_small_after_an_error",
    "warm_up_of_ten_calls",
    "warm_up_of_fifty_calls",
    "k_of_the_first_call",
}
"""Faults of k, which an end-to-end loss fixes (E2E-2)."""
OF_ONE_ASSIGNMENT = {
    "total_divided_by_the_last_sum",
    "reduces_without_saying_so",
    "declares_a_mean_and_sums",
    "declares_a_reduction_and_has_none",
}
"""Faults that read the assignment of the loss; an end-to-end loss has two."""
FAULTS = [
    name
    for name, fault in USAGE_FAULTS.items()
    if name not in OTHER_K | OF_ONE_ASSIGNMENT and "compile" not in fault.check
]
DAILY = (
    "incoming_gradient_is_ignored",
    "read_in_memory_order",
    "anchors_cached_by_count",
    "gains_of_the_first_call",
)
"""Faults that CI plants; the nightly job plants all."""


class HiddenReference(ReferenceAdapter):
    """The reference's end-to-end loss without its branches."""

    name, tasks, exposes_stages = "hidden", (E2E.name,), False

    def loss(self, *arguments: Any) -> Loss:
        return replace(super().loss(*arguments), branches=None)

    assign = None  # type: ignore[assignment] # a loss alone


def subject_of(name: str) -> Subject:
    found = implementation_from(HiddenReference, name) if name == "hidden" else find(name)
    return Subject(found, "cpu")


def judge(implementation: Implementation, sequence: str) -> None:
    SequenceJudge(Subject(implementation, "cpu"), sequence).judge(steps_of(RECIPE, sequence))


def call_or_judge(fault: UsageFault) -> None:
    """Run the check that must find a fault on a loss that exposes nothing else."""
    implementation, where = fault.implementation("loss"), fault.check.partition("[")[2].rstrip("]")
    if fault.stage == "state":
        judge(implementation, where)
    else:
        called(Subject(implementation, "cpu"), BATCH, where)


@pytest.mark.parametrize("way", QUICK)
@pytest.mark.parametrize("name", [pytest.param("hidden", marks=pytest.mark.long), "ultralytics"])
def test_right_losses_pass_in_every_way(name: str, way: str):
    assert called(subject_of(name), BATCH, way).task is E2E


@pytest.mark.parametrize("sequence", mostly_nightly(list(SEQUENCES), ("epochs", "multi-scale")))
@pytest.mark.parametrize("name", [pytest.param("hidden", marks=pytest.mark.long), "ultralytics"])
def test_right_losses_pass_every_sequence(name: str, sequence: str):
    judge(subject_of(name).implementation, sequence)


@pytest.mark.parametrize("name", mostly_nightly(FAULTS, DAILY))
def test_faults_of_other_losses_are_found(name: str):
    fault = USAGE_FAULTS[name]
    with pytest.raises((CallingFailure, StateFailure)) as caught:
        call_or_judge(fault)
    assert (caught.value.stage, caught.value.clause) == (fault.stage, fault.clause)


@pytest.mark.slow
@pytest.mark.parametrize(
    "exposes", ["stages", *(pytest.param(name, marks=pytest.mark.long) for name in ("outputs", "loss"))]
)
@pytest.mark.parametrize(
    "name", mostly_nightly(list(PROGRESS_FAULTS), ("updated_by_every_batch", "epochs_read_once"))
)
def test_wrong_updates_are_found(name: str, exposes: str):
    """E2E-5: the failure names the sequence, and the weights where they are known."""
    fault = PROGRESS_FAULTS[name]
    assert fault.implementation is not None
    with pytest.raises(StateFailure, match="sequence 'epochs'") as caught:
        judge(fault.implementation(exposes), "epochs")
    assert (caught.value.stage, caught.value.clause) == ("state", "E2E-5")


@pytest.mark.slow
def test_right_updates_pass():
    judge(
        ProgressFault("right", right, nothing).as_fault().implementation("stages"),  # type: ignore[misc] # not None
        "epochs",
    )


class Counting:
    """An adapter whose criteria count their updates."""

    def __init__(self) -> None:
        self.made: list[Progress] = []

    def make(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        progress = Progress(hyperparameters.updates, hyperparameters.epochs)
        self.made.append(progress)

        class Criterion:
            def __call__(self, *_: Any) -> Any:
                return progress.updates

            def update(self, numbers: Hyperparameters) -> None:
                right(progress, numbers)
                assert numbers.updates == progress.updates

        return Criterion()


def test_a_criterion_is_kept_and_updated_once_for_each_epoch():
    adapter = Counting()
    kept, head = KeptAdapter(adapter), Head((8,), 1)
    for updates in (0, 0, 1, 4):
        assert kept.loss((), None, head, Hyperparameters(updates=updates, epochs=EPOCHS)) == updates
    assert adapter.made == [Progress(4, EPOCHS)]
    # resumed at an earlier epoch, or with other gains: a new criterion
    assert kept.loss((), None, head, Hyperparameters(updates=2, epochs=EPOCHS)) == 2
    assert kept.loss((), None, head, Hyperparameters(updates=3, box_gain=1.0)) == 3
    assert adapter.made == [Progress(4, EPOCHS), Progress(2, EPOCHS), Progress(3, 100)]


class OnTheCPU(ReferenceAdapter):
    """A loss that computes the weight of one2one on the CPU."""

    name, tasks = "on-the-cpu", (E2E.name,)

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        assert loss.branches is not None
        return replace(loss, total=loss.total.cpu().to(arguments[0][0].device))


class BranchOnTheCPU(ReferenceAdapter):
    """A loss that returns the items of one branch on the CPU."""

    name, tasks = "branch-on-the-cpu", (E2E.name,)

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        assert loss.branches is not None
        one = loss.branches["one2one"]
        assert one.items is not None
        moved = replace(one, items=one.items.cpu())
        return replace(loss, branches={**loss.branches, "one2one": moved})


@pytest.mark.parametrize("name", ["hidden", "ultralytics"])
def test_right_losses_stay_on_a_simulated_device(name: str):
    assert not allocates_on_device(subject_of(name), BATCH).verdict.fails


@pytest.mark.parametrize("adapter", [OnTheCPU, BranchOnTheCPU])
def test_results_on_another_device_are_found(adapter: type):
    with pytest.raises(Failure) as caught:
        allocates_on_device(Subject(implementation_from(adapter, "own"), "cpu"), BATCH)
    assert caught.value.clause == "DEVICE-1"


class Flickering(ReferenceAdapter):
    """A loss whose branch one2one has other items in every second call."""

    name, tasks = "flickering", (E2E.name,)
    calls = 0

    def loss(self, *arguments: Any) -> Loss:
        loss = super().loss(*arguments)
        self.calls += 1
        assert loss.branches is not None
        one = loss.branches["one2one"]
        assert one.items is not None
        items = one.items * (1 + (self.calls % 2) * torch.finfo(torch.float32).eps)
        return replace(loss, branches={**loss.branches, "one2one": replace(one, items=items)})


def test_other_bits_in_one_branch_are_found():
    assert not repeatable(subject_of("ultralytics"), BATCH).verdict.fails
    with pytest.raises(Failure, match=r"branches\.one2one\.loss\.items") as caught:
        repeatable(Subject(implementation_from(Flickering, "own"), "cpu"), BATCH)
    assert (caught.value.stage, caught.value.clause) == ("one2one/cls", "DEVICE-3")
