"""Hypothesis strategies of rotated boxes: the strategies of detection, with turned ground truths and predictions."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.task import OBB

SPECIAL = (
    *(None,) * 10,
    *("square", "elongated", "other_form", "crossing", "two_pixels", "turned_below_zero"),
)
"""Kinds of ground truths that only rotated boxes have; None: the kind that detection's strategy drew."""
SPECIAL_PREDICTIONS = (*(None,) * 6, "other_form", "many_turns")
"""Kinds of predictions that only rotated boxes have; None: the kind that detection's strategy drew."""
ANGLE_GAINS = (1.0, 1.0, 0.25, 4.0)
WITHOUT_COUNTERPART = ("loss_of_points", "nonfinite")
"""Strategies of detection without a counterpart: boxes without area are dropped (OBB-ANN-2), and non-finite predictions
are not judged."""

TURN = st.integers(0, 16 * len(SPECIAL) - 1)
"""One number for the angle and the kind of a ground truth; 0 is an upright box of the kind that was drawn."""


def turned(strategy: SearchStrategy[Recipe], other_gains: bool = False) -> SearchStrategy[Recipe]:
    """Return a strategy of recipes of rotated boxes.

    Args:
        strategy: a strategy of recipes of detection.
        other_gains: also draw the gain of the angle loss.
    """
    return st.builds(
        _turned,
        strategy,
        st.lists(TURN, min_size=1, max_size=8),
        st.sampled_from(SPECIAL_PREDICTIONS),
        st.sampled_from(ANGLE_GAINS if other_gains else ANGLE_GAINS[:1]),
    )


def _turned(recipe: Recipe, turns: list[int], predictions: str | None, gain: float) -> Recipe:
    """Return the recipe without planted ties, its ground truths turned by `turns`, which are repeated cyclically."""
    number = 0
    images = []
    for truths in recipe.images:
        image = []
        for truth in truths:
            image.append(_turned_truth(truth, turns[number % len(turns)]))
            number += 1
        images.append(tuple(image))
    numbers = recipe.hyperparameters
    return replace(
        recipe,
        images=tuple(images),
        copies=(),
        predictions=recipe.predictions if predictions is None else predictions,
        hyperparameters=numbers if gain == numbers.angle_gain else replace(numbers, angle_gain=gain),
        task=OBB.name,
    )


def _turned_truth(truth: Truth, number: int) -> Truth:
    special = SPECIAL[number // 16]
    return replace(truth, turn=number % 16, kind=truth.kind if special is None else special)


def turned_strategies(
    strategies: Mapping[str, SearchStrategy[Recipe]],
) -> dict[str, SearchStrategy[Recipe]]:
    """Return the strategies of rotated boxes by name, made from those of detection."""
    return {
        name: turned(strategy, other_gains=name == "hyperparameters")
        for name, strategy in strategies.items()
        if name not in WITHOUT_COUNTERPART
    }
