"""The profile `ci` finds every planted fault that depends on the calls, such as state kept between calls."""

import pytest
from tests.common.tiers import mostly_nightly

from tal_conformance.checks.profiles import PROFILES
from tal_conformance.checks.registry import CHECKS
from tal_conformance.mutation.attack import attack
from tal_conformance.mutation.plant import MODES, STAGES_SHOWN, implementation_with
from tal_conformance.mutation.planted_faults import FAULTS, FAULTS_OF_USE, PROGRESS_FAULTS

LONG_WARM_UPS = [name for name in FAULTS_OF_USE if name.startswith("warm_up_of_")]
"""Faults that begin after many calls: only long sequences show them."""


@pytest.mark.slow
@pytest.mark.parametrize(
    "mode", [pytest.param(mode, marks=[pytest.mark.long] * (mode != STAGES_SHOWN)) for mode in MODES]
)
@pytest.mark.parametrize(
    "name", mostly_nightly(FAULTS_OF_USE, [name for name in FAULTS_OF_USE if name not in LONG_WARM_UPS])
)
def test_found_at_its_stage(name: str, mode: str):
    fault = FAULTS_OF_USE[name]
    hit = attack(implementation_with(fault, mode), fault.check)
    assert hit is not None, f"not found by test_{fault.check}"
    assert hit.batches <= CHECKS[fault.check.partition("[")[0]].examples(PROFILES["ci"].examples)
    assert (hit.failure.stage, hit.failure.clause) == (fault.stage, *fault.clauses)


def test_every_way_and_sequence_has_a_fault():
    checks = {fault.check for fault in (FAULTS_OF_USE | PROGRESS_FAULTS).values()}
    for name in ("calling", "calling_slowly", "state"):
        parameter = CHECKS[name].parameter
        assert parameter is not None
        assert {f"{name}[{value}]" for value in parameter[1]} <= checks


def test_names_are_not_used_twice():
    assert not set(FAULTS) & set(FAULTS_OF_USE)
