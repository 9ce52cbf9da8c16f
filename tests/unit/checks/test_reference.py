"""Judging against the reference records every kind of failure in the run log, and never as conforming."""

from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.relations import NotApplicable
from tal_conformance.core.outcome import Loss
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.run_log import RunLogWriter
from tal_reference import Hyperparameters
from tal_reports import RunLog, read_log, summarise

BATCH = Recipe(images=((Truth("ordinary"),),)).build()
TOO_SMALL = Recipe(images=((Truth("ordinary"),),), cells=(2, 2)).build()


@pytest.fixture
def log(tmp_path: Path) -> RunLog:
    return RunLog.create(tmp_path)


def conformance(log: RunLog, implementation: Implementation) -> Checker:
    recorder = RunLogWriter(log)
    facts = {"name": implementation.name, "version": "1", "dialect": "x", "capabilities": ["loss"]}
    recorder.begin(
        {"profile": "dev", "seed": "1", "command": ["pytest"], "devices": {"cpu": "tested"}, "hazards": {},
         "implementations": [facts]}
    )  # fmt: skip
    return Checker(Subject(implementation, "cpu"), recorder, "test_something", "TAL")


def verdicts(log: RunLog) -> dict[str, int]:
    (implementation,) = summarise(read_log(log.folder))["implementations"]
    return {verdict: count for verdict, count in implementation["verdicts"].items() if count}


def test_a_judge_that_breaks_counts_as_an_error(log: RunLog):
    def breaks(subject: Subject, batch: Any) -> Judgement:
        raise IndexError("a fault of our own")

    with pytest.raises(IndexError):
        conformance(log, find("reference"))(BATCH, by=breaks)
    assert verdicts(log) == {"error": 1}


def test_a_relation_that_says_nothing_is_no_batch(log: RunLog):
    def nothing(subject: Subject, batch: Any) -> Judgement:
        raise NotApplicable

    with pytest.raises(NotApplicable):
        conformance(log, find("reference"))(BATCH, by=nothing)
    assert verdicts(log) == {}


class Returns(ReferenceAdapter):
    """A loss that returns None where it must raise."""

    def loss(self, *arguments: Any) -> Any:
        return None


def test_an_error_that_a_clause_asks_for_must_come_from_the_implementation(log: RunLog):
    honest = conformance(log, find("reference"))
    honest.must_reject(TOO_SMALL, "top-k", "TAL-TOPK-2", "k is more than A")
    with pytest.raises(
        Failure, match="returned a result where it must raise an error, because k is more than A"
    ):
        conformance(log, implementation_from(Returns(), "returns")).must_reject(
            TOO_SMALL, "top-k", "TAL-TOPK-2", "k is more than A"
        )


class Raises(ReferenceAdapter):
    def loss(self, *arguments: Any) -> Any:
        raise RuntimeError("selected index k out of range")


def test_more_than_all_anchors_cannot_be_the_best(log: RunLog):
    """TAL-TOPK-2: on a batch with k above the number of anchors, raising conforms and returning fails."""
    conformance(log, implementation_from(Raises(), "raises"))(TOO_SMALL)
    with pytest.raises(
        Failure,
        match="returned a result where it must raise an error, because top-k 10 exceeds the number of anchors, 4",
    ):
        conformance(log, implementation_from(Returns(), "returns"))(TOO_SMALL)


class TakesWhatThereIs(ReferenceAdapter):
    """A loss that raises if k exceeds the number of anchors, with a separate assigner that does not raise."""

    def assign(self, inputs: Any) -> Any:
        anchors = inputs.scores.shape[1]
        numbers = replace(inputs.hyperparameters, topk=min(inputs.hyperparameters.topk, anchors))
        return super().assign(replace(inputs, hyperparameters=numbers))


def test_the_assigner_alone_must_refuse_too(log: RunLog):
    tested = conformance(log, implementation_from(TakesWhatThereIs(), "takes"))
    tested(TOO_SMALL)
    with pytest.raises(
        Failure, match="its assigner returned a result where it must raise an error, because top-k 10 exceeds"
    ) as caught:
        tested(TOO_SMALL, by=partial(judge_against_reference, alone=True))
    assert (caught.value.stage, caught.value.clause) == ("top-k", "TAL-TOPK-2")
    with pytest.raises(
        Failure, match="its assigner returned a result where it must raise an error, because k is more than A"
    ):
        tested.must_reject(TOO_SMALL, "top-k", "TAL-TOPK-2", "k is more than A")


def test_more_than_all_anchors_cannot_be_kept(log: RunLog):
    batch = Recipe(((Truth("ordinary"),),), (2, 5), (8,), hyperparameters=Hyperparameters(topk2=11)).build()
    conformance(log, find("ultralytics"))(batch)
    with pytest.raises(
        Failure,
        match="returned a result where it must raise an error, because topk2 11 exceeds the number of anchors, 10",
    ):
        conformance(log, implementation_from(Returns(), "returns"))(batch)


class HidesItsStages(ReferenceAdapter):
    def loss(self, *arguments: Any) -> Loss:
        return replace(super().loss(*arguments), assignment=None)


def test_stages_that_were_promised_must_be_shown(log: RunLog):
    alone = SimpleNamespace(loss=HidesItsStages().loss, exposes_stages=True)
    with pytest.raises(Failure, match=r"the adapter declares exposes_stages, but Loss.assignment is None"):
        conformance(log, implementation_from(alone, "hides"))(BATCH)
    conformance(log, implementation_from(HidesItsStages(), "shows those of its assigner"))(BATCH)


class Attached(ReferenceAdapter):
    def loss(self, *arguments: Any) -> Loss:
        honest = super().loss(*arguments)
        return Loss(honest.total, honest.total / len(arguments[0][0]), honest.assignment)


def test_items_that_keep_the_graph_are_a_formal_mistake_behind_which_the_values_are_judged(log: RunLog):
    checker = conformance(log, implementation_from(Attached(), "attached"))
    checker(BATCH)
    (failure,) = checker.formal.values()
    assert failure.verdict is Verdict.ERROR
    assert failure.formal == ("Loss.items require gradients (LOSS-GAIN-1): return items.detach()",)
    assert "error" not in verdicts(log)


class RaisesAlways(ReferenceAdapter):
    def loss(self, *arguments: Any) -> Loss:
        raise ValueError("never works")


@pytest.mark.parametrize("after_a_failure", [False, True])
def test_an_empty_batch_that_a_failure_is_shrunk_to_is_not_another_mistake(
    log: RunLog, after_a_failure: bool
):
    checker = conformance(log, implementation_from(RaisesAlways(), "raises"))
    if after_a_failure:
        with pytest.raises(Failure):
            checker(BATCH)
    checker(Recipe().build())
    assert len(checker.formal) == (not after_a_failure)


def test_a_plain_call_says_what_it_cost(log: RunLog):
    tested = conformance(log, find("reference"))
    tested(BATCH)
    cost = read_log(log.folder).batches.costs["reference"]
    assert cost.batches == 1
    assert 0 < cost.call < cost.judged <= cost.seconds  # the time of generating may be 0
    tested(BATCH, by=lambda subject, batch: Judgement())  # no single call: no cost
    assert read_log(log.folder).batches.costs["reference"].batches == 1
