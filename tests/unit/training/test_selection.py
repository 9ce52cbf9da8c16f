"""Selection of the training steps whose batches the recorder stores."""

import math

import pytest

from tal_conformance.training.selection import (
    ANOMALIES_STORED,
    EVERY,
    FIRST,
    LABELS,
    LARGEST,
    MOST,
    NO_GT,
    NOT_FINITE,
    ORDER,
    RAISED,
    RESUMED,
    SMALLEST,
    BatchFacts,
    BatchSelector,
)

USUAL = BatchFacts(truths=10, smallest=0.01, total=5.0)


def kept(*facts: BatchFacts, every: int = 0) -> list[set[str]]:
    interest = BatchSelector(every)
    return [interest.reasons(one) for one in facts]


def test_the_first_one_is_kept_and_holds_the_records():
    assert kept(USUAL, USUAL) == [{FIRST, MOST, SMALLEST, LARGEST}, set()]


def test_every_nth_is_kept():
    assert [EVERY in reasons for reasons in kept(*[USUAL] * 7, every=3)] == [False] * 3 + [
        True,
        False,
        False,
        True,
    ]


@pytest.mark.parametrize(
    ("facts", "reasons"),
    [
        (BatchFacts(12, 0.01, 5.0), {MOST}),
        (BatchFacts(11, 0.01, 5.0), set()),  # a new record must exceed the old record by more than 10 %
        (BatchFacts(10, 0.005, 5.0), {SMALLEST}),
        (BatchFacts(10, 0.01, 6.0), {LARGEST}),
        (BatchFacts(0, math.inf, 5.0), {NO_GT}),
        (BatchFacts(10, 0.01, math.nan), {NOT_FINITE}),
        (BatchFacts(10, 0.01, math.inf), {NOT_FINITE}),
        (BatchFacts(10, 0.01, None), set()),
        (BatchFacts(10, 0.01, None, frozenset({RAISED, LABELS})), {RAISED, LABELS}),
        (BatchFacts(20, 0.001, 50.0), {MOST, SMALLEST, LARGEST}),
    ],
)
def test_what_stands_out_is_kept(facts: BatchFacts, reasons: set[str]):
    assert kept(USUAL, facts)[1] == reasons


def test_the_next_one_like_it_does_not_stand_out():
    strange = BatchFacts(0, math.inf, 9.0)
    assert kept(USUAL, strange, strange)[2] == set()


def test_each_anomaly_is_stored_some_times_and_always_counted():
    selector = BatchSelector(0)
    found = [selector.reasons(facts) for facts in [USUAL] + [BatchFacts(10, 0.01, math.nan)] * 12 + [USUAL]]
    assert [NOT_FINITE in reasons for reasons in found] == [False] + [True] * ANOMALIES_STORED + [False] * 3
    assert selector.counts == {NOT_FINITE: 12}
    assert selector.first_steps == {NOT_FINITE: 1}
    assert selector.reasons(BatchFacts(10, 0.01, 5.0, frozenset({ORDER}))) == {ORDER}


def test_the_first_batch_after_resuming_is_named():
    selector = BatchSelector(0, resumed=True)
    assert RESUMED in selector.reasons(USUAL)
    assert selector.reasons(USUAL) == set()


def test_a_loss_that_creeps_upwards_is_not_kept_at_each_step():
    creeping = [BatchFacts(10, 0.01, 1.01**step) for step in range(300)]
    assert (
        sum(bool(reasons) for reasons in kept(*creeping)) == 1 + 29
    )  # 1.01 ** 10 is more than 1.1: every 10 steps
