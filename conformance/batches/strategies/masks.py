"""Hypothesis strategies of masks: the strategies of detection, with masks and prototypes."""

from collections.abc import Mapping
from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.content.masks import MASK_KINDS
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.keypoints import WITHOUT_COUNTERPART
from tal_conformance.core.task import SEGMENT

PROTOTYPES = (4, 1, 2, 8, 32)
"""Numbers of prototypes; heads of official models have 32."""
RATIOS = ((4, 4), (4, 4), (4, 4), (4, 8), (8, 4), (2, 2), (12, 8))
"""Pixels of the input for each pixel of masks and of prototypes; prototypes are resized if the two differ (SEG-1)."""
ENCODED = (
    *((kind, True) for kind in MASK_KINDS if kind != "soft"),
    *((kind, False) for kind in (*MASK_KINDS, "soft")),
)
"""Kinds of masks, each with True for one picture per image and with False; one picture does not hold soft masks."""
MOST_PIXELS = 1024
"""Largest number of pixels of a mask."""
MOST_NUMBERS = 2**17
"""Largest number of pixels of all masks of an image."""


def masked(strategy: SearchStrategy[Recipe], task: str = SEGMENT.name) -> SearchStrategy[Recipe]:
    """Return a strategy of recipes of masks, made from a strategy of recipes of detection.

    Args:
        strategy: a strategy of recipes of detection.
        task: name of the task: that of masks or, for heads of YOLO26, that of `SEGMENT26`.
    """
    return st.builds(
        _masked,
        strategy,
        st.sampled_from(PROTOTYPES),
        st.sampled_from(ENCODED),
        st.sampled_from(RATIOS),
        st.just(task),
    )


def _masked(
    recipe: Recipe, count: int, encoded: tuple[str, bool], ratios: tuple[int, int], task: str
) -> Recipe:
    height, width = (cells * recipe.strides[0] for cells in recipe.cells)
    most = min(MOST_PIXELS, MOST_NUMBERS // max(1, *map(len, recipe.images)))
    mask_ratio, prototype_ratio = ratios
    while (height // mask_ratio) * (width // mask_ratio) > most:
        mask_ratio, prototype_ratio = 2 * mask_ratio, 2 * prototype_ratio
    kind, overlapping = encoded
    return replace(
        recipe,
        prototypes=count,
        mask_kind=kind,
        mask_ratio=mask_ratio,
        prototype_ratio=prototype_ratio,
        overlapping_masks=overlapping,
        task=task,
    )


def masked_strategies(
    strategies: Mapping[str, SearchStrategy[Recipe]], task: str = SEGMENT.name
) -> dict[str, SearchStrategy[Recipe]]:
    """Return the strategies of masks by name, made from those of detection."""
    return {
        name: masked(strategy, task)
        for name, strategy in strategies.items()
        if name not in WITHOUT_COUNTERPART
    }
