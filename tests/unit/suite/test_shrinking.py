"""Hypothesis shrinks one failure of a cause; later tests that fail for this cause report their first failing batch."""

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.checker import JudgedBatch, NoSink
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement, Value, Verdict
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject, failure_from
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.shrinking import ShrinkBudget, TestShrinking, is_clear, is_shrinking

SUBJECT = Subject(find("reference"), "cpu")
RECIPES = st.integers(1, 60).map(lambda rows: Recipe(cells=(rows, 1)))
FAST = settings(
    derandomize=True, database=None, deadline=None, phases=[Phase.generate, Phase.shrink], max_examples=60,
    suppress_health_check=list(HealthCheck), report_multiple_bugs=False,
)  # fmt: skip


class Recorded(NoSink):
    """Sink that stores the number of rows of every judged batch."""

    def __init__(self) -> None:
        self.rows: list[int] = []

    def batch(self, judged: JudgedBatch) -> None:
        """Store the rows of a batch."""
        self.rows.append(judged.batch.grids[0][0])


def run_test(budget: ShrinkBudget, stage: str = "metric", errors: str = "") -> tuple[int, list[int]]:
    """Run a test that fails on batches with 20 or more rows; return the rows of the reported batch and of each batch.

    Args:
        budget: the failures for which the session has already shrunk a batch.
        stage: stage of the failure.
        errors: Python expression of the failure's error, in multiples of its bound, given `rows`.
    """
    sink = Recorded()
    checker = Checker(SUBJECT, sink, "test", "G", shrinking=TestShrinking(budget, SUBJECT.id))

    def judge(subject: Subject, batch: Batch) -> Judgement:
        rows = batch.grids[0][0]
        if rows >= 20:
            bounds = eval(errors, {"rows": rows}) if errors else 99.0
            value = Value("anchor 1", "t", "0", str(bounds), "1")
            raise Failure(subject, batch, Verdict.DIVERGENT, stage, "C-1", "t differs", [value])
        return Judgement()

    @FAST
    @given(recipe=RECIPES)
    def test(recipe: Recipe) -> None:
        checker(recipe, by=judge)

    with pytest.raises(Failure) as raised:
        test()
    return raised.value.batch.grids[0][0], sink.rows


def test_the_first_failure_of_a_cause_is_shrunk_and_a_later_one_is_not():
    budget = ShrinkBudget()
    smallest, judged = run_test(budget)
    assert smallest == 20
    again, judged_again = run_test(budget)
    assert again > 20
    failing = [rows for rows in judged_again if rows >= 20]
    assert set(failing) == {again}
    assert len(judged_again) < len(judged)
    assert budget.spared == {"an earlier test failed in the same way": 1}


def test_another_cause_is_shrunk_again():
    budget = ShrinkBudget()
    run_test(budget)
    assert run_test(budget, stage="conflict")[0] == 20
    assert budget.spared == {}


def test_a_used_up_budget_ends_shrinking_at_the_smallest_failure_so_far():
    budget = ShrinkBudget(seconds=0.0)
    smallest, judged = run_test(budget)
    assert smallest in judged
    assert budget.spared == {"the budget was used up": 1}


def test_a_batch_close_to_its_bound_is_no_smaller_example_of_a_clear_failure():
    """If 20 to 29 rows exceed the bound 2 times and larger batches 90 times, the batch with 30 rows is reported."""
    assert run_test(ShrinkBudget(), errors="2.0 if rows < 30 else 90.0")[0] == 30


def test_if_no_failure_is_clear_the_smallest_is_reported():
    assert run_test(ShrinkBudget(), errors="2.0")[0] == 20


def test_hypothesis_has_the_functions_by_which_shrinking_is_recognised():
    phases = set()

    @FAST
    @given(number=st.integers(0, 10**6))
    def test(number: int) -> None:
        phases.add(is_shrinking())
        assert number < 1000

    with pytest.raises(AssertionError):
        test()
    assert phases == {False, True}


def test_an_error_without_values_is_clear():
    from tal_conformance.implementations.errors import ImplementationFailed

    failure = failure_from(SUBJECT, Recipe().build(), ImplementationFailed("raised ValueError: 3"))
    assert is_clear(failure)
