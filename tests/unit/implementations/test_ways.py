"""Adapters that return a criterion (loss object), and their declared ways of calling, with and without worker."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import IMAGES
from tal_conformance.checks.calling.check import CallingFailure, called
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.state.check import SequenceJudge, StateFailure, steps_of
from tal_conformance.checks.state.sequences import SEQUENCES
from tal_conformance.core.outcome import Loss
from tal_conformance.core.ways import SEQUENCE_NAMES, WAY_NAMES
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.calling.ways import WAYS
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.kept import KeptAdapter, renewed
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_reference import Head, Hyperparameters

RECIPE = Recipe(images=IMAGES[0], cells=(4, 6), strides=(8, 16), classes=3, reg_max=4)


class MakesCriteria:
    name = "criteria"

    def __init__(self) -> None:
        self.made: list[tuple[Head, Hyperparameters]] = []

    def make(self, head: Head, hyperparameters: Hyperparameters) -> Callable[..., Loss]:
        self.made.append((head, hyperparameters))
        return lambda maps, rows: ReferenceAdapter().loss(maps, rows, head, hyperparameters)


def test_a_criterion_is_made_for_every_batch_of_an_ordinary_test():
    adapter, batch = MakesCriteria(), RECIPE.build()
    subject = Subject(implementation_from(adapter, "own"), "cpu")
    assert subject.implementation.capabilities == ["loss"]
    for _ in range(2):
        judge_against_reference(subject, batch)
    assert adapter.made == [(batch.head, batch.hyperparameters)] * 2


def test_a_kept_adapter_makes_a_criterion_once_for_each_head_and_hyperparameters():
    adapter, batch = MakesCriteria(), RECIPE.build()
    kept = KeptAdapter(adapter)
    for numbers in (batch.hyperparameters, Hyperparameters(topk=3), batch.hyperparameters):
        kept.loss(batch.feature_maps, batch.annotations, batch.head, numbers)
    assert [numbers.topk for _, numbers in adapter.made] == [10, 3]


def test_a_class_is_made_again_and_an_object_is_not():
    class Adapter(ReferenceAdapter):
        made = 0

        def __init__(self) -> None:
            super().__init__()
            Adapter.made += 1

    renewed(implementation_from(Adapter, "own"))
    assert Adapter.made == 2
    renewed(implementation_from(Adapter(), "own"))
    assert Adapter.made == 3


def test_the_names_are_those_of_the_ways_and_sequences():
    assert tuple(WAYS) == WAY_NAMES
    assert tuple(SEQUENCES) == SEQUENCE_NAMES


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("unsupported_ways", "compile", "expected a tuple of names"),
        ("unsupported_ways", ("compiled",), "unknown way 'compiled'; did you mean 'compile'"),
        ("reduces_over_ranks", True, "expected one of None, 'mean', 'sum'"),
    ],
)
def test_wrong_declarations_are_refused(attribute: str, value: Any, message: str):
    adapter = ReferenceAdapter()
    setattr(adapter, attribute, value)
    with pytest.raises(ProtocolViolation, match=message):
        implementation_from(adapter, "own")


MODULE = """
from tal_conformance.mutation.planted_faults.faulty_criterion import USAGE_FAULTS, FaultyCriterion
import tal_conformance.mutation.planted_faults


class Right(FaultyCriterion):
    unsupported_ways = ("compile",)

    def __init__(self):
        from tal_conformance.mutation.planted_faults.calling import correct
        from tal_conformance.mutation.planted_faults.faulty_criterion import UsageFault

        super().__init__(UsageFault("right", "", "", "", correct("mean"), False, "mean"), "stages")


def of_view():
    return FaultyCriterion(USAGE_FAULTS["view_for_reshape"], "loss")


def of_count():
    return FaultyCriterion(USAGE_FAULTS["anchors_cached_by_count"], "outputs")
"""


@pytest.fixture(scope="module")
def module(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the path of a Python file with three adapters, of which two fail in certain ways of calling."""
    path = tmp_path_factory.mktemp("adapters") / "adapters_of_use.py"
    path.write_text(MODULE, encoding="utf-8")
    return path


@pytest.mark.slow
def test_a_worker_calls_in_the_same_ways(module: Path):
    found = find(f"{module}:Right", isolate=True)
    subject = Subject(found, "cpu")
    assert (found.unsupported_ways, found.reduces_over_ranks) == (("compile",), "mean")
    for way in WAYS:
        if way not in found.unsupported_ways:
            called(subject, RECIPE.build(), way)
    for sequence in SEQUENCES:
        SequenceJudge(subject, sequence).judge(steps_of(RECIPE, sequence))


@pytest.mark.slow
def test_a_worker_finds_the_same_faults(module: Path):
    with pytest.raises(CallingFailure, match=r"channels-last.*raised RuntimeError: view"):
        called(Subject(find(f"{module}:of_view", isolate=True), "cpu"), RECIPE.build(), "channels-last")
    judge = SequenceJudge(Subject(find(f"{module}:of_count", isolate=True), "cpu"), "multi-scale")
    with pytest.raises(StateFailure, match="after 1 earlier call"):
        judge.judge(steps_of(RECIPE, "multi-scale"))


@pytest.mark.slow
def test_two_processes_are_forks_of_a_new_one_where_this_one_cannot_fork(
    module: Path, monkeypatch: pytest.MonkeyPatch
):
    """If `os.fork` fails, the way of calling "two-processes" forks a fresh process and conforms."""

    def refuse() -> int:
        raise OSError("cannot fork")

    monkeypatch.setattr("os.fork", refuse)
    called(Subject(find(f"{module}:Right"), "cpu"), RECIPE.build(), "two-processes")
