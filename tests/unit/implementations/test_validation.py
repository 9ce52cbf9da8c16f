"""Missing results of an implementation are derived; results with a formal mistake are converted, and reported once."""

from dataclasses import replace
from pathlib import Path
from typing import Any, get_type_hints

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.everything import run_every_check
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, CheckedAssignment, Loss
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.outcome_file import StoredOutcome, load, store
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.validation import Findings, check_assignment
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.suite.checker import Checker

INCOMPLETE = Path(__file__).parents[2] / "fauxmplementations" / "incomplete.py"
BATCH = Recipe(images=((Truth("ordinary"), Truth("huge")), (Truth("small"),)), classes=3).build()
EMPTY = Recipe(images=((), ())).build()
SOME = [recipe.build() for name in ("conflict", "topk") for recipe in sample_recipes(STRATEGIES[name], 6)]


def incomplete(name: str, isolate: bool = False) -> Implementation:
    return find(f"{INCOMPLETE}:{name}", isolate=isolate)


def subject(name: str, isolate: bool = False) -> Subject:
    return Subject(incomplete(name, isolate), "cpu")


class StoringSink:
    """A sink that stores the verdicts of all judged batches."""

    def __init__(self) -> None:
        self.verdicts: list[str] = []

    def batch(self, judged: Any) -> None:
        self.verdicts.append(judged.verdict.value)

    def line(self, kind: str, **fields: Any) -> None:
        raise AssertionError(kind)


@pytest.mark.parametrize(
    ("kind", "name", "expected"),
    [
        (Assignment, "labels", Tensor | None),
        (Assignment, "truth_index", Tensor | None),
        (Loss, "items", Tensor | None),
        (Assignment, "scores", Tensor),
        (CheckedAssignment, "labels", Tensor),
        (CheckedAssignment, "truth_index", Tensor),
    ],
)
def test_only_results_that_an_adapter_may_lack_are_typed_as_optional(kind: type, name: str, expected: object):
    """A type checker accepts an adapter that returns None for these results, and no None after validation."""
    assert get_type_hints(kind)[name] == expected


@pytest.mark.parametrize(
    "isolate", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["here", "worker"]
)
@pytest.mark.parametrize("name", ["NoIndex", "NoLabels", "Neither", "OneNumber", "TermsAlone", "Int32"])
def test_absent_results_are_judged_from_the_rest(name: str, isolate: bool):
    for batch in (BATCH, EMPTY, *([] if isolate else SOME)):
        assert not judge_against_reference(subject(name, isolate), batch).verdict.fails


@pytest.mark.parametrize("name", ["Neither", "OneNumber", "TermsAlone", "FloatMask"])
def test_every_check_of_a_batch_does_without_them(name: str):
    sink = StoringSink()
    checker = Checker(subject(name), sink, "test_cases", "CASES")
    checker(BATCH, by=run_every_check)
    assert sink.verdicts[0] in ("exact", "within_bound")


def test_what_is_absent_is_named():
    assert execute(incomplete("Neither"), BATCH).absent == ("Assignment.labels", "Assignment.truth_index")
    assert execute(incomplete("OneNumber"), BATCH).absent == ("Loss.items",)
    assert judge_against_reference(subject("NoIndex"), BATCH).absent == ["Assignment.truth_index"]


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "worker"])
@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("NeitherWrongOwner", {"candidates", "metric", "top-k", "conflict", "targets"}),
        ("OneNumberTooLarge", {"total"}),
        ("WrongBoxTerm", {"box", "gradients"}),
    ],
)
def test_faults_are_found_without_them(name: str, stages: set[str], isolate: bool):
    if isolate and name == "WrongBoxTerm":
        stages = stages | {"total"}  # a worker sends only the sum of the terms
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject(name, isolate), BATCH, alone=name == "NeitherWrongOwner")
    assert caught.value.verdict is Verdict.DIVERGENT
    assert caught.value.stage in stages


def stacked() -> tuple[AssignerInputs, Assignment]:
    """Return inputs and assignment of a batch whose two ground truths have one box and different classes."""
    batch = Recipe(images=((Truth("ordinary"), Truth("ordinary", label=1)),), classes=2).build()
    rows = batch.annotations.clone()
    rows[1, 2:], rows[:, 1] = rows[0, 2:], torch.tensor([0.0, 1.0])
    inputs = assigner_inputs(replace(batch, annotations=rows))
    return inputs, replace(ReferenceAdapter().assign(inputs), stages=None)


def test_of_equal_boxes_the_class_decides():
    inputs, right = stacked()
    assert right.foreground.any()
    for absent in (("truth_index",), ("labels", "truth_index")):
        derived = check_assignment(replace(right, **dict.fromkeys(absent)), inputs, False, Findings())  # type: ignore[arg-type]
        weighted = right.foreground & (right.scores.amax(-1) > 0)
        assert torch.equal(derived.truth_index[weighted], right.truth_index[weighted])
        assert torch.equal(derived.labels[weighted], right.labels[weighted])


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "worker"])
@pytest.mark.parametrize(
    ("name", "mistake"),
    [
        ("FloatMask", "Assignment.foreground has dtype torch.float32, expected torch.bool"),
        ("FloatLabels", "Assignment.labels has dtype torch.float64, expected an integer dtype"),
        ("LearningItems", "Loss.items require gradients (LOSS-GAIN-1): return items.detach()"),
    ],
)
def test_a_formal_mistake_is_an_error_although_the_values_conform(name: str, mistake: str, isolate: bool):
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject(name, isolate), BATCH)
    failure = caught.value
    assert (failure.verdict, failure.stage, failure.formal) == (Verdict.ERROR, "", (mistake,))
    assert failure.judgement is not None
    assert not failure.judgement.verdict.fails


def test_it_hides_no_divergence():
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject("FloatMaskAndHalfScores"), BATCH)
    assert caught.value.verdict is Verdict.DIVERGENT
    assert caught.value.stage in ("metric", "normalisation")
    assert caught.value.outcome is not None
    assert caught.value.outcome.formal == (
        "Assignment.foreground has dtype torch.float32, expected torch.bool",
    )


def test_values_without_an_unambiguous_meaning_are_not_converted():
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject("HalfMask"), BATCH)
    assert "Assignment.foreground has dtype torch.float32" in caught.value.summary
    assert caught.value.formal == ()


def test_without_findings_nothing_is_converted():
    inputs, right = stacked()
    for wrong in (
        replace(right, foreground=right.foreground.float()),
        replace(right, labels=right.labels[..., None]),
        replace(right, truth_index=None),  # type: ignore[arg-type]
    ):
        with pytest.raises(ProtocolViolation):
            check_assignment(wrong, inputs, False)


def checked(name: str, batches: list[Batch]) -> Checker:
    checker = Checker(subject(name), StoringSink(), "test_loss", "LOSS")
    for batch in batches:
        checker(batch)
    return checker


def test_a_checker_keeps_one_failure_for_each_mistake_and_goes_on():
    checker = checked("FloatMask", [BATCH, *SOME, EMPTY])
    (failure,) = checker.formal.values()
    assert failure.batch.images * failure.batch.anchors < BATCH.images * BATCH.anchors
    assert isinstance(checker.sink, StoringSink)
    assert set(checker.sink.verdicts) <= {"exact", "within_bound", "admissible"}
    assert not checker.failed


def test_a_crash_without_ground_truths_is_reported_once_and_hides_nothing():
    checker = checked("NoTruthsCrash", [EMPTY, BATCH, EMPTY])
    (failure,) = checker.formal.values()
    assert failure.details is not None
    assert failure.summary.startswith("raised IndexError: max(): Expected")
    assert failure.summary.endswith("on a batch without ground truths, which has zero targets (TAL-EMPTY-1)")
    assert isinstance(checker.sink, StoringSink)
    assert [verdict == "error" for verdict in checker.sink.verdicts] == [True, False, True]
    wrong = Checker(subject("NoTruthsCrashAndHalfScores"), StoringSink(), "test_loss", "LOSS")
    wrong(EMPTY)
    with pytest.raises(Failure) as caught:
        wrong(BATCH)
    assert caught.value.stage in ("metric", "normalisation")


def test_an_outcome_without_items_is_stored_and_read(tmp_path: Path):
    outcome = execute(incomplete("OneNumber"), BATCH)
    assert outcome.loss is not None
    assert not outcome.loss.shows_items
    path = tmp_path / "x.outcome"
    store(path, StoredOutcome(BATCH.id, "one-number", "1.0", "ultralytics-8.4.190", "cpu", outcome))
    again = load(path, BATCH).outcome.loss
    assert again is not None
    assert not again.shows_items
