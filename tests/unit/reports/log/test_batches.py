"""Counting of judged batches in a run log."""

import random

import pytest
from tests.common.run_logs import batch

from tal_reports.log.batches import MAX_FAILURES, Batches, Margins


def counted(*lines: dict) -> Batches:
    batches = Batches()
    for line in lines:
        batches.add(line)
    return batches


def test_verdicts_by_implementation_and_clause_group():
    batches = counted(
        batch(name="a", clause_group="X", verdict="exact"),
        batch(name="a", clause_group="Y", verdict="exact"),
        batch(name="a", clause_group="Y", verdict="divergent"),
        batch(name="b", clause_group="Y", verdict="error"),
    )
    assert batches.verdicts() == {"exact": 2, "divergent": 1, "error": 1}
    assert batches.verdicts("a") == {"exact": 2, "divergent": 1}
    assert batches.verdicts("a", "Y") == {"exact": 1, "divergent": 1}
    assert batches.verdicts(clause_group="Y") == {"exact": 1, "divergent": 1, "error": 1}
    assert batches.verdicts("c") == {}
    assert batches.clause_groups() == ["X", "Y"]
    assert batches.judged == 4


def test_batches_of_the_shrinking_phase_do_not_count_as_judged():
    batches = counted(batch(0, verdict="divergent"), batch(1, verdict="divergent", phase="shrink"))
    assert batches.judged == 1
    assert batches.shrinking == {"ultralytics": 1}
    assert batches.different == 1


def test_hazards_are_counted_once_a_batch_however_many_judge_it():
    same = [batch(case="c1", name=name, hazards=["tiny", "nested"]) for name in ("a", "b", "c")]
    batches = counted(*same, batch(case="c2", hazards=["tiny", "tiny"]))
    assert batches.hazards == {"tiny": 2, "nested": 1}
    assert batches.different == 2


def test_uniqueness():
    kinds = ("unique", "tie", "tie", None)
    batches = counted(*(batch(number, uniqueness=kind) for number, kind in enumerate(kinds)))
    assert batches.uniqueness["ultralytics"] == {"unique": 1, "tie": 2}


def test_failing_batches_are_stored_by_case_without_margins():
    lines = [
        batch(n, clause_group="X", verdict="divergent", stages={"box": 9.0}, stage="box") for n in range(50)
    ]
    batches = counted(*lines, batch(51, clause_group="X", verdict="exact", stages={"box": 0.25, "dfl": None}))
    (failures,) = batches.failures.values()
    assert len(failures) == MAX_FAILURES
    assert failures[0].case == f"{0:012x}"
    assert batches.causes == {("ultralytics", "divergent", "box", None): 50}
    assert list(batches.margins) == [("ultralytics", "box")]
    assert batches.margins["ultralytics", "box"].largest == 0.25


@pytest.mark.parametrize("share", [0.01, 0.5, 0.9, 0.99, 1.0])
def test_quantiles_are_four_per_cent_sharp(share: float):
    chance = random.Random(5)
    values = sorted(10 ** chance.uniform(-6, 1) for _ in range(2000))
    margins = Margins()
    for value in values:
        margins.add(value)
    exact = values[max(0, -(-len(values) * share // 1).__trunc__() - 1)]
    assert exact <= margins.quantile(share) <= exact * 2 ** (1 / 16) * (1 + 1e-12)


def test_quantiles_of_zeros_and_of_non_finite_margins():
    margins = Margins()
    for value in (0.0, 0.0, 0.0, 0.5):
        margins.add(value)
    assert (margins.quantile(0.5), margins.quantile(1.0), margins.largest) == (0.0, 0.5, 0.5)
    margins.add(float("inf"))
    assert margins.largest == float("inf")
    assert margins.quantile(0.75) == pytest.approx(0.5, rel=0.05)
    margins.add(float("nan"))
    assert margins.largest != margins.largest
    margins.add(2.0)
    assert margins.largest != margins.largest


def test_no_margin_is_zero():
    assert Margins().quantile(0.5) == 0.0
