"""Run one check of the suite on a faulty implementation until it fails, and count the batches."""

from collections.abc import Sequence
from dataclasses import dataclass

import pytest
from hypothesis import HealthCheck, Phase, settings

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
"""Stages of an assigner without a loss."""


@dataclass(frozen=True)
class Hit:
    """The result of a check that found a fault.

    Attributes:
        check: name of the check.
        batches: number of batches that the check drew, including the failing batch.
        failure: the failure, shrunk if the phases included shrinking.
    """

    check: str
    batches: int
    failure: Failure


class BatchCounter(NoSink):
    """A sink that counts the batches judged before Hypothesis began to shrink."""

    def __init__(self) -> None:
        self.batches = 0

    def batch(self, judged: JudgedBatch) -> None:
        """Count one judged batch."""
        self.batches += judged.phase == "generate"


def faulty(fault: Fault, exposes_stages: bool = True, assigner_alone: bool = False) -> Implementation:
    """Return the reference with a fault planted, as an implementation under test.

    Args:
        fault: the fault.
        exposes_stages: False if only the outputs of its assigner are visible, not its stages.
        assigner_alone: leave out its loss, so that faults of the assignment are found faster.
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
) -> Hit | None:
    """Run one check on an implementation until it fails, on at most the profile's number of batches.

    With the gating profile, a check that draws a share of the profile's batches gets all of them.

    Args:
        implementation: the implementation to test.
        check: name of the check, followed by the value of its parameter in brackets if it has one.
        phases: Hypothesis' phases. With `generate` alone the first failing batch is reported; if `shrink` is included,
            the shrunk batch.
        profile: name of the profile.

    Returns:
        The failure; None if the implementation conforms on every batch.
    """
    name, _, value = check.partition("[")
    chosen = CHECKS[name]
    arguments = {chosen.parameter[0]: value.rstrip("]")} if chosen.parameter and value else {}
    counter = BatchCounter()
    checker = Checker(Subject(implementation, "cpu"), counter, f"test_{check}", "")
    number = PROFILES[profile].examples
    repeating = settings(
        max_examples=number if profile == GATING and chosen.parameter is None else chosen.examples(number),
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, *phases),
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )
    try:
        repeating(chosen.generated(repeats=True))(checker=checker, **arguments)
    except Failure as failure:
        return Hit(check, counter.batches, failure)
    except pytest.skip.Exception:  # the check needs what the implementation does not have
        return None
    return None
