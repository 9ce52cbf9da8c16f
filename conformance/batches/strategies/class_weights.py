"""Hypothesis strategy of batches whose classes have weights in the class loss (COR-7)."""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import recipes

FREQUENCIES = (1.0, 0.25, 3.0, 10.0, 0.0078125, 40.0)
"""Weights, relative to the most frequent class, that n^-p gives for classes n times as rare: float32 numbers."""
OFF = 0.0
"""The weight of a class that the loss ignores."""


def _weighted(recipe: Recipe, weights: list[float]) -> Recipe:
    return replace(recipe, class_weights=tuple(weights))


_RECIPES = recipes(
    classes=(2, 3, 1, 80), bins=(16, 16, 1), predictions=("near", "random", "saturated", "exact_hit")
)

class_weights: SearchStrategy[Recipe] = st.one_of(
    *[st.builds(_weighted, _RECIPES, st.lists(st.sampled_from(FREQUENCIES), min_size=1, max_size=5))] * 5,
    st.builds(_weighted, _RECIPES, st.lists(st.sampled_from((*FREQUENCIES, OFF)), min_size=2, max_size=5)),
)
"""Batches whose classes have weights, repeated in turn; in one of six batches, the weight of a class may be zero."""
