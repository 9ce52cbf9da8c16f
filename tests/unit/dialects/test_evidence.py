"""Distinguishing recipes: on each era's recipe, the reference's result differs from the previous era's."""

import pytest

from tal_conformance.dialects.choices import differ
from tal_conformance.dialects.evidence import EVIDENCE, distinguishing_recipe, distinguishing_recipes
from tal_reference.eras import ERAS

JUDGED = [number for number, era in enumerate(ERAS) if number and era.clause != "ANN-1"]
"""Eras whose change has one right answer. Annotation rows out of order (ANN-1) have none."""


@pytest.mark.parametrize("number", JUDGED)
def test_an_era_differs_from_the_one_before_on_its_recipe(number: int):
    before, era = ERAS[number - 1].dialect, ERAS[number].dialect
    recipe = distinguishing_recipe(ERAS[number])
    assert differ(before, era, recipe), recipe
    assert not differ(era, era, recipe)


def test_the_recipe_of_sorted_rows_has_rows_out_of_order():
    (era,) = [era for era in ERAS if era.clause == "ANN-1"]
    rows = distinguishing_recipe(era).build().annotations
    assert rows[:, 0].tolist() == [1, 0]


def test_every_era_but_the_first_has_a_recipe():
    assert list(EVIDENCE) == [era.first for era in ERAS[1:]]
    assert [len(recipe.images) for recipe in distinguishing_recipes()] == [1, 1, 1, 1, 1, 1, 2, 1]


def test_the_first_era_has_none():
    with pytest.raises(LookupError, match=r"the era that begins with 8\.0\.0 is the oldest"):
        distinguishing_recipe(ERAS[0])
