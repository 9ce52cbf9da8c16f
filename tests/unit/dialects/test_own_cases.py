"""`diff --cases`: the batches that a change meets, and how far the loss moves on them."""

import json
from dataclasses import replace
from pathlib import Path

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import main
from tal_conformance.commands.diff import own_effects
from tal_conformance.commands.program import CommandError
from tal_conformance.dialects.choices import choices_between
from tal_conformance.dialects.own_cases import effect_on, format_effects
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_reference import DIALECTS, Hyperparameters

LARGE = Recipe(((Truth("huge"),),), strides=(8, 16), cells=(8, 8), classes=3)


def implementation(dialect: str) -> Implementation:
    adapter = implementation_from(ReferenceAdapter(DIALECTS[dialect]), dialect)
    return replace(adapter, name=dialect, dialect=DIALECTS[dialect])


OLD, NEW = implementation("ultralytics-8.3.253"), implementation("ultralytics-8.4.190")
SMALL = next(
    choice.recipe for choice in choices_between(OLD.dialect, NEW.dialect) if choice.clause == "TAL-CAND-2"
)
assert isinstance(SMALL, Recipe)
"""The smallest batch that shows the small-box floor."""


def test_a_change_meets_small_boxes_and_moves_their_loss():
    met = effect_on(OLD, NEW, Path("small"), SMALL.build())
    assert "TAL-CAND-2" in {choice.clause for choice in met.choices}
    assert met.change
    unmet = effect_on(OLD, NEW, Path("large"), LARGE.build())
    assert (unmet.choices, unmet.change, unmet.problem) == ((), 0.0, "")
    lines = format_effects([met, unmet], "old", "new")
    assert lines[0] == "On your own batches: a change meets 1 of 2."
    assert any(line.startswith("  TAL-CAND-2, ") and line.endswith(": 1 of 2") for line in lines)
    assert any(line.startswith("    small: ") and "TAL-CAND-2" in line for line in lines)
    assert not any("large" in line for line in lines)


def test_what_one_of_them_does_not_support_is_named():
    one_to_one = replace(LARGE, hyperparameters=Hyperparameters(topk2=1)).build()
    effect = effect_on(OLD, NEW, Path("case"), one_to_one)
    assert effect.before is None
    assert effect.problem.startswith("ultralytics-8.3.253 ")
    assert format_effects([effect], "old", "new")[-1].startswith("    case: ultralytics-8.3.253 ")


def test_cases_are_read_from_folders_and_damaged_ones_end_the_command(tmp_path: Path):
    SMALL.build().save(tmp_path / "small.safetensors")
    (effect,) = own_effects(OLD, NEW, [tmp_path])
    assert effect.path == tmp_path / "small.safetensors"
    (tmp_path / "damaged.safetensors").write_bytes(b"x")
    with pytest.raises(CommandError, match="cannot read case file"):
        own_effects(OLD, NEW, [tmp_path])
    with pytest.raises(CommandError, match="no case file"):
        own_effects(OLD, NEW, [Path(__file__).parent])


def test_the_command_prints_the_effect_on_own_cases(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    SMALL.build().save(tmp_path / "small.safetensors")
    for name, value in {"BATCHES_PER_STRATEGY": 1, "ORDINARY_BATCHES": 2}.items():
        monkeypatch.setattr(f"tal_conformance.dialects.comparison.{name}", value)
    monkeypatch.setattr("tal_conformance.dialects.comparison.strategies_for", lambda implementation: [])
    monkeypatch.setattr("tal_conformance.commands.diff.find", {"old": OLD, "new": NEW}.__getitem__)
    page = str(tmp_path / "page.html")
    assert main(["diff", "old", "new", "--cases", str(tmp_path), "--html", page, "--json"]) == 1
    printed = capsys.readouterr()
    assert "On your own batches: a change meets 1 of 1." in printed.err
    (case,) = json.loads(printed.out)["result"]["cases"]
    assert "TAL-CAND-2" in case["clauses"]
    assert case["before"] != case["after"]
