"""NONFINITE: predictions that are NaN or infinite, and the results that they may affect."""

from functools import partial

from tal_conformance.batches.non_finite import NonFiniteBatch, non_finite
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.registry import check
from tal_conformance.judgement.non_finite import judge_any
from tal_conformance.suite.checker import Checker

BATCHES = non_finite(STRATEGIES["nonfinite"])


@check("NONFINITE", batches=BATCHES, argument="batch", share=2, mutants="last")
def test_nonfinite(checker: Checker, batch: NonFiniteBatch) -> None:
    """NONFINITE-1 to NONFINITE-3: a non-finite prediction affects only the results that depend on it."""
    checker(batch.build(), by=partial(judge_against_reference, judge=judge_any))
