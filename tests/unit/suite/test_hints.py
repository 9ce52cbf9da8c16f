"""Hints in a run's output about a hidden assignment, an ignored ledger and mistyped names."""

import argparse
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tests.common import run_logs as factory
from tests.common.run_logs import divergence, implementation, run_line

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.registry import check_for
from tal_conformance.core.arguments import name_among
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.suite.run_log import assignment_source
from tal_conformance.suite.session import ignored_ledger
from tal_reference import DIALECTS, parse
from tal_reports import render

OLD = DIALECTS["ultralytics-8.3.253"]


@pytest.fixture
def run_dir(tmp_path: Path) -> Path:
    return tmp_path / "runs" / "20251124-021033-5f3a9c"


@pytest.mark.parametrize(
    ("source", "words"),
    [
        ("separate", "show a separate call of assign(inputs)"),
        ("hidden", "the picture shows the reference alone"),
    ],
)
def test_a_card_says_that_a_loss_hides_its_assignment(run_dir: Path, source: str, words: str):
    lines = [("divergence", divergence(1, assignment=source)), ("end", {"exit": 1})]
    folder = factory.write(run_dir, [("run", run_line([implementation("my-assigner")])), *lines])
    page = render(folder).read_text(encoding="utf-8")
    assert words in page
    assert "Loss.assignment" in page


def test_the_source_of_the_assignment_is_logged():
    loss = SimpleNamespace()
    sources = [
        assignment_source(SimpleNamespace(loss=loss, from_loss=from_loss, assignment=assignment))  # type: ignore[arg-type]
        for from_loss, assignment in ((True, 1), (False, 1), (False, None))
    ]
    assert [source["assignment"] for source in sources] == ["loss", "separate", "hidden"]
    assert assignment_source(None) == {}


def config(**options: Any) -> Any:
    return SimpleNamespace(getoption=lambda name: options.get(name.lstrip("-")))


def test_an_ignored_ledger_is_said():
    assert ignored_ledger(config(against=OLD, ledger="mine.toml")).startswith(
        "--ledger mine.toml is ignored: "
    )
    assert ignored_ledger(config(against=None, ledger="mine.toml")) == ""
    assert ignored_ledger(config(against=OLD, ledger=None)) == ""


def adapter(**attributes: Any) -> SimpleNamespace:
    return SimpleNamespace(name="mine", assign=lambda inputs: None, **attributes)


MISTYPED = {
    "dialect": (lambda: parse("ultralytics-8.3.235"), "'ultralytics-8.3.253'"),
    "choice": (lambda: parse("ultralytics-8.4.190, overlapp=iou"), "'overlap'"),
    "value": (lambda: parse("ultralytics-8.4.190, overlap=iuo"), "'iou'"),
    "profile": (lambda: name_among("profile", ("dev", "ci", "nightly"))("nigthly"), "'nightly'"),
    "check": (lambda: check_for("TLA-CAND"), "'TAL-CAND'"),
    "task": (lambda: implementation_from(adapter(tasks=("detct",)), "mine"), "'detect'"),
    "precision": (lambda: implementation_from(adapter(precisions=("float46",)), "mine"), "'float64'"),
    "way": (lambda: implementation_from(adapter(unsupported_ways=("backwards",)), "mine"), "'backward'"),
    "recipe": (lambda: Recipe(images=((Truth("ordinaty"),),)).build(), "'ordinary'"),
    "predictions": (lambda: Recipe(images=((),), predictions="neer").build(), "'near'"),
}


@pytest.mark.parametrize("kind", MISTYPED)
def test_the_nearest_names_are_suggested(kind: str):
    import tal_conformance.suite.every_check  # noqa: F401 (registers the checks)

    call, nearest = MISTYPED[kind]
    with pytest.raises((ValueError, LookupError, ProtocolViolation, argparse.ArgumentTypeError)) as caught:
        call()
    assert "did you mean" in str(caught.value)
    assert nearest in str(caught.value)
