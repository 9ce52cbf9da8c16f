"""On some batches implementations must raise; an exception from a programming error does not count."""

from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.checker import NoSink
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.rejection import is_refusal
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import class_names
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.rejection import supports_relations
from tal_conformance.suite.checker import Checker
from tal_reference import NEWEST, Hyperparameters
from tal_reference.dialect import TURNED_FIRST

WHOLE = Recipe(images=((Truth("ordinary"),),), cells=(2, 2), strides=(8, 16)).build()
TOO_SMALL = replace(WHOLE, hyperparameters=Hyperparameters(topk=WHOLE.anchors + 1))


class Fails:
    """An assigner that raises `error` if k exceeds the number of anchors, or in every call.

    Attributes:
        error: the exception to raise.
        always: True to raise in every call.
    """

    version = "1"
    dialect = "ultralytics-8.4.190"

    def __init__(self, error: BaseException, always: bool = False) -> None:
        self.error, self.always = error, always

    def assign(self, inputs: AssignerInputs) -> Assignment:
        if self.always or inputs.hyperparameters.topk > inputs.anchors.shape[0]:
            raise self.error
        return ReferenceAdapter().assign(inputs)


def subject(adapter: Any) -> Subject:
    return Subject(implementation_from(adapter, "fails"), "cpu")


def judged(adapter: Any, batch: Batch = TOO_SMALL) -> Verdict:
    try:
        return judge_against_reference(subject(adapter), batch).verdict
    except Failure as failure:
        return failure.verdict


class Own(Exception):
    """An exception class of the implementation."""


@pytest.mark.parametrize(
    "error",
    [RuntimeError("k out of range"), ValueError("k"), AssertionError(), NotImplementedError(), IndexError("k"), Own()],
    ids=repr,
)  # fmt: skip
def test_a_refusal_is_rejected(error: Exception):
    assert judged(Fails(error)) is Verdict.REJECTED


@pytest.mark.parametrize(
    "error",
    [
        AttributeError("x"), NameError("x"), UnboundLocalError("x"), ImportError("x"), ModuleNotFoundError("x"),
        RecursionError("x"), MemoryError("x"), SystemExit(0), KeyboardInterrupt(), FileNotFoundError("x"),
        torch.cuda.OutOfMemoryError("x"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
def test_a_mistake_is_an_error(error: BaseException):
    with pytest.raises(Failure, match="expected an error that rejects the batch") as caught:
        judge_against_reference(subject(Fails(error)), TOO_SMALL)
    assert (caught.value.verdict, caught.value.clause) == (Verdict.ERROR, "TAL-TOPK-2")
    assert caught.value.details


@pytest.mark.parametrize("error", [IndexError("i"), TypeError("t"), ZeroDivisionError(), Own()], ids=repr)
def test_an_exception_that_is_raised_for_acceptable_numbers_too_is_an_error(error: Exception):
    assert judged(Fails(error, always=True)) is Verdict.ERROR


def test_a_class_alone_may_not_tell():
    assert is_refusal(class_names(RuntimeError())) is True
    assert is_refusal(class_names(RecursionError())) is False
    assert is_refusal(class_names(IndexError())) is None


@pytest.mark.parametrize("implementation", [find("reference"), find("article")], ids=lambda found: found.name)
def test_the_reference_rejects(implementation: Implementation):
    judgement = judge_against_reference(Subject(implementation, "cpu"), TOO_SMALL)
    assert judgement.verdict is Verdict.REJECTED
    assert judgement.notes[0].startswith("raises, as TAL-TOPK-2 requires: ")


class Verdicts(NoSink):
    """A sink that stores the verdicts of judged batches in a list."""

    def __init__(self) -> None:
        self.found: list[Verdict] = []

    def batch(self, judged: Any) -> None:
        self.found.append(judged.verdict)


@pytest.mark.parametrize(
    ("error", "verdict"),
    [(RuntimeError("k"), Verdict.REJECTED), (AttributeError("k"), Verdict.ERROR)],
    ids=["a refusal", "a mistake"],
)
def test_the_checker_passes_the_verdict_on(error: Exception, verdict: Verdict):
    sink = Verdicts()
    checker = Checker(subject(Fails(error)), sink, "test_x", "TAL-TOPK")
    with suppress(Failure):
        checker.must_reject(TOO_SMALL, "top-k", "TAL-TOPK-2", "k is more than A")
    assert sink.found == [verdict]


@pytest.mark.parametrize(("cells", "related"), [((4, 4), True), ((2, 2), False)])
def test_no_relation_between_batches_that_are_rejected(cells: tuple[int, int], related: bool):
    """Two levels of 2 x 2 and 1 x 1 cells have five anchors, fewer than k."""
    batch = Recipe(images=((Truth("ordinary"),),), cells=cells, strides=(8, 16)).build()
    assert supports_relations(batch, NEWEST) is related


@pytest.mark.parametrize(("width", "related"), [(0.5, True), (0.03, False)])
def test_a_dialect_that_drops_other_rows_has_no_relations_on_batches_with_such_rows(
    width: float, related: bool
):
    """The first releases with rotated boxes multiply a normalised width of 0.03 by the height of 64 px, not by 128."""
    batch = Recipe(images=((Truth("ordinary"),),), cells=(8, 16), strides=(8, 16), task="obb").build()
    batch.annotations[:, 4:6] = torch.tensor((width, 0.5))
    assert supports_relations(batch, TURNED_FIRST) is related
    assert supports_relations(batch, NEWEST)
