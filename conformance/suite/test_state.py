"""STATE: equal results after any earlier calls."""

from functools import partial

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.calling import CALLED
from tal_conformance.checks.registry import check
from tal_conformance.checks.state.check import SequenceJudge, steps_of
from tal_conformance.checks.state.sequences import NEEDS, SEQUENCES, Step
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import TASKS
from tal_conformance.core.verdicts import Judgement
from tal_conformance.core.ways import UNSUPPORTED
from tal_conformance.judgement.failure import Subject
from tal_conformance.suite.checker import Checker


@check(
    "STATE",
    batches=CALLED,
    share=45,
    least=1,
    parameter=("sequence", SEQUENCES),
    mutants="never",
    shrinks=False,
)
def test_state(checker: Checker, sequence: str, recipe: Recipe) -> None:
    """STATE-1, STATE-2: after a sequence of calls, a batch has the results of the first call of a new instance.

    Hypothesis does not shrink a failing batch. The sequence is shortened instead, to the shortest sequence that fails.
    """
    implementation = checker.subject.implementation
    if sequence in implementation.unsupported_ways:
        checker.not_tested(f"{UNSUPPORTED}the sequence {sequence!r} (attribute `unsupported_ways`)")
    if (precision := NEEDS.get(sequence)) not in (None, *implementation.precisions):
        checker.not_tested(
            f"sequence {sequence!r}: the adapter does not declare {precision} (attribute `precisions`)"
        )
    # the bounds of terms in which all positives count in full do not cover autocast
    if precision is not None and not all(term.weighted for term in TASKS[implementation.task].terms):
        checker.not_tested(f"sequence {sequence!r}: losses of the task {implementation.task} under autocast")
    steps = steps_of(recipe, sequence)
    checker(steps[-1].batch, by=partial(judge_steps, steps=steps, name=sequence))


def judge_steps(subject: Subject, batch: Batch, steps: list[Step], name: str) -> Judgement:
    """Judge a sequence of calls, and return the judgement of its last step, whose batch is logged."""
    return SequenceJudge(subject, name).judge(steps)
