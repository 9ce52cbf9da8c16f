"""The checks of poses find every planted fault at its stage, whether or not stages are exposed."""

import re
from collections import Counter
from pathlib import Path

import pytest
from tests.common.faults import parameters

import tal_reference
from tal_conformance.batches.named_strategies import STRATEGIES_BY_TASK, TURNABLE
from tal_conformance.checks.registry import CHECKS
from tal_conformance.core.task import POSE
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.mutation.attack import FailedCheck, attack, faulty
from tal_conformance.mutation.planted_faults import FAULTS_BY_TASK

FAULTS = FAULTS_BY_TASK[POSE.name]
every_fault = pytest.mark.parametrize("name", parameters(FAULTS))


def first_failure(implementation: Implementation, check: str) -> FailedCheck | None:
    """Return the first failure that `check`, or one of three other checks, finds on the batches of `ci`; or None."""
    checks = dict.fromkeys((check, "loss", "targets", "metric"))
    return next((hit for name in checks if (hit := attack(implementation, name, task=POSE.name))), None)


@pytest.mark.slow
@every_fault
def test_found_where_stages_are_exposed(name: str):
    """A fault is found at its stage if stages are exposed."""
    fault = FAULTS[name]
    hit = first_failure(faulty(fault), fault.check)
    assert hit is not None, f"not found by test_{fault.check}"
    assert hit.failure.stage == fault.stage, hit.failure


@pytest.mark.slow
@pytest.mark.long
@every_fault
def test_found_where_outputs_alone_are_exposed(name: str):
    """A fault of an adapter that exposes only outputs is found at its stage or an equivalent stage."""
    fault = FAULTS[name]
    hit = first_failure(faulty(fault, exposes_stages=False), fault.check)
    assert hit is not None, f"not found by test_{fault.check}"
    assert hit.failure.stage in (*fault.outputs_stages, *POSE.stages_of("term", "gradients")), hit.failure


@pytest.mark.parametrize("check", ["loss", "borders"])
def test_the_reference_has_no_fault(check: str):
    """The reference without a fault passes."""
    assert attack(find("reference"), check, task=POSE.name) is None


def test_every_clause_has_at_least_two_faults():
    """There are at least two faults for every POSE clause that the reference's source cites."""
    source = (Path(tal_reference.__file__).parent / "keypoints.py").read_text(encoding="utf-8")
    cited = set(re.findall(r"\bPOSE(?:-[A-Z]+)?-\d\b", source))
    counts = Counter(clause for fault in FAULTS.values() for clause in fault.clauses)
    assert cited <= set(counts)
    assert {clause for clause in cited if counts[clause] < 2} == set()


def test_checks_of_faults_apply_to_the_task():
    """Every fault names a check whose strategy has a counterpart for poses."""
    names = {fault.check for fault in FAULTS.values()}
    assert all(CHECKS[name].strategy_of(POSE.name) is not None for name in names)
    assert set(STRATEGIES_BY_TASK[POSE.name]) < {*STRATEGIES_BY_TASK["detect"], *TURNABLE}
