"""The checks of end-to-end heads find every planted fault at its stage, whatever the implementation exposes."""

import re
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from tests.common.faults import parameters

import tal_reference
from tal_conformance.checks.registry import CHECKS
from tal_conformance.core.task import E2E
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.mutation.attack import FailedCheck, attack, faulty
from tal_conformance.mutation.plant import HIDDEN, implementation_with
from tal_conformance.mutation.planted_faults import FAULTS_BY_TASK
from tal_conformance.mutation.planted_faults.end_to_end import OF_DETECTION

FAULTS = FAULTS_BY_TASK[E2E.name]
OF_THE_SUM = [name for name, fault in FAULTS.items() if fault.implementation is None]
"""Faults of both branches together, or of their numbers; the others are faults of detection in one branch."""
MODEL_CLAUSES = {"E2E-1"}
"""Clauses about the model, of which a loss sees nothing."""


def first_failure(implementation: Implementation, check: str) -> FailedCheck | None:
    """Return the first failure that `check`, or one of three other checks, finds on the batches of `ci`; or None."""
    checks = dict.fromkeys((check, "loss", "targets", "metric"))
    return next((hit for name in checks if (hit := attack(implementation, name, task=E2E.name))), None)


@pytest.mark.slow
@pytest.mark.parametrize("name", parameters(FAULTS, by_stage=True))
def test_found_where_stages_are_exposed(name: str):
    """A fault is found at its stage if stages are exposed."""
    fault = FAULTS[name]
    hit = first_failure(faulty(fault), fault.check)
    assert hit is not None, f"not found by test_{fault.check}"
    assert hit.failure.stage == fault.stage, hit.failure


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS)
def test_found_where_outputs_alone_are_exposed(name: str):
    """A fault of an adapter that exposes only outputs of the assigners is found in its branch, or at its stage."""
    fault = FAULTS[name]
    hit = first_failure(faulty(fault, exposes_stages=False), fault.check)
    assert hit is not None, f"not found by test_{fault.check}"
    branch = fault.stage.partition("/")[0]
    assert hit.failure.stage.partition("/")[0] == branch, hit.failure


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS)
def test_found_where_the_branches_are_hidden(name: str):
    """A fault is found if only total, items and gradients of the whole loss are known."""
    fault = FAULTS[name]
    hit = first_failure(hiding(name), fault.check)
    assert hit is not None, f"not found by test_{fault.check}"


def hiding(name: str) -> Implementation:
    """Return the implementation with a fault that exposes neither branches nor assignments."""
    return replace(implementation_with(FAULTS[name], HIDDEN), tasks=(E2E.name,))


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", [name for name in OF_THE_SUM if FAULTS[name].stage in {stage.name for stage in E2E.joint}]
)
def test_a_fault_of_the_sum_is_named_where_the_branches_are_hidden(name: str):
    """A wrong weight, item, total or gradient is reported as such even if the branches are hidden."""
    hit = first_failure(hiding(name), FAULTS[name].check)
    assert hit is not None
    assert hit.failure.stage == FAULTS[name].stage, hit.failure


@pytest.mark.slow
@pytest.mark.parametrize("check", ["loss", pytest.param("topk2", marks=pytest.mark.long)])
def test_the_reference_has_no_fault(check: str):
    """The reference without a fault passes."""
    assert attack(find("reference"), check, task=E2E.name) is None


def test_every_clause_has_at_least_two_faults():
    """Every E2E clause that the reference's source cites has two faults, except those about the model."""
    source = (Path(tal_reference.__file__).parent / "end_to_end.py").read_text(encoding="utf-8")
    cited = set(re.findall(r"\bE2E-\d\b", source)) - MODEL_CLAUSES
    counts = Counter(clause for fault in FAULTS.values() for clause in fault.clauses)
    assert {clause for clause in cited if counts[clause] < 2} == set()


def test_every_fault_of_detection_is_planted_in_either_branch():
    """A fault in one branch is not masked by the other."""
    assert {f"{name}_in_{branch}" for name in OF_DETECTION for branch in E2E.branches} < set(FAULTS)


def test_checks_of_faults_apply_to_the_task():
    """Every fault names a check whose strategy has a counterpart for end-to-end heads."""
    assert all(CHECKS[fault.check].strategy_of(E2E.name) is not None for fault in FAULTS.values())
