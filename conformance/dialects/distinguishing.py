"""Strategies whose batches distinguish the values of each choice of a dialect, for every task."""

from dataclasses import replace
from functools import cache
from typing import Any

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.branches import end_to_end
from tal_conformance.batches.strategies.detection import recipes
from tal_conformance.batches.strategies.turned_boxes import turned
from tal_conformance.core.task import DETECT, E2E, OBB
from tal_reference import Hyperparameters
from tal_reference.choices import choices_of

LEVELS = ((8, 16), (8, 16, 32))
"""Strides that every dialect supports."""


def small_recipes(**options: Any) -> SearchStrategy[Recipe]:
    """Return a strategy of batches of one image with few ground truths: Hypothesis finds small examples sooner.

    Args:
        options: arguments of `recipes`, in addition to or in place of the arguments set here.
    """
    sizes: dict[str, Any] = {"strides": LEVELS, "classes": (1, 2), "max_images": 1, "max_truths": 3}
    return recipes(**sizes | options)


RELEASE_CHOICES: dict[str, SearchStrategy[Recipe]] = {
    "small_box_floor": small_recipes(small_boxes=True),
    "one_level": small_recipes(strides=((8,),)),
    "overlaps_compared": small_recipes(contested=True),
    "topk2": small_recipes(hyperparameters=st.just(Hyperparameters(topk2=1))).filter(
        lambda recipe: any(recipe.images)  # a batch without ground truths has no anchors to drop
    ),
    "score_sum_floor": small_recipes(),
    "weights_meet": small_recipes(),
    "single_bin": small_recipes(bins=(1,)),
}
"""A strategy whose recipes can distinguish the values of each choice in which releases differ.

`rows_sorted` is missing: the result for annotation rows out of order is undefined.
"""

_ORDINARY = small_recipes(predictions=("near", "random"))
_CONTESTED = small_recipes(contested=True, max_truths=5, predictions=("near", "random"))
_IMAGES = small_recipes(max_images=3)
_OTHER_NUMBERS = small_recipes(
    hyperparameters=st.sampled_from(
        [
            Hyperparameters(topk=5),
            Hyperparameters(box_gain=1.0, cls_gain=2.0, dfl_gain=0.25),
            Hyperparameters(topk=13),
        ]
    )
)
_OTHER_EXPONENTS = small_recipes(
    hyperparameters=st.sampled_from([Hyperparameters(alpha=1.0), Hyperparameters(beta=4.0)])
)
_SOME_KEPT = small_recipes(
    hyperparameters=st.sampled_from([Hyperparameters(topk2=1), Hyperparameters(topk2=3)]),
    predictions=("near", "random"),
)
_REACH = small_recipes(kinds=("huge", "ordinary"), bins=(2, 4, 16), predictions=("near", "random"))
_FEW_OVERLAPS = recipes(
    kinds=("huge",), predictions=("random", "saturated", "near"), strides=((8, 16), (16, 32)), classes=(1, 2),
    max_images=1, max_truths=3,
)  # fmt: skip
_FEW_ANCHORS = st.builds(
    Recipe,
    images=st.just(((Truth("ordinary"),),)),
    strides=st.sampled_from(LEVELS),
    cells=st.tuples(st.integers(1, 2), st.integers(1, 3)),
    seed=st.integers(0, 255),
)

DISTINGUISHING: dict[str, SearchStrategy[Recipe]] = RELEASE_CHOICES | {
    "rows": _ORDINARY,
    "sides_exchanged": small_recipes(cells=((4, 8), (8, 4), (8, 12))),
    "image_index_ignored": _IMAGES,
    "every_row_counts": small_recipes(outside=True, max_truths=5, predictions=("near", "random")),
    "edge_counts": small_recipes(kinds=("edge_on_centre", "ordinary")),
    "centre_radius": small_recipes(kinds=("huge", "ordinary"), predictions=("near", "random")),
    "reach_limits": _REACH,
    "overlap": _ORDINARY,
    "signed_overlap": _CONTESTED,
    "metric_masked": _CONTESTED,
    "exponents": _OTHER_EXPONENTS,
    "built_in_k": _OTHER_NUMBERS,
    "k_offset": _ORDINARY,
    "k_cut": _FEW_ANCHORS,
    "dropped_picks": _FEW_OVERLAPS,
    "at_least_one": small_recipes(kinds=("tiny", "thin", "ordinary"), contested=True),
    "contested": _CONTESTED,
    "topk2_ignored": RELEASE_CHOICES["topk2"],
    "topk2_offset": _SOME_KEPT,
    "widened_target": RELEASE_CHOICES["small_box_floor"],
    "norm_before_conflict": _CONTESTED,
    "norm_clamped": _ORDINARY,
    "norm_eps": _ORDINARY,
    "norm_scaled": _ORDINARY,
    "score_sum": _IMAGES,
    "class_loss": _ORDINARY,
    "box_overlap": _ORDINARY,
    "distance_loss": _ORDINARY,
    "dfl_clamp": small_recipes(
        kinds=("huge", "tiny", "thin"), bins=(2, 4, 16), predictions=("near", "random")
    ),
    "dfl_shares_exchanged": _ORDINARY,
    "gains": _OTHER_NUMBERS,
    "total_times_images": _IMAGES,
}
"""A strategy whose recipes can distinguish the values of each choice, including choices that no release makes."""


def _with_kind(recipe: Recipe, kind: str) -> Recipe:
    """Return the recipe with every ground truth of the given kind."""
    images = tuple(tuple(replace(truth, kind=kind) for truth in truths) for truths in recipe.images)
    return replace(recipe, images=images)


OF_BRANCHES = {"weighted_branches": _ORDINARY}
"""A strategy of detection for each choice of end-to-end heads, from which that of such heads is made."""
OF_ROTATED_BOXES: dict[str, SearchStrategy[Recipe]] = {
    "filter_exchanged": st.builds(
        _with_kind, turned(small_recipes(cells=((4, 8), (8, 4), (8, 12)))), st.just("two_pixels")
    ),
    "widened_truths": turned(small_recipes(small_boxes=True, predictions=("near", "random"))),
    "box_variance": turned(_ORDINARY),
    "turned_distances": turned(_ORDINARY),
    "angle_term": turned(_ORDINARY),
}
"""A strategy for each choice of rotated boxes alone."""
RELEASE_CHOICES_BY_TASK = {
    DETECT.name: tuple(RELEASE_CHOICES),
    E2E.name: ("small_box_floor", "one_level", "single_bin", *OF_BRANCHES),
    OBB.name: ("small_box_floor", "topk2", "single_bin", *OF_ROTATED_BOXES),
}
"""Names of the choices in which releases of a task differ, except the order of annotation rows."""


@cache
def distinguishing(name: str, task: str = DETECT.name) -> SearchStrategy[Recipe] | None:
    """Return the strategy of batches on which the values of a choice differ; None if no batch can show a difference.

    Args:
        name: field of `Dialect`.
        task: name of a task whose reference follows the choice.

    Raises:
        LookupError: the reference of the task does not follow the choice.
    """
    if name not in choices_of(task):
        raise LookupError(f"the reference of the task {task} does not follow the choice {name!r}")
    strategy = (DISTINGUISHING | OF_BRANCHES).get(name)
    if task == OBB.name and name in OF_ROTATED_BOXES:
        return OF_ROTATED_BOXES[name]
    if strategy is None or task == DETECT.name:
        return strategy
    return end_to_end(strategy) if task == E2E.name else turned(strategy)


def release_strategies(task: str) -> tuple[SearchStrategy[Recipe], ...]:
    """Return a strategy for each choice in which releases of a task differ."""
    found = (distinguishing(name, task) for name in RELEASE_CHOICES_BY_TASK[task])
    return tuple(strategy for strategy in found if strategy is not None)
