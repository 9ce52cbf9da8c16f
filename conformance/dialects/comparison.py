"""Compare two implementations: list the differences that matter for training."""

import textwrap
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.branches import end_to_end
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.batches.strategies.turned_boxes import turned
from tal_conformance.core.batch import Batch
from tal_conformance.core.progress import Advance, no_progress
from tal_conformance.core.task import DETECT, E2E, OBB
from tal_conformance.core.verdicts import Verdict
from tal_conformance.dialects.choices import Choice, choices_between, differ, failure_on, strategies_for
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import Dialect

ORDINARY = recipes(
    kinds=("ordinary", "off_lattice"),
    predictions=("near", "random"),
    strides=((8, 16, 32),),
    bins=(16,),
    classes=(80, 3),
    max_images=2,
)
"""Batches without hazards: ordinary ground truths, three levels."""
ORDINARY_BY_TASK = {DETECT.name: ORDINARY, E2E.name: end_to_end(ORDINARY), OBB.name: turned(ORDINARY)}
"""Ordinary batches of every task whose releases can be compared."""
ORDINARY_BATCHES = 100
"""Ordinary batches on which the frequency of a difference is measured."""
BATCHES_PER_STRATEGY = 12
"""Number of batches of each strategy on which both implementations are judged by their own dialects."""
UNDEFINED = "the result for annotation rows out of order is undefined, so no batch distinguishes the two"
WIDTH = 100


@dataclass(frozen=True)
class Difference:
    """One difference between two implementations.

    Attributes:
        choice: the choice in which their dialects differ.
        failure: failure of the second implementation on the choice's smallest batch, if it is judged by the first
            dialect's value of the choice; None if it does not fail, or if the choice has no such batch.
        share: share of ordinary batches on which the choice makes a difference; None if `choice.recipe` is None.
        recorded: number of recorded batches on which the choice makes a difference.
        task: name of the task of the batches.
    """

    choice: Choice
    failure: Failure | None
    share: float | None
    recorded: int
    task: str = DETECT.name

    @property
    def frequency(self) -> str:
        """Frequency of the difference as text: `25% of 100 ordinary and 3 of 5 recorded real batches`."""
        recorded = f"{self.recorded or 'none'} of {len(recorded_cases(self.task))} recorded real batches"
        if self.share is None:
            return recorded
        return (
            f"{f'{self.share:.0%}' if self.share else 'none'} of {ORDINARY_BATCHES} ordinary and {recorded}"
        )


@dataclass(frozen=True)
class Comparison:
    """Result of comparing two implementations.

    Attributes:
        first, second: the compared implementations.
        differences: choices in which their dialects differ.
        unexpected: failures of an implementation to conform to its own dialect: the smallest one for each stage and
            clause.
        batches: number of batches on which each implementation was judged by its own dialect.
    """

    first: Implementation
    second: Implementation
    differences: list[Difference]
    unexpected: list[Failure]
    batches: int

    @property
    def same(self) -> bool:
        """True if no difference was found."""
        return not self.differences and not self.unexpected


def compare(first: Implementation, second: Implementation, advance: Advance = no_progress) -> Comparison:
    """Judge two implementations by their own dialects, and the second by each differing choice of the first.

    Args:
        first: an implementation.
        second: an implementation of the same task, usually the newer one.
        advance: called once for each strategy of each implementation.
    """
    differences, task = [], first.task
    for choice in choices_between(first.dialect, second.dialect, task):
        failure = share = None
        if choice.recipe is not None:
            failure = failure_with_old_choice(second, first.dialect, choice)
            share = share_of(choice.base, choice.changed, task)
        recorded = sum(exercises_choice(batch, choice) for batch in recorded_batches(task))
        differences.append(Difference(choice, failure, share, recorded, task))
    unexpected = [
        failure for implementation in (first, second) for failure in violations(implementation, advance)
    ]
    strategies = min(len(strategies_for(implementation)) for implementation in (first, second))
    batches = BATCHES_PER_STRATEGY * strategies
    return Comparison(first, second, differences, smallest_of_each(unexpected), batches)


def smallest_of_each(failures: Iterable[Failure]) -> list[Failure]:
    """Return for each implementation, stage and clause the failure on the batch with the fewest anchors."""
    found: dict[tuple[str, Verdict, str, str], Failure] = {}
    for failure in sorted(failures, key=lambda failure: failure.batch.images * failure.batch.anchors):
        name = failure.subject.implementation.name
        found.setdefault((name, failure.verdict, failure.stage, failure.clause), failure)
    return list(found.values())


def failure_with_old_choice(second: Implementation, before: Dialect, choice: Choice) -> Failure | None:
    """Judge the second implementation on the choice's smallest batch by the choice's old value, and return the failure.

    If other choices hide the difference on that batch, the second implementation is judged by the whole first dialect.
    """
    assert choice.recipe is not None
    old_choice = replace(second.dialect, **{choice.name: getattr(before, choice.name)})
    for dialect in (old_choice, before):
        held = replace(second, dialect=replace(dialect, name=before.name))
        failure = failure_on(Subject(held, "cpu"), choice.recipe)
        if failure is not None:
            return failure
    return None


def violations(implementation: Implementation, advance: Advance = no_progress) -> Iterator[Failure]:
    """Yield, for each strategy of batches, the first failure of an implementation judged by its own dialect."""
    subject = Subject(implementation, "cpu")
    for strategy in strategies_for(implementation):
        for recipe in sample_recipes(strategy, BATCHES_PER_STRATEGY):
            failure = failure_on(subject, recipe)
            if failure is not None:
                yield failure
                break
        advance()


def share_of(first: Dialect, second: Dialect, task: str = DETECT.name) -> float:
    """Return the share of a task's ordinary generated batches on which results of two dialects differ, 0 to 1."""
    batches = sample_recipes(ORDINARY_BY_TASK[task], ORDINARY_BATCHES)
    return sum(differ(first, second, recipe) for recipe in batches) / len(batches)


def exercises_choice(batch: Batch, choice: Choice) -> bool:
    """Return True if a choice makes a difference on a batch.

    A choice about the order of annotation rows makes a difference on every batch with unsorted rows (ANN-1).

    Args:
        batch: the batch, of the choice's task.
        choice: the choice in which the second dialect differs.
    """
    if choice.recipe is not None:
        return differ(choice.base, choice.changed, batch)
    images = batch.annotations[:, 0]  # (N,)
    return bool((images[1:] < images[:-1]).any())


@cache
def recorded_batches(task: str = DETECT.name) -> Sequence[Batch]:
    """Return the recorded batches of a task that are part of this project."""
    return [Batch.load(path) for path in recorded_cases(task)]


def format_comparison(comparison: Comparison) -> list[str]:
    """Return the lines of text that the command prints about a comparison."""
    first, second = comparison.first, comparison.second
    task = "" if first.task == DETECT.name else f", task {first.task}"
    lines = [f"{first.name} ({first.dialect.name}) -> {second.name} ({second.dialect.name}){task}"]
    if comparison.same:
        lines.append(
            "  assigner and loss are the same: look elsewhere "
            f"({comparison.batches} batches each, every stage and gradient)."
        )
        return lines
    for difference in comparison.differences:
        lines += ["", *_format_difference(difference, second.name)]
    for failure in comparison.unexpected:
        lines += ["", f"  {failure.subject.implementation.name} deviates from its own dialect:"]
        lines += textwrap.indent(str(failure), "    ").splitlines()
    for name in dict.fromkeys(failure.subject.implementation.spec for failure in comparison.unexpected):
        task = "" if first.task == DETECT.name else f" --task {first.task}"
        lines += ["", f"  tal-conformance identify {name}{task}: finds the choices that explain this"]
    if not comparison.unexpected:
        lines += ["", f"  No other difference was found on {comparison.batches} batches."]
    return lines


def _format_difference(difference: Difference, second: str) -> list[str]:
    choice = difference.choice
    lines = textwrap.wrap(f"{choice.clause}: before, {choice.before}; now, {choice.after}.", WIDTH - 2)
    if choice.recipe is None:
        lines += textwrap.wrap(f"makes a difference on {difference.frequency}; {UNDEFINED}", WIDTH - 2)
    else:
        lines.append(f"makes a difference on {difference.frequency}; the smallest such batch:")
        lines.append(f"  {choice.recipe}")
        lines += textwrap.wrap(f"on it, {format_behaviour(difference, second)}", WIDTH - 2)
    return [f"  {line}" for line in lines]


def format_behaviour(difference: Difference, second: str) -> str:
    """Return a description of the second implementation's behaviour on the smallest batch, as the end of a sentence."""
    failure = difference.failure
    return f"{second} behaves as before" if failure is None else f"{second}: {failure.summary}"
