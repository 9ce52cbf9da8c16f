"""The report of a run with 10,000 batches and 200 causes stays small and loads quickly."""

import json
import re
from pathlib import Path
from typing import Any

import pytest
from tests.common import run_logs as factory

from tal_reports import read_log, render
from tal_reports.html.page_disagreements import PICTURE_BUDGET

BYTES, ELEMENTS, SEEN = 2_000_000, 50_000, 4_000
"""Limits of a report: size in bytes, number of elements, and number of elements that are visible at first.

No time is measured, because tests would fail on a busy machine. When the limits were chosen, Chromium loaded a
report of 35,000 elements, 2,800 of them visible, within 0.7 s on two busy cores, and filtered it within 0.03 s.
"""


IMPLEMENTATIONS = 9
"""Number of failing implementations; it has no common factor with the number of stages."""


@pytest.fixture(scope="module")
def night(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write a run of 10,000 batches, in which many implementations fail, with large pictures; return its folder."""
    lines = factory.failing(200, 7_400)
    names = [f"my-assigner-{number}" for number in range(IMPLEMENTATIONS)]
    lines[0][1]["implementations"] += [factory.implementation(name) for name in names]
    for number, (kind, fields) in enumerate(lines):
        if fields.get("implementation") == "my-assigner":
            # one cause for each stage of an implementation
            fields["implementation"] = names[number % IMPLEMENTATIONS]
        if kind == "divergence" and fields.get("picture"):
            fields["picture"] = factory.large_picture(number)
        if kind == "batch" and number % 3 == 0:
            fields["device"] = "cuda"
    folder = factory.write(tmp_path_factory.mktemp("runs") / "night", lines)
    facts = factory.walkthrough(photo="data:image/jpeg;base64," + 60_000 * "A")
    (folder / "walkthrough.json").write_text(json.dumps(facts))
    render(folder)
    return folder


@pytest.mark.slow
@pytest.mark.long
def test_the_log_has_the_expected_size(night: Path):
    log = read_log(night)
    assert log.batches.judged >= 10_000
    assert len(log.divergences) == 200
    assert sum(bool(line.get("picture")) for line in log.divergences) > 150


@pytest.mark.slow
@pytest.mark.long
def test_the_report_is_small(night: Path):
    size = (night / "report.html").stat().st_size
    assert 500_000 < size < BYTES


@pytest.mark.slow
@pytest.mark.long
def test_cards_share_the_budget_for_pictures(night: Path):
    page = (night / "report.html").read_text(encoding="utf-8")
    every = page.count("it predicts (")
    assert 20 < every < 2_000
    assert page.count("<svg role=") + page.count("No picture, to limit") > 120
    assert page.count("<svg role=") > 100
    assert sum(len(part.split("</figure>")[0]) for part in page.split("<figure")[1:]) < PICTURE_BUDGET * 1.3


def elements(page: str) -> int:
    return len(re.findall(r"<[a-z]", page))


def test_the_page_does_not_grow_with_the_batches(tmp_path: Path):
    few, many = (
        render(factory.write(tmp_path / f"{number}" / "run", factory.failing(20, number)))
        for number in (1_000, 5_000)
    )
    counts = [elements(path.read_text(encoding="utf-8")) for path in (few, many)]
    assert counts[1] < counts[0] * 1.02, counts


@pytest.mark.slow
@pytest.mark.long
def test_the_page_has_few_elements(night: Path):
    page = (night / "report.html").read_text(encoding="utf-8")
    assert 5_000 < elements(page.partition("<body>")[2].partition("<script>")[0]) < ELEMENTS


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.browser
def test_few_elements_are_visible_at_first_and_after_filtering(browser: Any, night: Path):
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    page = context.new_page()
    page.goto((night / "report.html").as_uri(), wait_until="load")
    everything, seen = page.evaluate(
        """() => {
            const all = [...document.querySelectorAll("body *")];
            return [all.length, all.filter((one) => one.checkVisibility()).length];
        }"""
    )
    assert everything < ELEMENTS
    assert 1_000 < seen < SEEN
    # The viewer of a picture is created when its card is opened, and not for all cards at once.
    opened = page.locator("details.card[open] .picture").count()
    assert page.locator(".picture.ready").count() == opened < 5 < page.locator(".picture").count()
    page.locator("#filter").fill("impl:my-assigner stage:conflict overlap")
    assert 0 < page.locator("details.card:not([hidden])").count() < 200
    assert page.locator(".picture.ready").count() == opened
    context.close()
