"""Every finding (recorded fault of a release) is reproduced, or the release that fixed the fault is reported."""

import ast
from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from tal_conformance.known_issues.findings import (
    MAX_SCRIPT_LINES,
    ROOM,
    Finding,
    InvalidFindings,
    ScriptFailed,
    installed,
    read_findings,
    run_script,
)

FINDINGS = read_findings()
ALLOWED = {"sys", "types", "torch", "ultralytics"}


@pytest.mark.slow
@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.id)
def test_reproduces_with_the_installed_release(finding: Finding):
    ran = run_script(finding, installed())
    assert ran.problem is None
    assert "expected" in ran.output
    assert "observed" in ran.output


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.id)
def test_a_script_can_be_sent_as_it_is(finding: Finding):
    """The script of a finding is short, and imports only torch, ultralytics and the standard library."""
    source = finding.script.read_text(encoding="utf-8")
    assert len(source.splitlines()) <= MAX_SCRIPT_LINES
    nodes = list(ast.walk(ast.parse(source)))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {str(node.module) for node in nodes if isinstance(node, ast.ImportFrom)}
    assert {name.partition(".")[0] for name in names} <= ALLOWED


def test_every_script_is_in_the_catalogue():
    scripts = {path.stem for path in (ROOM / "scripts").glob("*.py")} - {"__init__"}
    assert scripts == {finding.id for finding in FINDINGS}


def planted(folder: Path, source: str, **told: str) -> Finding:
    (folder / "scripts").mkdir()
    (folder / "scripts" / "it.py").write_text(source, encoding="utf-8")
    texts = {"title": "it", "batch": "1 image", "clause": "ANN-1", "first": "8.4.1", "last": "8.4.5"} | told
    lines = "\n".join(f'{key} = "{value}"' for key, value in texts.items())
    (folder / "findings.toml").write_text(f"[it]\n{lines}\n", encoding="utf-8")
    (finding,) = read_findings(folder / "findings.toml")
    return finding


def test_a_finding_that_stops_reproducing_is_a_problem_until_the_release_is_recorded(tmp_path: Path):
    finding = planted(tmp_path, "import sys\nsys.exit(1)\n")
    ran = run_script(finding, Version("8.4.7"))
    assert not ran.reproduces
    assert ran.problem is not None
    assert "finding it no longer reproduces with ultralytics 8.4.7" in ran.problem
    assert replace(ran, finding=replace(finding, mended=Version("8.4.7"))).problem is None


def test_a_finding_that_reproduces_again_is_a_problem(tmp_path: Path):
    finding = planted(tmp_path, "", mended="8.4.6")
    assert run_script(finding, Version("8.4.5")).problem is None
    assert "Correct its `first` or `mended`" in str(run_script(finding, Version("8.4.6")).problem)
    assert "Correct its `first` or `mended`" in str(run_script(finding, Version("8.4.0")).problem)


@pytest.mark.parametrize(
    "source", ["raise KeyError", "import sys\nsys.exit(3)", "import nothing_of_that_name"]
)
def test_a_script_that_fails_says_nothing(tmp_path: Path, source: str):
    with pytest.raises(ScriptFailed, match="finding it: its script failed with status"):
        run_script(planted(tmp_path, source), Version("8.4.2"))


@pytest.mark.parametrize(
    ("values", "message"),
    [({"first": "old"}, "finding it: Invalid version"), ({"owner": "x"}, "'owner' is an unknown key")],
)
def test_an_invalid_finding(tmp_path: Path, values: dict[str, str], message: str):
    with pytest.raises(InvalidFindings, match=message):
        planted(tmp_path, "", **values)
