"""Comparing two implementations lists their differences by clause, in words, with the frequency of each difference."""

from dataclasses import replace

import pytest

from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.dialects.comparison import compare, format_comparison
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_reference import DIALECTS, NEWEST, Dialect

OLD = DIALECTS["ultralytics-8.4.127"]


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tal_conformance.dialects.comparison.BATCHES_PER_STRATEGY", 3)
    monkeypatch.setattr("tal_conformance.dialects.comparison.ORDINARY_BATCHES", 10)


def reference_in(
    dialect: Dialect, name: str = "reference", declares: Dialect | None = None
) -> Implementation:
    implementation = implementation_from(ReferenceAdapter(dialect), name)
    return replace(implementation, name=name, dialect=declares or dialect)


@pytest.mark.slow
def test_the_same():
    comparison = compare(reference_in(NEWEST, "A"), reference_in(NEWEST, "B"))
    assert comparison.same
    text = "\n".join(format_comparison(comparison))
    assert f"assigner and loss are the same: look elsewhere ({3 * len(STRATEGIES)} batches each" in text


def test_every_strategy_of_both_is_counted():
    lines: list[str] = []
    compare(reference_in(NEWEST, "A"), reference_in(NEWEST, "B"), lambda line="", steps=1: lines.append(line))
    assert len(lines) == 2 * len(STRATEGIES)


@pytest.mark.slow
def test_a_difference():
    """References in two neighbouring dialects differ in one choice, listed with its frequency and smallest batch."""
    comparison = compare(reference_in(OLD, "A"), reference_in(NEWEST, "B"))
    (difference,) = comparison.differences
    assert not comparison.unexpected
    assert difference.choice.clause == "TAL-CAND-2"
    assert difference.failure is not None
    assert 0 < difference.share <= 1
    text = "\n".join(format_comparison(comparison))
    assert f"  makes a difference on {difference.share:.0%} of 10 ordinary and 1 of 5 recorded" in text
    assert "    Recipe(images=((Truth('ordinary'),),), strides=(8, 16))\n" in text


def test_each_difference_is_listed_by_itself():
    """Two differences between dialects are listed separately, each under its own clause."""
    comparison = compare(
        reference_in(DIALECTS["ultralytics-8.0.51"], "A"), reference_in(DIALECTS["ultralytics-8.0.100"], "B")
    )
    failures = {difference.choice.clause: difference.failure for difference in comparison.differences}
    assert set(failures) == {"TAL-CONF-1", "LOSS-BOX-1"}
    assert failures["LOSS-BOX-1"] is not None
    assert failures["LOSS-BOX-1"].clause == "LOSS-BOX-1"


def test_a_difference_that_no_ordinary_batch_exercises():
    comparison = compare(
        reference_in(DIALECTS["ultralytics-8.4.7"], "A"), reference_in(DIALECTS["ultralytics-8.4.24"], "B")
    )
    text = "\n".join(format_comparison(comparison))
    assert "makes a difference on none of 10 ordinary and none of 5 recorded" in text


def test_a_deviation_from_the_own_dialect_is_listed():
    """If an implementation declares the newest dialect but follows an older dialect, the deviation is listed."""
    comparison = compare(reference_in(NEWEST, "A"), reference_in(OLD, "B", declares=NEWEST))
    assert not comparison.same
    assert comparison.differences == []
    assert comparison.unexpected
    text = "\n".join(format_comparison(comparison))
    assert "B deviates from its own dialect" in text
    assert "tal-conformance identify B: " in text
    causes = [(failure.stage, failure.clause) for failure in comparison.unexpected]
    assert len(causes) == len(set(causes))  # one failure for each, although several strategies find it
