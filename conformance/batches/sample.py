"""Deterministic samples of strategies, for tests that neither draw at random nor shrink."""

from functools import cache

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe


@cache
def sample_recipes(strategy: SearchStrategy[Recipe], count: int) -> tuple[Recipe, ...]:
    """Return up to `count` recipes drawn from a strategy, the same recipes in every process."""
    kept: list[Recipe] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=strategy)
    def keep(recipe: Recipe) -> None:
        # The seed is a hash of this function's source: another name or line would draw other recipes.
        kept.append(recipe)

    keep()
    return tuple(kept)
