"""Of the properties shared by all failing batches, the causing property is listed first; coincidences are removed."""

from collections.abc import Callable
from functools import cache
from typing import Any

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.suite import shared_properties as module
from tal_conformance.suite.shared_properties import (
    Property,
    Sample,
    Split,
    is_refuted,
    shared_properties,
    sharpest,
    split_by,
)
from tal_reference import NEWEST, Dialect


@cache
def recipes() -> list[Recipe]:
    return [
        recipe for name in ("loss", "targets", "decoding") for recipe in sample_recipes(STRATEGIES[name], 30)
    ]


class FailingWhere:
    """An implementation's outcomes, which fail if a condition on the recipe is true."""

    def __init__(self, condition: Callable[[Recipe], bool]) -> None:
        self.condition = condition

    def batch(self, recipe: Recipe) -> Any:
        """Return the batch of a recipe."""
        return recipe.build()

    def conforms(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True unless the condition on the recipe is true."""
        return not self.condition(recipe)


def line_of(recipe: Recipe, failed: bool, **fields: Any) -> dict[str, Any]:
    batch = recipe.build()
    return {
        "recipe": repr(recipe), "hazards": sorted(batch.hazards), "dtype": "float32", "test": "test_loss",
        "verdict": "divergent" if failed else "exact",
    } | fields  # fmt: skip


def found_for(
    monkeypatch: pytest.MonkeyPatch,
    condition: Callable[[Recipe], bool],
    lines: list[dict[str, Any]] | None = None,
) -> list[dict[str, str | None]]:
    """Return the shared properties of failing batches, for an implementation that fails on `condition`."""
    outcomes: Any = FailingWhere(condition)
    given = [line_of(recipe, condition(recipe)) for recipe in recipes()[::2]] if lines is None else lines

    def drawn(*_: Any) -> list[tuple[Recipe, bool]]:
        return [(recipe, condition(recipe)) for recipe in recipes()[1::2]]

    monkeypatch.setattr(module, "new_results", drawn)
    return shared_properties(outcomes, NEWEST, given, module.failing_line, lambda: False)


@pytest.mark.parametrize(
    ("condition", "words"),
    [
        (lambda recipe: recipe.cells[0] != recipe.cells[1], "that are not square, and on 0 of "),
        (lambda recipe: recipe.cells[0] == recipe.cells[1], "that are square, and on 0 of "),
        (lambda recipe: len(recipe.images) > 1, "that have at least 2 images, and on 0 of "),
        (lambda recipe: recipe.reg_max < 16, "that have fewer than 16 bins, and on 0 of "),
    ],
)
def test_the_planted_property_is_the_first(
    monkeypatch: pytest.MonkeyPatch, condition: Callable[[Recipe], bool], words: str
):
    first = found_for(monkeypatch, condition)[0]
    assert words in str(first["sentence"])
    assert "batches drawn to test this, it fails on" in str(first["tested"])


def test_a_planted_hazard_is_found(monkeypatch: pytest.MonkeyPatch):
    def condition(recipe: Recipe) -> bool:
        return "nested" in recipe.build().hazards

    sentences = [str(shared["sentence"]) for shared in found_for(monkeypatch, condition)]
    assert "have the hazard nested (" in sentences[0]


def test_a_way_of_calling_is_found_though_no_batch_can_be_drawn(monkeypatch: pytest.MonkeyPatch):
    lines = [
        line_of(recipe, failed, test="test_calling", parameter="no-grad" if failed else "threads")
        for recipe in recipes()[:8]
        for failed in (True, False)
    ]
    first = found_for(monkeypatch, lambda recipe: False, lines)[0]
    assert (
        first["sentence"]
        == "It fails on 8 of 8 batches that are of test_calling[no-grad], and on 0 of 8 others."
    )
    assert first["tested"] is None


def test_what_separates_by_chance_is_refuted_by_drawn_batches(monkeypatch: pytest.MonkeyPatch):
    """A property that all failing batches of a log share by chance is not reported.

    All failing batches have two classes, but new batches fail independently of the number of classes.
    """

    def condition(recipe: Recipe) -> bool:
        return recipe.seed % 2 == 1

    two, one = (Recipe(images=((Truth("ordinary"),),), classes=count) for count in (2, 1))
    lines = [line_of(two, True)] * 4 + [line_of(one, False)] * 4
    assert not any("classes" in str(shared) for shared in found_for(monkeypatch, condition, lines))


def test_where_no_property_separates_failing_batches_their_number_is_said(monkeypatch: pytest.MonkeyPatch):
    (found,) = found_for(monkeypatch, lambda recipe: True)
    assert found["sentence"] == "It fails on all 45 batches."
    (found,) = found_for(monkeypatch, lambda recipe: recipe.seed % 2 == 1)
    assert found["sentence"].startswith("It fails on ")
    assert found["sentence"].endswith("; no property of the batches separates them from others.")
    assert found_for(monkeypatch, lambda recipe: False) == []


def test_a_split_is_sharp_if_it_halves_the_errors_of_a_constant_guess():
    assert Split("a", 17, 17, 0, 44).is_sharp
    assert Split("a", 4, 6, 0, 44).is_sharp
    assert not Split("a", 4, 7, 0, 44).is_sharp
    assert Split("a", 17, 17, 0, 44).information > Split("a", 16, 17, 1, 44).information > 0


def test_the_side_that_fails_more_often_is_named():
    prop = Property("are not square", "are square")
    samples = [Sample(frozenset({prop}), False)] * 3 + [Sample(frozenset(), True)] * 2
    assert split_by(prop, samples) == Split("are square", 2, 2, 0, 3)
    assert sharpest(samples) == [prop]
    assert not is_refuted(prop, samples)


def test_of_properties_that_divide_the_batches_alike_the_shortest_is_named():
    long, short = (
        Property("have the hazard non_square", "do not have it"),
        Property("are oblong", "are square"),
    )
    samples = [
        Sample(frozenset({long, short} if failed else ()), failed) for failed in [True] * 3 + [False] * 4
    ]
    assert sharpest(samples) == [short]
