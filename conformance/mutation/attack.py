"""Run one check of the suite on a faulty implementation until the check fails, and count the generated batches."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings

import tal_conformance.suite.every_check  # noqa: F401 (enters the checks into the registry)
from tal_conformance.checks.checker import JudgedBatch, NoSink
from tal_conformance.checks.profiles import PROFILES
from tal_conformance.checks.registry import CHECKS
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults import Fault, FaultyAssigner, FaultyReference
from tal_conformance.suite.checker import Checker

GATING = "ci"
"""The profile in which every planted fault must be found."""
ASSIGNED = DETECT.stages_of("assignment")
"""Stages of the assigner: a fault in one of them is found without computing the loss."""


@dataclass(frozen=True)
class FailedCheck:
    """The result of a check that failed on a faulty implementation.

    Attributes:
        check: name of the check.
        batches: number of generated batches, including the failing batch.
        failure: the failure, shrunk if Hypothesis' phases included shrinking.
    """

    check: str
    batches: int
    failure: Failure


class BatchCounter(NoSink):
    """Counter of a check's judged batches, without batches that Hypothesis generates while shrinking."""

    def __init__(self) -> None:
        self.batches = 0

    def batch(self, judged: JudgedBatch) -> None:
        """Count one judged batch."""
        self.batches += judged.phase == "generate"


def faulty(fault: Fault, exposes_stages: bool = True, assigner_alone: bool = False) -> Implementation:
    """Return the reference with a fault planted, as an implementation under test.

    Args:
        fault: the fault to plant.
        exposes_stages: False if the result has only the outputs of the assigner, not its stages.
        assigner_alone: return an implementation without a loss, which finds faults of the assigner faster.
    """
    if fault.implementation is not None:
        return fault.implementation("stages" if exposes_stages else "outputs")
    whole = FaultyReference(fault, exposes_stages)
    return implementation_from(FaultyAssigner(whole) if assigner_alone else whole, fault.name)


def attack(
    implementation: Implementation,
    check: str,
    phases: Sequence[Phase] = (Phase.generate,),
    profile: str = GATING,
    task: str = DETECT.name,
) -> FailedCheck | None:
    """Run one check on an implementation until it fails, on at most the profile's number of batches.

    With the profile `ci`, a check runs on the profile's full number of batches, even if it declares a smaller share.

    Args:
        implementation: the implementation to test.
        check: name of the check, followed by the value of its parameter in brackets if it has one.
        phases: Hypothesis' phases. With `generate` alone, the first failing batch is returned; if `shrink` is
            included, the shrunk batch.
        profile: name of the profile.
        task: name of the loss family whose batches the check generates.

    Returns:
        The failure and the number of batches; None if the implementation conforms on every batch.
    """
    name, _, value = check.partition("[")
    chosen = CHECKS[name]
    arguments = {chosen.parameter[0]: value.rstrip("]")} if chosen.parameter and value else {}
    number = PROFILES[profile].examples
    every = profile == GATING and chosen.parameter is None
    examples = number if every else chosen.examples(number)
    test = chosen.generated(repeats=True, task=task)
    return _until_failure(implementation, check, test, arguments, examples, phases)


def attack_in_precision(
    implementation: Implementation, check: str, precision: str, phases: Sequence[Phase] = (Phase.generate,)
) -> FailedCheck | None:
    """Run the suite's precision check in one precision, on batches of another check, until the precision check fails.

    Args:
        implementation: the implementation to test.
        check: name of the check that generates the batches; if it does not generate recipes, the batches of the
            precision check are used.
        precision: one of `PRECISIONS`.
        phases: see `attack`.

    Returns:
        The failure and the number of batches; None if the implementation conforms on every batch.
    """
    precision_check, own = CHECKS["precision"], CHECKS[check.partition("[")[0]]
    source = own if own.argument == precision_check.argument and own.parameter is None else precision_check
    test = seed(own.seed)(given(**{precision_check.argument: source.strategy})(precision_check.body))
    number = PROFILES[GATING].examples
    return _until_failure(implementation, check, test, {"precision": precision}, number, phases)


def _until_failure(
    implementation: Implementation,
    check: str,
    test: Callable[..., None],
    arguments: dict[str, str],
    examples: int,
    phases: Sequence[Phase],
) -> FailedCheck | None:
    """Run a Hypothesis test until it fails, and return the failure; None if it passes or is skipped.

    Args:
        implementation: the implementation to test.
        check: name of the check, for the result.
        test: the test function.
        arguments: arguments of the test other than the checker and the generated recipe.
        examples: number of batches.
        phases: see `attack`.
    """
    counter = BatchCounter()
    checker = Checker(Subject(implementation, "cpu"), counter, f"test_{check}", "")
    as_gated = settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, *phases),
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    try:
        as_gated(test)(checker=checker, **arguments)
    except Failure as failure:
        return FailedCheck(check, counter.batches, failure)
    except pytest.skip.Exception:
        return None  # the check skipped: it does not apply to the implementation
    return None
