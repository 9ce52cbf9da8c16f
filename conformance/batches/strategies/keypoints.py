"""Hypothesis strategies of poses: the strategies of detection, with keypoints."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.content.keypoints import KEYPOINT_KINDS
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.task import POSE
from tal_reference import Hyperparameters

SHAPES = ((4, 3), (17, 3), (1, 3), (4, 2), (5, 3), (17, 2))
"""Numbers of keypoints, and of numbers per keypoint; (17, 3) has the sigmas of COCO (POSE-IN-3)."""
SIGMAS = ((), (), (), (0.5, 0.0625), (0.015625, 1.0))
"""Standard deviations of a head of its own, repeated for further keypoints; (): those of the shape. The last has one
so small that a similarity is 0 or 1."""
GAINS: tuple[dict[str, Any], ...] = (
    {},
    {},
    {"pose_gain": 1.0},
    {"kobj_gain": 4.0},
    {"pose_gain": 0.5, "kobj_gain": 0.25},
)
WITHOUT_COUNTERPART = ("exponents",)
"""Strategies of detection without a counterpart: the assigner alone is that of detection."""


def posed(
    strategy: SearchStrategy[Recipe], other_gains: bool = False, task: str = POSE.name
) -> SearchStrategy[Recipe]:
    """Return a strategy of recipes of poses.

    Args:
        strategy: a strategy of recipes of detection.
        other_gains: also draw the gains of the terms pose and kobj.
        task: name of the task: that of poses or, for heads of YOLO26, that of `POSE26`.
    """
    return st.builds(
        _posed,
        strategy,
        st.sampled_from(SHAPES),
        st.sampled_from([*KEYPOINT_KINDS]),
        st.sampled_from(SIGMAS),
        st.sampled_from(GAINS if other_gains else GAINS[:1]),
        st.just(task),
    )


def _posed(
    recipe: Recipe,
    shape: tuple[int, int],
    kind: str,
    sigmas: tuple[float, ...],
    gains: dict[str, Any],
    task: str,
) -> Recipe:
    numbers: Hyperparameters = replace(recipe.hyperparameters, **gains)
    return replace(
        recipe,
        keypoints=shape,
        keypoint_kind=kind,
        keypoint_sigmas=sigmas,
        hyperparameters=numbers,
        task=task,
    )


def posed_strategies(
    strategies: Mapping[str, SearchStrategy[Recipe]], task: str = POSE.name
) -> dict[str, SearchStrategy[Recipe]]:
    """Return the strategies of poses by name, made from those of detection."""
    return {
        name: posed(strategy, name in ("hyperparameters", "loss"), task)
        for name, strategy in strategies.items()
        if name not in WITHOUT_COUNTERPART
    }
