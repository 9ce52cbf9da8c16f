"""The page of differences between two implementations: sections are complete, and their text is escaped."""

import base64
import hashlib
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from tests.common.run_logs import HOSTILE, picture

from tal_reports import Section, Sides, write_differences
from tal_reports.html.cards import MAX_SUMMARY_LENGTH, MAX_VALUES
from tal_reports.html.drawing import UNLIMITED
from tal_reports.html.pictures import draw

SIDES = Sides("before", "now", "before alone", "now alone", "mine==2")
VISIBLE = HOSTILE.replace("\u202e", "\\u202e").replace("\x1b", "\\x1b").replace("\ud800", "\\ud800")


def value(**fields: str) -> dict[str, str]:
    known = {"where": "anchor 6", "quantity": "owner", "reference": "GT 1", "implementation": "GT 0"}
    return known | {"bound": "none"} | fields


def written(tmp_path: Path, *sections: Section, headline: str = "From A to B") -> str:
    path = tmp_path / "page.html"
    write_differences(path, headline, ["a line"], sections)
    return path.read_text(encoding="utf-8")


def text_of(page: str) -> str:
    return unescape(re.sub(r"<[^>]+>", " ", page.partition("<body>")[2]))


def test_a_section_has_everything(tmp_path: Path):
    section = Section("TAL-X-1", ["Before: a."], "1 image", "Recipe()", [value()], picture(), SIDES, "Trace")
    said = re.sub(r"\s+", " ", text_of(written(tmp_path, section)))
    place = 0
    for words in (
        "From A to B",
        "a line",
        "TAL-X-1",
        "Before: a.",
        "Smallest batch 1 image",
        "Recipe()",
        "Where Quantity Before Now Bound",
        "anchor 6 owner GT 1 GT 0 none",
        "Difference Before Now",
        "before GT 1 weight 0.7, now GT 0 weight 0.7",
        "1 before alone",
        "1 now alone",
        "mine==2 differs: GT 0",
        "Traceback Trace",
    ):
        place = said.index(words, place)


def test_a_section_may_have_little(tmp_path: Path):
    page = written(tmp_path, Section("ANN-1", ["Before: a."]))
    assert "<svg" not in page
    assert "<table" not in page
    assert "Smallest batch" not in page
    assert "Traceback" not in page
    assert "<section" not in written(tmp_path)


def test_a_failure_has_a_batch(tmp_path: Path):
    page = written(tmp_path, Section("A", batch="1 image", fails=True))
    assert '<section class="v-divergent">' in page
    assert ">Batch</span> 1 image" in page


def hostile() -> Section:
    values = [value(**dict.fromkeys(value(), HOSTILE))]
    return Section(HOSTILE, [HOSTILE], HOSTILE, HOSTILE, values, picture(), Sides(*[HOSTILE] * 5), HOSTILE)


def test_hostile_text_is_escaped(tmp_path: Path):
    page = written(tmp_path, hostile(), headline=HOSTILE)
    assert "<script" not in page
    assert "<img" not in page
    assert "\u202e" not in page
    assert "\x1b" not in page
    assert text_of(page).count(VISIBLE) > 15


def test_the_policy_allows_only_the_page_s_own_style(tmp_path: Path):
    page = written(tmp_path, hostile())
    (policy,) = re.findall(r'Content-Security-Policy" content="(.*?)"', page)
    rules = dict(rule.split(" ", 1) for rule in unescape(policy).split("; "))
    (style,) = re.findall(r"<style>(.*?)</style>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    none = "'none'"
    assert rules == {
        "default-src": none,
        "style-src": f"'sha256-{digest}'",
        "base-uri": none,
        "form-action": none,
    }


def test_pictures_do_not_share_what_they_are_switched_by(tmp_path: Path):
    page = written(tmp_path, *[Section(name, picture=picture()) for name in "ABC"])
    identities = re.findall(r'\bid="([^"]+)"', page)
    assert len(identities) == len(set(identities))
    assert len(set(re.findall(r'name="([^"]+-view)"', page))) == 3


def test_long_texts_are_shortened(tmp_path: Path):
    long = "x" * (MAX_SUMMARY_LENGTH * 30)
    many = [value(where=f"anchor {number}") for number in range(MAX_VALUES + 3)]
    page = written(tmp_path, Section(long, [long], long, long, many, picture(), Sides(*[long] * 5), long))
    assert "3 more." in text_of(page)
    assert f"anchor {MAX_VALUES}<" not in page
    assert long not in page
    assert len(page) < 200_000
    assert "<code>" not in page  # a shortened recipe is not printed as code


@pytest.mark.parametrize(
    ("fields", "who", "note"),
    [
        ({"implementation": None}, "mine==2", ["mine==2 does not expose its assignment."]),
        ({"implementation": None}, "", []),
        ({}, "mine==2", []),
    ],
)
def test_a_side_without_an_assignment(fields: dict[str, Any], who: str, note: list[str]):
    assert draw(picture(**fields), UNLIMITED, SIDES._replace(who=who)).notes == note


def test_braces_in_a_name_are_not_formatted():
    sides = Sides("{0}", "{x}", "{sides.who}", "{sides}", "{}")
    assert {"{sides.who}", "{sides}"} <= {
        meaning for _, _, meaning, _ in draw(picture(), UNLIMITED, sides).legend
    }
