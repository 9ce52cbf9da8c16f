"""A batch that is judged only in part is INCONCLUSIVE; a test with too many such batches fails."""

from dataclasses import replace

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.checker import NoSink
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Agreement, Judgement, Mismatch, Verdict
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.suite.checker import ENOUGH_BATCHES, MAX_INCONCLUSIVE_SHARE, Checker

BATCH = Recipe(images=((Truth("ordinary"),),)).build()


def judgement(**fields: bool) -> Judgement:
    made = Judgement(**fields)  # type: ignore[arg-type]
    made.stages["box"].add(Agreement())
    return made


@pytest.mark.parametrize("chose_differently", [False, True])
def test_an_inconclusive_batch_is_never_a_pass(chose_differently: bool):
    found = judgement(inconclusive=True, chose_differently=chose_differently)
    assert found.verdict is Verdict.INCONCLUSIVE
    assert not found.verdict.fails


def test_a_part_that_differs_is_divergent_all_the_same():
    found = judgement(inconclusive=True)
    found.stages["box"].fail(Mismatch("box loss is 3, expected 2", "LOSS-BOX-1"))
    assert found.verdict is Verdict.DIVERGENT


def checker_after(inconclusive: int, conclusive: int) -> Checker:
    checker = Checker(Subject(find("reference"), "cpu"), NoSink(), "test_loss", "LOSS")
    for number in range(inconclusive + conclusive):
        found = judgement(inconclusive=number < inconclusive)
        checker(BATCH, by=lambda subject, batch, found=found: found)
    return checker


def test_too_large_a_share_is_one_line():
    too_many = int(MAX_INCONCLUSIVE_SHARE * ENOUGH_BATCHES) + 1
    checker = checker_after(too_many, ENOUGH_BATCHES - too_many)
    assert checker.too_inconclusive is not None
    assert checker.too_inconclusive.startswith(
        f"reference-cpu in test_loss: {too_many} of {ENOUGH_BATCHES} batches are INCONCLUSIVE"
    )
    assert "\n" not in checker.too_inconclusive


def test_the_share_is_not_asked_of_few_batches():
    assert checker_after(ENOUGH_BATCHES - 1, 0).too_inconclusive is None


def test_a_share_below_the_ceiling_passes():
    most = int(MAX_INCONCLUSIVE_SHARE * ENOUGH_BATCHES)
    assert checker_after(most, ENOUGH_BATCHES - most).too_inconclusive is None


def test_batches_of_the_shrinking_phase_do_not_count():
    checker = checker_after(0, 1)

    def fails(subject: Subject, batch: Batch) -> Judgement:
        raise Failure(subject, batch, Verdict.DIVERGENT, "box", "LOSS-BOX-1", "box loss is 3, expected 2")

    with pytest.raises(Failure):
        checker(BATCH, by=fails)
    for _ in range(ENOUGH_BATCHES):
        checker(BATCH, by=lambda subject, batch: judgement(inconclusive=True))
    assert checker.too_inconclusive is None


def test_batches_on_which_nothing_is_defined_do_not_count():
    """Batches with an undefined loss (0 / 0) do not count towards a test's limit of INCONCLUSIVE batches."""
    checker = Checker(Subject(find("reference"), "cpu"), NoSink(), "test_loss", "LOSS")
    for _ in range(ENOUGH_BATCHES):
        checker(BATCH, by=lambda subject, batch: judgement(inconclusive=True, undefined=True))
    assert checker.too_inconclusive is None


def test_batches_in_half_precision_do_not_count():
    """Without autocast, nothing prescribes the dtype of an operation of 16-bit code."""
    half = BATCH.to(dtype=torch.float16)
    for batch, counts in ((half, False), (replace(half, autocast=True), True)):
        checker = Checker(Subject(find("reference"), "cpu"), NoSink(), "test_precision", "DTYPE")
        for _ in range(ENOUGH_BATCHES):
            checker(batch, by=lambda subject, batch: judgement(inconclusive=True))
        assert (checker.too_inconclusive is not None) is counts
