"""Composed dialects: every choice changes a result on some batch, and the judge applies the choice."""

from dataclasses import fields, replace
from enum import Enum
from functools import cache
from typing import Any

import pytest
from tests.fauxmplementations.dense_port import DensePort

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.dialects.choices import differ, failure_on
from tal_conformance.dialects.distinguishing import DISTINGUISHING, OF_BRANCHES, OF_ROTATED_BOXES
from tal_conformance.dialects.moves import values_of
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Subject
from tal_reference import CHOICES, DIALECTS, NEWEST, Dialect

EVERYWHERE = DIALECTS["ultralytics-8.0.51"]
BASES = {
    "metric_masked": EVERYWHERE,
    "at_least_one": EVERYWHERE,
    "topk2_ignored": DIALECTS["ultralytics-8.3.253"],
}
"""Releases in which a choice makes a difference, if it makes none in the newest release."""
DEFAULTS = {field.name: field.default for field in fields(Dialect)}
BATCHES = 80
"""Batches that are drawn of a choice's strategy to find some that show it."""


def other_values(name: str) -> list[Any]:
    default = DEFAULTS[name]
    if isinstance(default, bool):
        return [not default]
    if isinstance(default, Enum):
        return [value for value in type(default) if value is not default]
    return [1e-7] if name == "norm_eps" else [value for value in values_of(name) if value != default]


SINGLE = [(name, value) for name in DISTINGUISHING for value in other_values(name)]
"""All pairs of a choice and a value that differs from the newest release's."""


@cache
def showing(base: Dialect, changed: Dialect, name: str) -> list[Recipe]:
    """Return generated recipes on which the reference's results differ between two dialects."""
    return [
        recipe for recipe in sample_recipes(DISTINGUISHING[name], BATCHES) if differ(base, changed, recipe)
    ]


def assert_held_to(adapter: Any, base: Dialect, changed: Dialect, name: str):
    """Assert that an adapter fails in the base dialect on some batch, and conforms to the changed dialect.

    A single batch need not fail in the base dialect: because of ties, both results are correct on some batches.
    """
    recipes = showing(base, changed, name)
    subject = Subject(implementation_from(adapter, "adapter"), "cpu")
    held_to_base = replace(subject, implementation=replace(subject.implementation, dialect=base))
    refuting = next((recipe for recipe in recipes if failure_on(held_to_base, recipe)), None)
    assert refuting is not None, f"none of {len(recipes)} batches refutes {base.name}"
    assert [failure_on(subject, recipe) for recipe in (*recipes[:3], refuting)] == [None] * len(
        (*recipes[:3], refuting)
    )


def test_every_choice_has_a_clause_words_and_a_strategy():
    distinguished = {*DISTINGUISHING, *OF_BRANCHES, *OF_ROTATED_BOXES}
    assert set(CHOICES) == set(DEFAULTS) - {"name"} == distinguished | {"rows_sorted"}


@pytest.mark.parametrize(("name", "value"), SINGLE, ids=lambda value: str(getattr(value, "value", value)))
def test_a_choice_shows_and_is_held_to(name: str, value: Any):
    """The reference with one changed choice conforms to the dialect with this choice, and fails without."""
    base = BASES.get(name, NEWEST)
    changed = base.but(**{name: value})
    assert_held_to(ReferenceAdapter(changed), base, changed, name)


PORTED: list[dict[str, Any]] = [
    {"overlap": "iou"},
    {"overlap": "giou"},
    {"overlap": "diou"},
    {"signed_overlap": True},
    {"edge_counts": True},
    {"centre_radius": "2.5"},
    {"centre_radius": "1.5"},
    {"contested": "metric"},
    {"contested": "claimants"},
    {"contested": "first"},
    {"dropped_picks": "tiny"},
    {"norm_before_conflict": True},
    {"norm_clamped": True},
    {"norm_scaled": False},
    {"box_overlap": "iou"},
    {"box_overlap": "giou"},
    {"score_sum": "per image"},
    {"score_sum": "positives"},
    {"class_loss": "mean"},
    {"class_loss": "varifocal"},
    {"class_loss": "focal"},
    {"dfl_clamp": "bin later"},
    {"total_times_images": False},
    {"k_offset": -1},
    {"topk2_offset": 1},
    {"dfl_shares_exchanged": True},
    {"score_sum_floor": 0.0},
    {"rows": "converted twice"},
    {"overlap": "iou", "edge_counts": True, "total_times_images": False},
]
"""Sets of choices that the second implementation, `DensePort`, supports."""


def composed(choices: dict[str, Any]) -> Dialect:
    types = {name: type(default) for name, default in DEFAULTS.items()}
    return NEWEST.but(**{name: types[name](value) for name, value in choices.items()})


@pytest.mark.parametrize("shows", ["all", "nothing"])
@pytest.mark.parametrize("choices", PORTED, ids=str)
def test_a_second_implementation_agrees(choices: dict[str, Any], shows: str):
    """`DensePort` with changed choices conforms to the dialect with these choices, not to the newest dialect."""
    dialect = composed(choices)
    assert_held_to(DensePort(dialect, shows, **choices), NEWEST, dialect, next(iter(choices)))
