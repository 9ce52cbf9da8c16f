"""DTYPE: every dtype that a loss receives in practice; the other tests use float32.

The official trainer calls the loss inside autocast, with the head's feature maps in low precision and ground truths in
float32. A model converted to half precision produces the same feature maps without autocast.
"""

from dataclasses import replace

from tal_conformance.batches.hazards.catalogue import with_hazards
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import PRECISIONS, STRATEGIES
from tal_conformance.checks.registry import check
from tal_conformance.core.task import OBB, TASKS
from tal_conformance.judgement.judge import LOSS_NOT_IN_16_BITS, NOT_IN_16_BITS
from tal_conformance.judgement.rounding.mixed_precision import is_coarse
from tal_conformance.suite.checker import Checker


@check(
    "DTYPE",
    batches=STRATEGIES["precision"],
    share=len(PRECISIONS),
    parameter=("precision", PRECISIONS),
    mutants="last",
)
def test_precision(checker: Checker, precision: str, recipe: Recipe) -> None:
    """Judge the loss in a dtype other than float32, with error bounds for the rounding of this dtype."""
    if precision not in checker.subject.implementation.precisions:
        checker.not_tested(f"precision {precision}: the adapter does not declare it (attribute `precisions`)")
    dtype, autocast = PRECISIONS[precision]
    task = checker.subject.implementation.task
    if task == OBB.name and is_coarse(dtype):
        checker.not_tested(f"precision {precision}: {NOT_IN_16_BITS}")
    if TASKS[task].counts_in_full and is_coarse(dtype):
        checker.not_tested(f"precision {precision}: {LOSS_NOT_IN_16_BITS}")
    checker(with_hazards(replace(recipe.build().to(dtype=dtype), autocast=autocast)))
