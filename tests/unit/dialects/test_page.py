"""HTML page of `diff`: differences between two implementations, each with a picture of its smallest batch."""

import re
from collections.abc import Callable
from dataclasses import replace
from html import unescape
from pathlib import Path

import pytest
from tests.common.run_logs import HOSTILE

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.commands import main
from tal_conformance.core.batch import Batch
from tal_conformance.dialects.choices import Choice, choices_between, differ
from tal_conformance.dialects.comparison import Difference, compare, exercises_choice, format_comparison
from tal_conformance.dialects.page import page_path, sections_of, write_page
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_reference import DIALECTS, NEWEST, Dialect

RECORDED = [Batch.load(path) for path in recorded_cases()]
DIFF = "tal_conformance.dialects.comparison"


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Reduce the number of batches that `diff` judges, so that the tests are fast."""
    monkeypatch.setattr(f"{DIFF}.BATCHES_PER_STRATEGY", 1)
    monkeypatch.setattr(f"{DIFF}.ORDINARY_BATCHES", 10)


def speaking(dialect: str, name: str = "", declares: Dialect | None = None) -> Implementation:
    found = implementation_from(ReferenceAdapter(DIALECTS[dialect]), name or dialect)
    return replace(found, name=name or dialect, dialect=declares or DIALECTS[dialect])


@pytest.fixture
def page_of(tmp_path: Path) -> Callable[[Implementation, Implementation], str]:
    """Return a function that compares two implementations and returns the HTML text of their page."""

    def write(one: Implementation, other: Implementation) -> str:
        path = tmp_path / "deep" / "page.html"
        write_page(compare(one, other), path)
        return path.read_text(encoding="utf-8")

    return write


Page = Callable[[Implementation, Implementation], str]


def text_of(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]))


NEIGHBOURS = {
    "floor": ("ultralytics-8.4.127", "ultralytics-8.4.190", {"TAL-CAND-2": 1}),
    "one level accepted": ("ultralytics-8.4.7", "ultralytics-8.4.24", {"TAL-CAND-2": 0}),
    "overlaps": ("ultralytics-8.0.51", "ultralytics-8.3.253", {"TAL-CONF-1": 2}),
    "weights": ("ultralytics-8.3.253", "ultralytics-8.0.100", {"LOSS-BOX-1": 3}),
    "rows": ("ultralytics-8.4.24", "ultralytics-8.4.127", {"ANN-1": 0}),
}
"""Neighbours of the table of eras, with each clause that changed and how many recorded batches meet it."""


@pytest.mark.parametrize(("one", "other", "clauses"), NEIGHBOURS.values(), ids=NEIGHBOURS)
def test_every_difference_has_its_section(page_of: Page, one: str, other: str, clauses: dict[str, int]):
    page = page_of(speaking(one), speaking(other))
    said = text_of(page)
    assert re.findall(r"<h2>(.*?)</h2>", page) == list(clauses)
    for met in clauses.values():
        assert f"{met or 'none'} of {len(RECORDED)} recorded real batches." in said
    assert f"From {one} to {other}" in said
    drawn = [clause for clause in clauses if clause != "ANN-1"]  # the result of unsorted rows is undefined
    assert page.count("<svg") == page.count("Recipe(images=") == len(drawn)


def test_a_picture_has_both_sides_by_name(page_of: Page):
    page = page_of(speaking("ultralytics-8.4.127", "A"), speaking("ultralytics-8.4.190", "my-B"))
    assert re.findall(r'<label for="picture-1-\d">(\w+)</label>', page) == ["Difference", "Before", "Now"]
    said = text_of(page)
    assert "On the smallest such batch, my-B: candidate is " in said
    assert re.search(r"Where\s+Quantity\s+Before\s+Now\s+Bound", said)
    assert re.search(r"my-B(, otherwise)?: (background|GT 0)", said)
    assert "now alone" in said
    assert "eference" not in said
    assert "mplementation" not in said


def test_where_the_first_refuses_the_second_is_drawn_alone(page_of: Page):
    page = page_of(speaking("ultralytics-8.4.7"), speaking("ultralytics-8.4.24"))
    assert "The picture shows the assignment of ultralytics-8.4.24." in page
    assert 'class="picture alone"' in page
    assert "shows no assignment" not in page


def test_where_the_second_refuses_what_was_before_is_drawn(page_of: Page):
    page = page_of(speaking("ultralytics-8.4.24", "A"), speaking("ultralytics-8.4.7", "my-B"))
    said = text_of(page)
    assert "On the smallest such batch, my-B: raised ValueError" in said
    assert "Traceback" in said
    assert "my-B does not expose its assignment." in said
    assert page.count("<svg") == 1


def test_the_same_is_a_page_too(page_of: Page):
    page = page_of(speaking(NEWEST.name, "A"), speaking(NEWEST.name, "B"))
    assert "assigner and loss are the same: look elsewhere" in text_of(page)
    assert "<section" not in page


@pytest.mark.slow
def test_one_that_leaves_its_own_dialect_fails_there_too(page_of: Page, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(f"{DIFF}.BATCHES_PER_STRATEGY", 3)
    page = page_of(speaking(NEWEST.name, "A"), speaking("ultralytics-8.4.127", "my-B", NEWEST))
    said = text_of(page)
    assert "my-B deviates from its own dialect at stage candidates (TAL-CAND-2)" in said
    assert "No other difference was found" not in said
    assert "<svg" in page


@pytest.mark.slow
def test_a_difference_that_is_only_declared_is_told(monkeypatch: pytest.MonkeyPatch):
    """If my-B computes the same as A but declares another dialect, the page says "my-B behaves as before"."""
    monkeypatch.setattr(f"{DIFF}.BATCHES_PER_STRATEGY", 3)
    compared = compare(
        speaking("ultralytics-8.4.127", "A"), speaking("ultralytics-8.4.127", "my-B", declares=NEWEST)
    )
    assert "on it, my-B behaves as before" in "\n".join(format_comparison(compared))
    assert compared.unexpected
    (changed, *rest) = sections_of(compared)
    assert "On the smallest such batch, my-B behaves as before." in changed.lines
    assert changed.picture is not None
    assert all(section.fails for section in rest)


@pytest.mark.slow
def test_hostile_names_are_shown_and_not_run(page_of: Page):
    page = page_of(speaking("ultralytics-8.4.7", HOSTILE), speaking("ultralytics-8.4.190", HOSTILE))
    assert "<script" not in page
    assert "<img" not in page
    assert not re.search("[\u202e\x1b\ud800]", page)
    assert HOSTILE.partition("\u202e")[0] in text_of(page)
    policy = unescape(re.search(r'Content-Security-Policy" content="(.*?)"', page)[1])  # type: ignore[index]
    rules = dict(rule.split(" ", 1) for rule in policy.split("; "))
    assert set(rules) == {"default-src", "style-src", "base-uri", "form-action"}
    assert rules["default-src"] == "'none'"


@pytest.mark.slow
def test_a_page_needs_nothing_else(page_of: Page):
    page = page_of(speaking("ultralytics-8.3.253"), speaking(NEWEST.name))
    assert not re.search(r"<(script|link|img|iframe|object|base)\b|@import|url\((?!#)|\bsrc=|\bhref=", page)
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))


@pytest.mark.parametrize("name", [HOSTILE, "path/to/file.py:object", "../../x", "ultralytics==8.4.0"])
def test_names_make_a_files_name(tmp_path: Path, name: str):
    path = page_path(tmp_path, name, name)
    assert path.parent == tmp_path / "tal-conformance-reports" / "diffs"
    assert re.fullmatch(r"[\w.=-]{,210}\.html", path.name)


def changed(one: Dialect, name: str) -> Choice:
    return next(each for each in choices_between(one, NEWEST) if each.name == name)


def test_recorded_batches_are_counted_one_by_one():
    one = DIALECTS["ultralytics-8.4.127"]
    floor = changed(one, "small_box_floor")
    met = [exercises_choice(batch, floor) for batch in RECORDED]
    assert met == [differ(one, floor.changed, batch) for batch in RECORDED]
    small = [bool({"tiny", "small_8_16"} & batch.hazards) for batch in RECORDED]
    assert any(met)
    assert not all(met)
    assert all(has for has, meets_it in zip(small, met, strict=True) if meets_it)


@pytest.mark.parametrize("shuffled", [True, False])
def test_rows_out_of_order_meet_what_asks_for_order(shuffled: bool):
    one = DIALECTS["ultralytics-8.4.24"]
    truths = (Truth("ordinary"),)
    assert (
        exercises_choice(Recipe((truths, truths), shuffled=shuffled).build(), changed(one, "rows_sorted"))
        is shuffled
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make `diff` find references in named dialects only, and change to a temporary working directory."""
    monkeypatch.setattr("tal_conformance.commands.diff.find", speaking)
    monkeypatch.chdir(tmp_path)


def test_the_command_says_where_the_page_is(asked: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["diff", "ultralytics-8.4.127", "ultralytics-8.4.190"]) == 1
    path = Path(capsys.readouterr().out.strip().rpartition("page with pictures: ")[2])
    assert path == tmp_path / "tal-conformance-reports/diffs/ultralytics-8.4.127--ultralytics-8.4.190.html"
    assert "<svg" in path.read_text(encoding="utf-8")
    assert main(["diff", "ultralytics-8.4.190", "ultralytics-8.4.190", "--html", "new/mine.html"]) == 0
    assert "page with pictures: new/mine.html" in capsys.readouterr().out
    assert (tmp_path / "new" / "mine.html").is_file()


def test_a_page_that_cannot_be_written_is_told_after_the_answer(
    asked: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    assert main(["diff", NEWEST.name, NEWEST.name, "--html", str(tmp_path)]) == 2
    out, err = capsys.readouterr()
    assert "assigner and loss are the same" in out
    assert "page with pictures" not in out
    assert err.splitlines()[-1].startswith(
        f"python -m tal_conformance diff: cannot write the page {tmp_path}: "
    )
    (tmp_path / "file").touch()
    assert main(["diff", "ultralytics-8.4.24", "ultralytics-8.4.127", "--html", "file/page.html"]) == 1
    assert "Name another file with --html" in capsys.readouterr().err


def test_how_often():
    choice = changed(DIALECTS["ultralytics-8.4.127"], "small_box_floor")
    assert Difference(choice, None, None, 0).frequency == f"none of {len(RECORDED)} recorded real batches"
    assert Difference(choice, None, 0.2, 3).frequency == (
        f"20% of 10 ordinary and 3 of {len(RECORDED)} recorded real batches"
    )
    assert Difference(choice, None, 0.0, 1).frequency.startswith(
        f"none of 10 ordinary and 1 of {len(RECORDED)} "
    )
