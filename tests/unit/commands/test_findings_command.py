"""Command `findings` and its page: both list everything that the data has, and a finding's text is ready to report."""

from dataclasses import replace
from pathlib import Path

import pytest
from packaging.version import Version

from tal_conformance.commands import findings as command
from tal_conformance.commands import main
from tal_conformance.known_issues.catalogue import PAGE, batches_of, issue_text, page
from tal_conformance.known_issues.findings import Finding, Ran, ScriptFailed, read_findings
from tal_conformance.known_issues.ledger import BUNDLED, read_ledger
from tal_conformance.known_issues.predicates import PREDICATES, meaning_of

FINDINGS, ENTRIES = read_findings(), read_ledger(BUNDLED)
Capture = pytest.CaptureFixture[str]


def test_the_page_is_written_from_the_data():
    expected = page(FINDINGS, ENTRIES)
    assert PAGE.read_text(encoding="utf-8") == expected, (
        "run python -m tal_conformance.known_issues.catalogue"
    )


def test_the_page_changes_with_every_field_of_a_finding():
    first, *others = FINDINGS
    changed = {
        "title": "Something else", "batch": "1 image", "clause": "ANC-1", "first": Version("8.1"),
        "last": Version("9.1"), "mended": Version("9.2"), "script": Path(__file__), "id": "other",
    }  # fmt: skip
    assert {*changed} == set(Finding.__dataclass_fields__)
    for name, value in changed.items():
        other: Finding = replace(first, **{name: value})
        assert page([other, *others], ENTRIES) != page(FINDINGS, ENTRIES), name


def test_the_command_lists_what_the_page_lists(capsys: Capture):
    assert main(["findings"]) == 0
    output, text = capsys.readouterr().out, PAGE.read_text(encoding="utf-8")
    for finding in FINDINGS:
        for words in (finding.id, finding.title, finding.releases, finding.clause, finding.batch):
            assert words in output
            assert words in text
    for entry in ENTRIES:
        for words in (entry.id, entry.reason, str(entry.versions), entry.clause, batches_of(entry)):
            assert words in output
            assert words in text


@pytest.mark.parametrize("finding", FINDINGS, ids=lambda finding: finding.id)
def test_the_text_of_an_issue_is_complete(finding: Finding, capsys: Capture):
    assert main(["findings", finding.id]) == 0
    output = capsys.readouterr().out
    assert output.startswith(f"# {finding.title}\n")
    assert finding.script.read_text(encoding="utf-8").strip() in output
    assert f"Expected ({finding.clause}): " in output
    assert "Its output:\n\n```text\nobserved: 1\n```" in issue_text(finding, "observed: 1")


def test_an_unknown_finding_is_an_error(capsys: Capture):
    assert main(["findings", "row_order_raise"]) == 2
    assert "did you mean 'row_order_raises'" in capsys.readouterr().err


def test_a_script_decides_the_status(monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    monkeypatch.setattr(
        command, "run_script", lambda finding, release: Ran(finding, release, True, "observed: 1")
    )
    monkeypatch.setattr(command, "installed", lambda: FINDINGS[0].last)
    assert main(["findings", FINDINGS[0].id, "--run"]) == 0
    output = capsys.readouterr().out
    assert f"{FINDINGS[0].id}: reproduces with ultralytics {FINDINGS[0].last}" in output
    assert "  observed: 1" in output
    monkeypatch.setattr(command, "installed", lambda: Version("8.0.0"))
    assert main(["findings", FINDINGS[0].id, "--run"]) == 1
    assert "Correct its `first` or `mended`" in capsys.readouterr().out


def test_a_script_that_fails_is_an_error(monkeypatch: pytest.MonkeyPatch, capsys: Capture):
    def fails(finding: Finding, release: Version) -> Ran:
        raise ScriptFailed(f"finding {finding.id}: its script failed")

    monkeypatch.setattr(command, "run_script", fails)
    assert main(["findings", "--run"]) == 2
    assert "its script failed" in capsys.readouterr().err


@pytest.mark.parametrize("name", PREDICATES)
def test_every_predicate_has_a_meaning(name: str):
    assert len(meaning_of(name).split()) > 2
    assert "Return" not in meaning_of(name)
