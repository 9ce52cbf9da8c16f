"""An adapter declares which batches it does not support. The adapter must raise on these; returning a result fails."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.checker import JudgedBatch
from tal_conformance.checks.everything import run_every_check
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Loss
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.core.verdicts import Verdict
from tal_conformance.dialects.identification import identify
from tal_conformance.implementations.adapters.sizes import has_whole_cells, map_shapes
from tal_conformance.implementations.errors import AnsweredUnsupported, NotSupported, ProtocolViolation
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.support import asked_support, takes_shapes
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.session import MAX_UNSUPPORTED_SHARE, unsupported_ceiling
from tal_reference import Head, Hyperparameters

LIMITED = Path(__file__).parents[2] / "fauxmplementations" / "limited.py"
TRUTHS = ((Truth("ordinary"), Truth("small")),)
SUPPORTED = Recipe(images=TRUTHS, reg_max=16).build()
UNSUPPORTED = Recipe(images=TRUTHS, reg_max=8).build()
EMPTY = Recipe(images=((),), reg_max=8).build()
EMPTY_SUPPORTED = Recipe(images=((),), reg_max=16).build()


def limited(name: str, isolate: bool = False) -> Implementation:
    return find(f"{LIMITED}:{name}", isolate=isolate)


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "worker"])
def test_an_exception_where_nothing_is_supported_is_not_a_failure(isolate: bool):
    implementation = limited("SixteenBins", isolate)
    assert judge_against_reference(Subject(implementation, "cpu"), SUPPORTED).verdict in (
        Verdict.EXACT,
        Verdict.WITHIN_BOUND,
    )
    with pytest.raises(NotSupported, match=r"^only 16 bins$"):
        execute(implementation, UNSUPPORTED)


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "worker"])
def test_an_answer_where_nothing_is_supported_is_divergent(isolate: bool):
    implementation = limited("AnswersAnyway", isolate)
    with pytest.raises(AnsweredUnsupported):
        execute(implementation, UNSUPPORTED)
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(implementation, "cpu"), UNSUPPORTED)
    assert caught.value.verdict is Verdict.DIVERGENT
    assert caught.value.summary == (
        "returned an answer for what it declares not to support (only 16 bins): "
        "raise an error instead, or support it"
    )


def test_the_separate_assigner_must_raise_too():
    class LossAlone(type(limited("SixteenBins").adapter)):  # type: ignore[misc]
        def assign(self, inputs: Any) -> Any:
            return self.right.assign(inputs)

    implementation = implementation_from(LossAlone(), "loss-alone")
    with pytest.raises(AnsweredUnsupported):
        execute(implementation, UNSUPPORTED, alone=True)


def test_an_answer_without_ground_truths_is_judged_like_any_other():
    judgement = judge_against_reference(Subject(limited("AnswersAnyway"), "cpu"), EMPTY)
    assert not judgement.verdict.fails


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "worker"])
def test_batches_without_ground_truths_can_be_excluded(isolate: bool):
    implementation = limited("NeedsTruths", isolate)
    with pytest.raises(NotSupported, match="a batch without ground truths"):
        execute(implementation, EMPTY_SUPPORTED)
    assert execute(implementation, SUPPORTED).loss is not None


@pytest.mark.parametrize("topk2", [None, 0, 10])
def test_a_topk2_that_changes_nothing_is_no_topk2(topk2: int | None):
    """COR-3: an adapter without topk2 supports a batch with topk2 equal to k, which keeps every anchor."""
    implementation = limited("NoTopk2")
    batch = replace(SUPPORTED, hyperparameters=Hyperparameters(topk2=topk2))
    assert implementation.support.reason(batch) is None
    assert execute(implementation, batch).loss is not None
    smaller = replace(SUPPORTED, hyperparameters=Hyperparameters(topk2=1))
    assert implementation.support.reason(smaller) == "no topk2"


@pytest.mark.parametrize("answer", [False, None, "", "  \n", 1, b"no", ["16 bins"]], ids=repr)
def test_anything_but_true_or_a_reason_is_one_error(answer: object):
    with pytest.raises(ProtocolViolation, match="expected True or the reason as a text that is not empty"):
        asked_support(lambda head, hyperparameters: answer, Head((8,), 1), Hyperparameters())
    adapter = SimpleNamespace(
        assign=lambda inputs: None, supports=lambda head, hyperparameters: answer, name="adapter"
    )
    with pytest.raises(ProtocolViolation, match=r"^adapter: supports"):
        implementation_from(adapter, "adapter")


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "worker"])
def test_a_third_parameter_gets_the_shapes_of_the_maps(isolate: bool):
    implementation = limited("EvenMaps", isolate)
    even, odd = (Recipe(images=TRUTHS, cells=cells).build() for cells in ((4, 4), (5, 4)))
    assert execute(implementation, even).loss is not None
    with pytest.raises(NotSupported, match=r"^only maps of even height, not 5$"):
        execute(implementation, odd)


def test_shapes_are_those_of_the_batch_or_of_a_trial():
    asked: list[Any] = []

    def supports(head: Head, hyperparameters: Hyperparameters, shapes: Any = ()) -> bool:
        asked.append(shapes)
        return True

    asked_support(supports, Head((8, 16), 2, reg_max=4), Hyperparameters())
    asked_support(supports, Head((8, 16), 2, reg_max=4), Hyperparameters(), [[3, 18, 2, 4], [3, 18, 1, 2]])
    assert asked == [((1, 18, 80, 80), (1, 18, 40, 40)), ((3, 18, 2, 4), (3, 18, 1, 2))]
    assert not takes_shapes(lambda head, hyperparameters: True)


@pytest.mark.parametrize(
    ("cells", "whole"), [((4, 8), True), ((5, 8), False), ((4, 2), True), ((4, 3), False)]
)
def test_cells_beyond_the_input_are_found_from_shapes_and_from_anchors(cells: tuple[int, int], whole: bool):
    batch = Recipe(images=TRUTHS, cells=cells, strides=(8, 16)).build()
    shapes = [tuple(level.shape) for level in batch.feature_maps]
    assert has_whole_cells(batch.head, shapes) is whole
    assert map_shapes(assigner_inputs(batch)) == [shape[2:] for shape in shapes]
    assert has_whole_cells(batch.head, ())


def test_a_reason_is_one_line():
    answer = asked_support(lambda *_: " only\n16   bins ", Head((8,), 1), Hyperparameters())
    assert answer == "only 16 bins"


@pytest.mark.parametrize(
    ("attributes", "message"),
    [
        ({"supports": "16 bins"}, "supports = '16 bins': expected a method"),
        ({"supports_no_truths": "no"}, "supports_no_truths = 'no': expected True or False"),
        ({"class_weights": len}, "class_weights = <built-in function len>: expected True, False, or a tuple"),
        ({"class_weights": ("detection",)}, "class_weights = .*: expected True, False, or a tuple"),
    ],
)
def test_attributes_of_a_wrong_type_are_errors(attributes: dict[str, Any], message: str):
    adapter = SimpleNamespace(assign=lambda inputs: None, name="adapter", **attributes)
    with pytest.raises(ProtocolViolation, match=message):
        implementation_from(adapter, "adapter")


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "worker"])
def test_a_wrong_answer_for_another_head_is_an_error_of_the_batch(isolate: bool):
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(limited("RaisesLater", isolate), "cpu"), UNSUPPORTED)
    assert caught.value.verdict is Verdict.ERROR
    assert "returned None, expected True or the reason" in caught.value.summary


class StoringSink:
    """A sink that stores the judged batches."""

    def __init__(self) -> None:
        self.batches: list[JudgedBatch] = []

    def batch(self, judged: JudgedBatch) -> None:
        self.batches.append(judged)

    def line(self, kind: str, **fields: Any) -> None:
        raise AssertionError(kind)


def checked(batch: Batch) -> JudgedBatch:
    sink = StoringSink()
    checker = Checker(Subject(limited("SixteenBins"), "cpu"), sink, "test_metric", "TAL-MET")
    checker(batch)
    assert checker.judged == (sink.batches[0].verdict is not Verdict.NOT_SUPPORTED)
    return sink.batches[0]


def test_the_checker_counts_them():
    judged = checked(UNSUPPORTED)
    assert judged.verdict is Verdict.NOT_SUPPORTED
    assert judged.judgement is not None
    assert judged.judgement.unsupported == "only 16 bins"
    assert checked(SUPPORTED).verdict is not Verdict.NOT_SUPPORTED


def test_a_batch_that_must_be_rejected_may_be_unsupported():
    few_anchors = Recipe(images=TRUTHS, reg_max=8, cells=(1, 1)).build()
    assert few_anchors.anchors < few_anchors.hyperparameters.topk
    assert checked(few_anchors).verdict is Verdict.NOT_SUPPORTED


def test_every_check_of_one_batch_is_not_supported():
    judgement = run_every_check(Subject(limited("SixteenBins"), "cpu"), UNSUPPORTED)
    assert judgement.verdict is Verdict.NOT_SUPPORTED


def test_identify_leaves_unsupported_batches_out():
    with pytest.raises(ProtocolViolation, match="supports none of the batches"):
        identify(limited("Nothing"))


def test_the_ceiling():
    assert unsupported_ceiling(10**6) == pytest.approx(MAX_UNSUPPORTED_SHARE, abs=0.002)
    assert all(unsupported_ceiling(batches) < 1 for batches in (1, 2, 10, 50, 518))
    assert unsupported_ceiling(518) > 341 / 518


def test_an_adapter_that_does_not_know_class_weights_is_not_called():
    """An adapter without `class_weights = True` is not called on a batch with class weights."""

    class Unaware:
        name = "unaware"

        def loss(self, *_: object) -> Loss:
            raise AssertionError("called")

    batch = Recipe(((Truth("ordinary"),),), class_weights=(2.0,)).build()
    with pytest.raises(NotSupported, match="class weights"):
        execute(implementation_from(Unaware(), "unaware"), batch)
    assert not judge_against_reference(Subject(find("reference"), "cpu"), batch).verdict.fails
