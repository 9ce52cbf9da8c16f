"""Findings: what official code does that is probably a bug, shown by a script each, so that the report lists them."""

import pytest

from tal_conformance.known_issues.findings import Finding, installed, read_findings, run_script
from tal_conformance.suite.session import RUN, SessionState

OFFICIAL = "ultralytics"
"""The installed release, by the name under which it is tested."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test a finding, in nightly runs that test the installed release: each script is a process of its own."""
    run, config = metafunc.config.stash.get(RUN, None), metafunc.config
    profile, fewer = config.getoption("--conformance-profile"), config.getoption("--examples")
    tested = {implementation.name for implementation in run.implementations} if run else set()
    wanted = profile == "nightly" and not fewer and OFFICIAL in tested
    metafunc.parametrize("finding", read_findings() if wanted else [], ids=lambda finding: finding.id)


def test_reproduces(run: SessionState, finding: Finding) -> None:
    """The finding shows with the installed release; one that does not has been mended, and must be marked so."""
    release = installed()
    ran = run_script(finding, release)
    run.recorder.line(
        "finding",
        finding=finding.id,
        title=finding.title,
        clause=finding.clause,
        implementation=OFFICIAL,
        version=str(release),
        first=str(finding.first),
        last=str(finding.last),
        reproduces=ran.reproduces,
        script=finding.script.read_text(encoding="utf-8"),
        output=ran.output,
    )
    if ran.problem:
        pytest.fail(ran.problem, pytrace=False)
