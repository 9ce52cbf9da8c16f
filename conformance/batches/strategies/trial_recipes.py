"""The ten batches on which a new adapter is tried: small ones on which most known mistakes change the loss."""

from tal_conformance.batches.content.predictions import Copy
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.core.task import DETECT
from tal_reference import Hyperparameters

NUMBER = 10
"""Number of batches."""
OTHER_GAINS = Hyperparameters(topk=13, box_gain=5.0, cls_gain=1.0, dfl_gain=1.0)

OF_DETECTION = (
    Recipe(
        images=(
            (
                Truth("huge", at=(6, 3), size=(1, 0)),
                Truth("ordinary", at=(8, 0), size=(1, 0)),
                Truth("off_lattice", at=(9, 4)),
            ),
        ),
        cells=(10, 9),
        predictions="constant",
        seed=140,
        streams=(62,),
    ),
    Recipe(
        images=((Truth("mirrored", at=(9, 1)), Truth("other_class", at=(13, 14), size=(4, 1))),),
        cells=(4, 6),
        strides=(8, 16),
        predictions="between",
        levels=2,
        seed=65535,
        streams=(115,),
    ),
    Recipe(
        images=(
            (Truth("other_class", at=(5, 0), size=(1, 0)), Truth("beyond_top_left", at=(8, 2), size=(4, 0))),
        ),
        cells=(8, 8),
        classes=2,
        predictions="near",
        seed=1195,
        streams=(227,),
    ),
    Recipe(
        images=((Truth("tiny", at=(1, 3), size=(3, 3)), Truth("thin", at=(4, 3), size=(6, 6))),),
        cells=(8, 8),
        strides=(8, 16),
        copies=(Copy(image=0, truth=1, source=0, target=9),),
        seed=1180,
        streams=(32,),
    ),
    Recipe(
        images=(
            (
                Truth("overlapping", at=(4, 1), size=(8, 1)),
                Truth("other_class", at=(14, 4)),
                Truth("overlapping", at=(3, 10), size=(2, 0)),
            ),
        ),
        cells=(1, 12),
        strides=(8, 16),
        classes=2,
        predictions="near",
        seed=24863,
        streams=(197,),
    ),
    Recipe(
        images=(
            (
                Truth("other_class"),
                Truth("off_lattice", at=(3, 10), size=(2, 0)),
                Truth("ordinary", at=(1, 2), size=(12, 3)),
            ),
        ),
        cells=(6, 4),
        strides=(8, 16, 32),
        classes=2,
        predictions="exact_hit",
        levels=1,
        seed=1683,
        streams=(171,),
        hyperparameters=Hyperparameters(topk=5, topk2=2),
    ),
    Recipe(
        images=(
            (
                Truth("ordinary", at=(9, 15), size=(13, 5)),
                Truth("ordinary", at=(9, 15), size=(13, 5)),
                Truth("ordinary"),
                Truth("huge", at=(9, 11), size=(4, 0)),
                Truth("huge", at=(0, 1), size=(13, 0)),
            ),
            (),
        ),
        cells=(8, 12),
        strides=(8, 16),
        predictions="near",
        streams=(127, 1),
        hyperparameters=OTHER_GAINS,
    ),
    Recipe(
        images=(
            (
                Truth("huge", at=(9, 15), size=(13, 5)),
                Truth("edge_on_centre", at=(4, 0), size=(2, 0)),
                Truth("huge"),
                Truth("edge_on_centre", at=(9, 11), size=(4, 0)),
                Truth("edge_on_centre", at=(0, 1), size=(13, 0)),
            ),
            (Truth("edge_on_centre", at=(10, 10), size=(14, 0)),),
        ),
        cells=(8, 16),
        strides=(8, 16),
        reg_max=4,
        predictions="near",
        seed=65535,
        streams=(127, 200),
    ),
    Recipe(
        images=(
            (
                Truth("huge", at=(14, 2), size=(10, 0)),
                Truth("huge", at=(0, 11), size=(6, 0)),
                Truth("huge", at=(1, 13)),
                Truth("huge", at=(4, 13), size=(12, 0)),
                Truth("huge", at=(6, 3), size=(1, 0)),
            ),
            (Truth("huge", at=(1, 0)), Truth("huge", at=(10, 11), size=(9, 7))),
        ),
        cells=(12, 8),
        strides=(8, 16, 32),
        classes=2,
        predictions="near",
        seed=65,
        streams=(60, 115),
    ),
    Recipe(
        images=((Truth("other_class", label=1, at=(0, 5), size=(4, 2)),),),
        cells=(8, 8),
        classes=2,
        reg_max=1,
        seed=26025,
        streams=(223,),
    ),
)
"""Chosen from batches that distinguish choices of dialects: nearly every choice changes the loss on two of them."""
DRAWN = 40
"""Number of batches that are drawn for other tasks, from which those with ground truths are chosen."""


def trial_recipes(task: str = DETECT.name) -> tuple[Recipe, ...]:
    """Return the recipes of the batches on which a new adapter is tried; every call returns the same recipes.

    Args:
        task: name of the loss family. For other families than detection, the batches are drawn.
    """
    if task == DETECT.name:
        return OF_DETECTION
    drawn = sample_recipes(STRATEGIES_BY_TASK[task]["loss"], DRAWN)
    return tuple(sorted(drawn, key=lambda recipe: not any(recipe.images))[:NUMBER])
