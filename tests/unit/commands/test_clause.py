"""Command `clause`: it prints the sentences of the specification about the given clauses."""

import pytest

from tal_conformance.commands import main
from tal_conformance.core.clauses import FILE, clauses, definitions, read_pages, written
from tal_conformance.core.files import REPOSITORY
from tal_reference import CHOICES


def test_the_file_is_that_of_the_specification():
    expected = written(read_pages(REPOSITORY / "docs"))
    assert FILE.read_text(encoding="utf-8") == expected, "run python -m tal_conformance.core.clauses"


def test_every_choice_has_a_clause_with_a_sentence():
    assert {choice.clause for choice in CHOICES.values()} <= set(clauses())
    assert all(entry["text"] for entry in clauses().values())


def test_a_definition_ends_where_the_next_one_begins():
    page = '- <a id="A"></a><a id="A-1"></a>**A-1** One,\n  two.\n- <a id="A-2"></a>**A-2** Three.\n\nFour.\n'
    assert definitions(page) == {"A-1": "One, two.", "A-2": "Three."}


def test_a_clause_with_its_choices(capsys: pytest.CaptureFixture[str]):
    assert main(["clause", "tal-cand-2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("TAL-CAND-2: Small-box floor: ")
    assert lines[1] == "  docs/specification.md#TAL-CAND-2"
    assert "  choice small_box_floor:" in lines
    assert "    none: small ground truths keep their size" in lines


def test_a_group(capsys: pytest.CaptureFixture[str]):
    assert main(["clause", "TAL-CAND"]) == 0
    output = capsys.readouterr().out
    assert "TAL-CAND-1: " in output
    assert "TAL-CAND-2: " in output


def test_an_unknown_clause_has_the_nearest_names(capsys: pytest.CaptureFixture[str]):
    assert main(["clause", "TAL-CANT-2"]) == 2
    assert "unknown clause 'TAL-CANT-2'; did you mean 'TAL-CAND-2'" in capsys.readouterr().err
