"""Findings: probable bugs of official code, each reproduced by a script, for the report."""

import pytest

from tal_conformance.known_issues.findings import Finding, installed, read_findings, run_script
from tal_conformance.suite.session import RUN, SessionState

OFFICIAL = "ultralytics"
"""Name of the installed release of Ultralytics among the implementations."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the test over all findings, but only in nightly runs of the installed release."""
    run, config = metafunc.config.stash.get(RUN, None), metafunc.config
    profile, fewer = config.getoption("--conformance-profile"), config.getoption("--examples")
    tested = {implementation.name for implementation in run.implementations} if run else set()
    wanted = profile == "nightly" and not fewer and OFFICIAL in tested
    metafunc.parametrize("finding", read_findings() if wanted else [], ids=lambda finding: finding.id)


def test_reproduces(run: SessionState, finding: Finding) -> None:
    """The script of a finding reproduces the bug in the installed release, unless the index says that it was fixed."""
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
