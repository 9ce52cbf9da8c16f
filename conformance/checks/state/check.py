"""STATE: after any earlier calls, the results for a batch equal those of an implementation without earlier calls."""

from collections.abc import Callable, Sequence
from pathlib import Path

from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.calling.answers import Difference, Plain, difference, plain_call
from tal_conformance.checks.state.sequences import CLAUSES, ROUNDED, SEQUENCES, Step
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import StageName
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.calling.call import call_of
from tal_conformance.implementations.calling.run import IN_TURN
from tal_conformance.implementations.errors import (
    ImplementationFailed,
    ProtocolViolation,
    UnknownImplementation,
)
from tal_conformance.implementations.execute import execute_calls
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject

MAX_CALLS = 400
"""Number of calls after which a failing sequence is not shortened further: every removal repeats the sequence, and a
counter of 50 calls leaves little to remove."""


class StateFailure(Failure):
    """Error: the results of an implementation depend on earlier calls."""


def steps_of(recipe: Recipe, name: str) -> list[Step]:
    """Return the steps of the sequence `name`, with batches varied from a recipe."""
    return list(SEQUENCES[name](recipe))


class SequenceJudge:
    """Judge of one implementation on a sequence of calls.

    Args:
        subject: the implementation, and the device to run it on.
        name: name of the sequence, a key of `SEQUENCES`.
    """

    def __init__(self, subject: Subject, name: str) -> None:
        self.subject, self.name = subject, name
        self._plains: dict[int, Plain] = {}
        self._order: list[Step] = []

    def judge(self, steps: Sequence[Step]) -> Judgement:
        """Judge every step alone, and then in the sequence.

        Raises:
            Failure: a step does not conform even without earlier calls.
            StateFailure: the results of a step differ after the earlier steps.
        """
        for step in steps:
            self._judge_alone(step)
        found = self._differences(steps)
        for number, (step, differs) in enumerate(zip(steps, found, strict=False)):
            if differs is not None:
                raise self._state_failure(list(steps[:number]), step, differs)
        return self._plains[id(steps[-1].batch)].judgement

    def _judge_alone(self, step: Step) -> None:
        """Judge a step on a fresh implementation.

        Raises:
            Failure: the implementation does not conform.
            StateFailure: the implementation conforms if its module is loaded again, so that its results depend on
                earlier calls, which changed that module.
        """
        if id(step.batch) in self._plains:
            return
        batch = step.batch.to(self.subject.batch_device)
        expected = Expectation(batch, self.subject.implementation.dialect)
        try:
            self._plains[id(step.batch)] = plain_call(self.subject, expected)
        except Failure as failure:
            if not self._order:
                raise
            reloaded = reloaded_subject(self.subject)
            if reloaded is None or not conforms(reloaded, expected):
                raise
            raise self._left_in_module([*self._order, step], failure) from failure
        self._order.append(step)

    def _left_in_module(self, steps: list[Step], failure: Failure) -> StateFailure:
        """Return a StateFailure for a step that fails only because earlier steps changed the implementation's module.

        The step conforms if that module is loaded again.
        """

        def fails(chosen: list[Step]) -> bool:
            subject = reloaded_subject(self.subject)
            assert subject is not None
            dialect = subject.implementation.dialect
            results = [
                conforms(subject, Expectation(step.batch.to(subject.batch_device), dialect))
                for step in chosen
            ]
            return all(results[:-1]) and not results[-1]

        shortest = shortest_past(steps[:-1], steps[-1], fails)
        found = Difference(failure.verdict, failure.summary, tuple(failure.values), failure.details)
        return self._failure(shortest, steps[-1], failure.batch, found)

    def _differences(self, steps: Sequence[Step]) -> list[Difference | None]:
        """Return for each step the difference between its results in the sequence and alone; None if they are equal.

        The list ends at the first step without results.
        """
        alone = "loss" not in self.subject.implementation.capabilities
        plains = [self._plains[id(step.batch)] for step in steps]
        calls = [
            call_of(plain.batch, plain.expected.inputs if alone else None, step.mode)
            for plain, step in zip(plains, steps, strict=True)
        ]
        try:
            answers = execute_calls(self.subject.implementation, IN_TURN, calls)
        except ImplementationFailed as error:
            return [
                *[None] * (len(steps) - 1),
                Difference(Verdict.ERROR, error.what, details=error.details),
            ]
        same_bits = self.name not in ROUNDED
        return [difference(self.subject, answer, plains[answer.call], same_bits) for answer in answers]

    def _state_failure(self, past: list[Step], last: Step, differs: Difference) -> Failure:
        """Return the failure of the last step after the earlier calls, reduced to a short sequence that still fails.

        A cache by memory address, or any other chance, may fail once and not again: then the whole sequence and its
        difference are reported.
        """

        def fails(chosen: list[Step]) -> bool:
            found = self._differences(chosen)
            return len(found) == len(chosen) and found[-1] is not None

        shortest = shortest_past(past, last, fails)
        again = self._differences([*shortest, last])
        found = again[-1] if len(again) > len(shortest) else None
        if found is None:
            shortest, found = past, differs
        return self._failure(shortest, last, self._plains[id(last.batch)].batch, found)

    def _failure(self, past: list[Step], last: Step, batch: Batch, found: Difference) -> StateFailure:
        many = f"{len(past)} earlier call" + "s" * (len(past) != 1)
        depends = "depends on earlier calls" if past else "depends on the autograd mode of the call"
        again = f"after {many}, it {found.predicate}" if past else f"it {found.predicate}"
        steps = "; ".join(f"{number}. {step.describe()}" for number, step in enumerate([*past, last], 1))
        recipes = "\n".join(f"{number}. {step.batch.origin}" for number, step in enumerate([*past, last], 1))
        return StateFailure(
            self.subject,
            batch,
            found.verdict,
            StageName.STATE,
            CLAUSES.get(self.name, "STATE-1"),
            f"{depends} (sequence {self.name!r}): {again}; an ordinary first call on the same batch conforms. "
            f"Shortest sequence: {steps}",
            list(found.values),
            details="\n".join(filter(None, (found.details, f"Recipes of the calls:\n{recipes}"))),
        )


def shortest_past(past: list[Step], last: Step, fails: Callable[[list[Step]], bool]) -> list[Step]:
    """Return a short subsequence of the earlier steps after which the last step still fails.

    Single steps are tried first, the latest first; then steps are removed: half of them, fewer, one by one. They
    end with `MAX_CALLS` calls. If no subsequence fails, all earlier steps are returned.

    Args:
        past: the earlier steps.
        last: the step that fails after them.
        fails: returns True if the last of the given steps fails after the steps before it.
    """
    different = {(id(step.batch), step.mode): step for step in reversed(past)}
    for chosen in ([], *([step] for step in different.values())):
        if len(chosen) < len(past) and fails([*chosen, last]):
            return chosen
    shortened, size, calls = list(past), len(past) // 2, 0
    while size:
        for start in range(len(shortened) - size, -1, -size):
            shorter = shortened[:start] + shortened[start + size :]
            calls += len(shorter) + 1
            if calls > MAX_CALLS:
                return shortened
            if len(shorter) > 1 and fails([*shorter, last]):
                shortened = shorter
        size //= 2
    return shortened


def reloaded_subject(subject: Subject) -> Subject | None:
    """Return the implementation with its file executed again, so that its module has no state.

    Returns:
        None if the implementation does not come from a user's file.
    """
    implementation = subject.implementation
    where = implementation.spec.rpartition(":")[0]
    if implementation.in_subprocess or not where.endswith(".py") or not Path(where).is_file():
        return None
    try:
        found = find(implementation.spec)
    except (UnknownImplementation, ProtocolViolation):
        return None
    return Subject(found, subject.device)


def conforms(subject: Subject, expected: Expectation) -> bool:
    """Return True if the implementation conforms on a batch."""
    try:
        plain_call(subject, expected)
    except Failure:
        return False
    return True
