"""Reading recipes from their repr: every kind of recipe is read, and nothing in a text is executed."""

import pytest

from tal_conformance.batches.recipe_source import MAX_LENGTH, recipe_from
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_recipe_is_read_from_its_repr(name: str):
    for recipe in sample_recipes(STRATEGIES[name], 3):
        if len(repr(recipe)) <= MAX_LENGTH:
            assert recipe_from(repr(recipe)) == recipe


@pytest.mark.parametrize(
    "text",
    [
        "__import__('os').system('true')",
        "Recipe(images=open('/etc/passwd'))",
        "Recipe.__init__",
        "Recipe(**{'cells': (1, 1)})",
        "Recipe(cell=(1, 1))",
        "Recipe(",
        "(1, 2)",
        "Truth('ordinary')",
        "",
        "(" * 500,
    ],
)
def test_other_text_is_refused(text: str):
    with pytest.raises(ValueError, match=r"recipe|expected|malformed|Recipe"):
        recipe_from(text)


def test_long_text_is_refused():
    with pytest.raises(ValueError, match="characters, expected at most"):
        recipe_from("Recipe(" + " " * MAX_LENGTH + ")")
