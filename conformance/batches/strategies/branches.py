"""Hypothesis strategies of end-to-end heads: the strategies of detection, with predictions of a second branch."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.task import E2E
from tal_reference import Hyperparameters

STATES = ((0, 100), (0, 100), (37, 100), (4, 5), (2, 5), (1, 2), (1, 1), (0, 1), (7, 5), (300, 300))
"""Numbers of updates and of epochs, which determine the weights of the branches (E2E-4)."""
OTHER_PREDICTIONS = ("", "", "", "", "same", "near", "random", "constant")
"""Kinds of predictions of the branch one2one; see `Recipe.one2one`."""
WITHOUT_COUNTERPART = ("assigner", "exponents", "topk2_above_k", "nonfinite", "loss_of_points")
"""Strategies of detection without a counterpart: the assigner alone is that of detection, k and topk2 are fixed
(E2E-2), and a strategy of its own draws batches with non-finite predictions."""


def end_to_end(strategy: SearchStrategy[Recipe]) -> SearchStrategy[Recipe]:
    """Return a strategy of recipes of end-to-end heads, from a strategy of recipes of detection."""
    return st.builds(_end_to_end, strategy, st.sampled_from(STATES), st.sampled_from(OTHER_PREDICTIONS))


def _end_to_end(recipe: Recipe, state: tuple[int, int], one2one: str) -> Recipe:
    """Return the recipe with a second branch, its own k and topk2 (E2E-2), and a state of the branch weights."""
    defaults, (updates, epochs) = Hyperparameters(), state
    numbers = replace(
        recipe.hyperparameters,
        **{name: getattr(defaults, name) for name in ("topk", "topk2", "alpha", "beta")},
        updates=updates,
        epochs=epochs,
    )
    return replace(recipe, hyperparameters=numbers, one2one=one2one, task=E2E.name)


def end_to_end_strategies(
    strategies: Mapping[str, SearchStrategy[Recipe]],
) -> dict[str, SearchStrategy[Recipe]]:
    """Return the strategies of end-to-end heads by name, made from those of detection."""
    return {
        name: end_to_end(strategy) for name, strategy in strategies.items() if name not in WITHOUT_COUNTERPART
    }
