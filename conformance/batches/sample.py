"""Recipes of a lane, the same ones every time, for what Hypothesis must not repeat and shrink by itself."""

from collections.abc import Sequence
from functools import cache

from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe


@cache
def sample_recipes(lane: str, count: int) -> tuple[Recipe, ...]:
    """Up to `count` recipes of a lane: the first that Hypothesis draws when it draws no random numbers."""
    kept: list[Recipe] = []

    @settings(
        max_examples=count,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=STRATEGIES[lane])
    def keep(recipe: Recipe) -> None:
        kept.append(recipe)

    keep()
    return tuple(kept)


@cache
def some(strategy: SearchStrategy[Recipe], count: int) -> Sequence[Recipe]:
    """Up to `count` recipes, the same ones every time."""
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
        kept.append(recipe)

    keep()
    return kept
