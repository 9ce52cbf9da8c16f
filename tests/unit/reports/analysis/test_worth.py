"""A passing result states how many planted faults its profile finds, in table, report and summary."""

from pathlib import Path
from typing import Any

import pytest
from tests.common import run_logs as factory

from tal_reports import read_log, render, terminal_table
from tal_reports.analysis.summary import summarise
from tal_reports.analysis.worth import worth_in_words
from tal_reports.markdown import job_summary

FIGURES = {"dev": {"found": 171, "planted": 250}, "ci": {"found": 250, "planted": 250}}
DEV = {"profile": "dev", "whole": True, "this_code": True, "figures": FIGURES}
WORDS = "dev: a quick look, finds 171 of 250 planted faults; ci finds all"


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, WORDS),
        ({"profile": "ci"}, "ci: finds all 250 planted faults"),
        ({"whole": False}, "a part of dev, which finds 171 of 250 planted faults; ci finds all"),
        ({"whole": False, "profile": "nightly"}, "a part of nightly; ci finds all"),
        ({"profile": "nightly"}, "nightly: not measured; ci finds all"),
        ({"this_code": False}, f"{WORDS}; measured on other code"),
        ({"figures": {"ci": {"found": 249, "planted": 250}}}, "dev: not measured; ci finds 249 of 250"),
        (
            {"figures": {"dev": {"found": 5, "planted": 9, "unmeasured": 4}}},
            "dev: a quick look, finds 5 of 9 planted faults (4 newer ones not measured)",
        ),
        ({"figures": {}}, ""),
    ],
)
def test_in_words(changes: dict[str, Any], words: str):
    assert worth_in_words(DEV | changes) == words


def test_older_logs_do_not_say(run_dir: Path):
    assert worth_in_words(None) == ""
    assert summarise(read_log(factory.write(run_dir, factory.passing(9))))["worth"] is None


def lines(worth: dict[str, Any]) -> factory.Lines:
    (kind, run), *rest = factory.passing(20)
    return [(kind, run | {"worth": worth}), *rest]


def test_it_stands_beside_a_pass(run_dir: Path):
    log = read_log(factory.write(run_dir, lines(DEV)))
    assert summarise(log)["worth"] == DEV | {"words": WORDS}
    assert f"conforms: {WORDS}" in terminal_table(log).splitlines()
    assert f"conforms ({WORDS})" in job_summary(log).replace("\\", "")
    assert WORDS in render(run_dir).read_text(encoding="utf-8")


def test_it_does_not_stand_beside_a_failure(run_dir: Path):
    (kind, run), *rest = factory.failing(2, 12)
    log = read_log(factory.write(run_dir, [(kind, run | {"worth": DEV}), *rest]))
    assert summarise(log)["worth"]["words"] == WORDS
    for line in terminal_table(log).splitlines():
        assert WORDS not in line or "conforms" in line
