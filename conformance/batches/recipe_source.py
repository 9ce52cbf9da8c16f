"""Read a recipe from its repr, as a run log contains it, without executing the text."""

import ast
from typing import Any

from tal_conformance.batches.content.predictions import Copy
from tal_conformance.batches.content.truths import ManyTruths, Truth
from tal_conformance.batches.recipe import Recipe
from tal_reference import Hyperparameters

TYPES = {of.__name__: of for of in (Recipe, Truth, ManyTruths, Copy, Hyperparameters)}
"""Types that occur in the repr of a recipe."""
MAX_LENGTH = 20_000
"""Maximum number of characters of a repr that is read."""


def recipe_from(text: str) -> Recipe:
    """Return the recipe whose repr is `text`.

    Raises:
        ValueError: the text is not the repr of a recipe.
    """
    if len(text) > MAX_LENGTH:
        raise ValueError(f"the text has {len(text):,} characters, expected at most {MAX_LENGTH:,}")
    try:
        value = _value(ast.parse(text, mode="eval").body)
    except (SyntaxError, TypeError, RecursionError, MemoryError) as error:
        raise ValueError(f"{text!r:.80} is not the repr of a recipe: {error}") from error
    if not isinstance(value, Recipe):
        raise ValueError(f"{text!r:.80} is the repr of a {type(value).__name__}, expected a Recipe")
    return value


def _value(node: ast.expr) -> Any:
    """Return the value of a syntax node: a literal, or a call of one of `TYPES` with values of the same two kinds.

    Raises:
        ValueError: the node is neither a literal nor such a call.
    """
    if isinstance(node, ast.Tuple):
        return tuple(_value(element) for element in node.elts)
    if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in TYPES:
        named = {str(keyword.arg): _value(keyword.value) for keyword in node.keywords}
        made: Any = TYPES[node.func.id]
        return made(*(_value(argument) for argument in node.args), **named)
    return ast.literal_eval(node)
