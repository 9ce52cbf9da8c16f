"""The checks of rotated boxes, poses and masks find every planted fault at its stage, with and without stages."""

import re
from collections import Counter
from pathlib import Path

import pytest
from tests.common.faults import parameters

import tal_reference
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK, TURNABLE
from tal_conformance.checks.registry import CHECKS
from tal_conformance.core.task import OBB, POSE, POSE26, SEGMENT, SEGMENT26, TASKS
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.mutation.attack import FailedCheck, attack, faulty
from tal_conformance.mutation.planted_faults import FAULTS_BY_TASK

CLAUSES = {
    OBB.name: ("rotated.py", r"\bOBB-[A-Z]+-\d\b"),
    POSE.name: ("keypoints.py", r"\bPOSE(?:-[A-Z]+)?-\d\b"),
    SEGMENT.name: ("masks.py", r"\bSEG(?:-[A-Z]+)?-\d\b"),
    POSE26.name: ("keypoints.py", r"\bP26-\d\b"),
    SEGMENT26.name: ("masks.py", r"\bS26-\d\b"),
}
"""Module of the reference that implements each task, and the pattern of the clauses that it cites."""
LEFT_OUT = {"SEG-IN-3", "P26-4", "P26-5", "S26-4"}
"""Clauses that no task can violate: of heads with semantic logits, of tensors that every batch has, and of heads that
assign as detection does."""
every_task = pytest.mark.parametrize("task", CLAUSES)
every_fault = pytest.mark.parametrize(
    ("task", "name"),
    [
        pytest.param(task, *entry.values, marks=entry.marks)
        for task in CLAUSES
        for entry in parameters(
            FAULTS_BY_TASK[task], by_stage=task in (SEGMENT.name, POSE26.name, SEGMENT26.name)
        )
    ],
)


def first_failure(implementation: Implementation, check: str, task: str) -> FailedCheck | None:
    """Return the first failure that `check`, or one of three other checks, finds on the batches of `ci`; or None."""
    checks = dict.fromkeys((check, "loss", "targets", "metric"))
    return next((hit for name in checks if (hit := attack(implementation, name, task=task))), None)


@pytest.mark.slow
@every_fault
def test_found_where_stages_are_exposed(task: str, name: str):
    """A fault is found at its stage if stages are exposed."""
    fault = FAULTS_BY_TASK[task][name]
    hit = first_failure(faulty(fault), fault.check, task)
    assert hit is not None, f"not found by test_{fault.check}"
    assert hit.failure.stage == fault.stage, hit.failure


@pytest.mark.slow
@pytest.mark.long
@every_fault
def test_found_where_outputs_alone_are_exposed(task: str, name: str):
    """A fault of an adapter that exposes only outputs is found at its stage or an equivalent stage."""
    fault = FAULTS_BY_TASK[task][name]
    hit = first_failure(faulty(fault, exposes_stages=False), fault.check, task)
    assert hit is not None, f"not found by test_{fault.check}"
    equivalent = TASKS[task].stages_of("term", "gradients")
    assert hit.failure.stage in (*fault.outputs_stages, *equivalent), hit.failure


@every_task
@pytest.mark.parametrize("check", ["loss", pytest.param("borders", marks=pytest.mark.long)])
@pytest.mark.slow
def test_the_reference_has_no_fault(task: str, check: str):
    """The reference without a fault passes."""
    assert attack(find("reference"), check, task=task) is None


@every_task
def test_every_clause_has_at_least_two_faults(task: str):
    """There are at least two faults for every clause of the task that the reference's source cites."""
    module, pattern = CLAUSES[task]
    source = (Path(tal_reference.__file__).parent / module).read_text(encoding="utf-8")
    cited = set(re.findall(pattern, source)) - LEFT_OUT
    counts = Counter(clause for fault in FAULTS_BY_TASK[task].values() for clause in fault.clauses)
    assert cited <= set(counts)
    assert {clause for clause in cited if counts[clause] < 2} == set()


@every_task
def test_checks_of_faults_apply_to_the_task(task: str):
    """Every fault names a check whose strategy has a counterpart for the task."""
    names = {fault.check for fault in FAULTS_BY_TASK[task].values()}
    assert all(CHECKS[name].strategy_of(task) is not None for name in names)
    of_batches = {f"{name} batches" for name in CHECKS}
    assert set(STRATEGIES_BY_TASK[task]) <= {*STRATEGIES_BY_TASK["detect"], *TURNABLE, *CHECKS, *of_batches}
