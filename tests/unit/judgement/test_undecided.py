"""A feasibility problem that reaches its time limit makes the judgement inconclusive, with the reason."""

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from tests.fauxmplementations.relation_faults import OutputsOnly
from tests.unit.judgement.hidden.test_inferred import MANY_EQUALS, MIRRORED, Hidden, OtherWay
from tests.unit.judgement.hidden.test_read import TIED, Changed

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.checker import NoSink
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.core.verdicts import State, Undecided, Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.oracle import admissible
from tal_conformance.judgement.oracle.admissible import Ownership, Range, is_reachable, may_own, top_k_choices
from tal_conformance.suite.checker import ENOUGH_BATCHES, Checker
from tal_reference import Hyperparameters

REASON = "no admissible selection was found"
PLAIN = Recipe(images=((Truth("ordinary"), Truth("mirrored")),), predictions="near")
TOPK2 = replace(PLAIN, hyperparameters=Hyperparameters(topk=5, topk2=2))


def large_problem() -> tuple[Any, ...]:
    """Return arguments of `is_reachable`: 40 ground truths, 400 tied anchors, and a correct assignment."""
    chance = torch.Generator().manual_seed(0)
    truths, anchors, k = 40, 400, 10

    def noise() -> torch.Tensor:
        return torch.rand(truths, anchors, generator=chance, dtype=torch.float64)  # (M, A)

    metric = (noise() * 3).floor() / 4 * (noise() < 0.3)  # (M, A)
    candidate = metric > 0
    overlap = (1 + noise() * 3).floor() * candidate  # (M, A)
    best = (metric + noise() / 100).topk(k).indices  # (M, k)
    selected = torch.zeros_like(candidate).scatter(1, best, True) & candidate
    largest, alone = (overlap + noise() / 100).argmax(0), selected.int().argmax(0)  # (A,), (A,)
    owners = Ownership(selected.any(0), torch.where(selected.sum(0) > 1, largest, alone))
    choices = top_k_choices(Range.exact(metric), candidate, candidate, k)
    return choices, may_own(Range.exact(overlap)), owners


def test_a_problem_that_reaches_the_limit_is_undecided(monkeypatch: pytest.MonkeyPatch):
    problem = large_problem()
    assert is_reachable(*problem)
    monkeypatch.setattr(admissible, "FEASIBILITY_SECONDS", 1e-9)
    with pytest.raises(Undecided, match=rf"{REASON}.* within 1e-09 s \(status 1 of the solver HiGHS\)"):
        is_reachable(*problem)


@pytest.mark.parametrize("status", [1, 3, 4])
def test_a_solver_that_gives_up_has_not_ruled_out_anything(status: int, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: SimpleNamespace(x=None, status=status))
    with pytest.raises(Undecided, match=f"status {status}"):
        is_reachable(*large_problem())


def test_a_solution_that_was_found_before_the_limit_decides(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("scipy.optimize.milp", lambda *_, **__: SimpleNamespace(x=torch.ones(1), status=1))
    assert is_reachable(*large_problem())


@pytest.fixture
def no_time(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Make every feasibility problem reach its time limit, and return the list of the modules that posed one."""
    callers: list[str] = []

    def undecided(*_: Any) -> bool:
        import inspect

        callers.append(inspect.stack()[1].filename.rsplit("/", 1)[-1])
        raise Undecided(REASON)

    for module in ("assignment.outputs", "assignment.stages", "hidden.fit"):
        monkeypatch.setattr(f"tal_conformance.judgement.{module}.is_reachable", undecided)
    return callers


def subject(adapter: Any) -> Subject:
    return Subject(implementation_from(adapter, "tested"), "cpu")


class HalfScores(OutputsOnly):
    """An assigner whose target scores are half as large as the correct scores."""

    def assign(self, inputs: AssignerInputs) -> Assignment:
        found: Assignment = super().assign(inputs)
        return replace(found, scores=found.scores / 2)


CALLERS = {
    "outputs.py": (OutputsOnly(), PLAIN),
    "stages.py": (ReferenceAdapter(), TOPK2),
    "fit.py": (Hidden(OtherWay()), MANY_EQUALS),
}


@pytest.mark.parametrize("caller", CALLERS)
def test_every_caller_is_inconclusive(caller: str, no_time: list[str], monkeypatch: pytest.MonkeyPatch):
    adapter, recipe = CALLERS[caller]
    if caller == "fit.py":  # disable the search for other assignments that explain the loss
        monkeypatch.setattr("tal_conformance.judgement.hidden.fit.assignments", lambda *_, **__: iter(()))
        monkeypatch.setattr("tal_conformance.judgement.hidden.read.ReadAssignment.settled", lambda *_: None)
    judgement = judge_against_reference(subject(adapter), recipe.build())
    assert caller in no_time
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert judgement.notes == [REASON]


def test_stages_that_were_not_decided_are_not_shown(no_time: list[str]):
    judgement = judge_against_reference(subject(OutputsOnly()), PLAIN.build())
    states = [judgement.stages[name].state for name in ("candidates", "top-k", "conflict")]
    assert states == [State.NOT_SHOWN] * 3
    assert judgement.stages["normalisation"].state is State.AGREES


def test_a_fault_of_another_stage_is_divergent_all_the_same(no_time: list[str]):
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject(HalfScores()), PLAIN.build(), alone=True)
    assert caught.value.verdict is Verdict.DIVERGENT
    assert no_time


@pytest.mark.parametrize("recipe", [MIRRORED, TIED, MANY_EQUALS], ids=["mirrored", "tied", "equals"])
def test_a_hidden_loss_is_never_divergent_for_lack_of_time(recipe: Recipe, no_time: list[str]):
    """If every feasibility problem times out, a correct loss without exposed assignment does not fail."""
    right, batch = subject(Hidden(OtherWay())), recipe.build()
    assert not judge_against_reference(right, batch).verdict.fails


def test_a_fault_that_every_assignment_shows_is_found_all_the_same(no_time: list[str]):
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject(Changed(factors=(100, 100, 100))), TIED.build())
    assert caught.value.verdict is Verdict.DIVERGENT


def test_the_reason_is_counted(no_time: list[str]):
    checker = Checker(subject(OutputsOnly()), NoSink(), "test_outputs", "TAL-TOPK")
    batch = PLAIN.build()
    for _ in range(ENOUGH_BATCHES):
        checker(batch)
    assert checker.reasons == {REASON: ENOUGH_BATCHES}
    assert f"({ENOUGH_BATCHES} because {REASON})" in str(checker.too_inconclusive)
