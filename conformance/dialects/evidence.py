"""The smallest batch on which the results of each era differ from those of the previous era.

An era is a range of releases with the same dialect. The eras are defined in `tal_reference.eras`, which does not import
recipes.
"""

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.truths import Truth
from tal_reference.eras import ERAS, Era, Version

ONE_TRUTH = Recipe(images=((Truth("ordinary"),),), strides=(8, 16))
"""One image with one ordinary ground truth, on two levels."""

EVIDENCE: dict[Version, Recipe] = {
    (8, 0, 35): Recipe(strides=(8, 16)),
    (8, 0, 52): Recipe(
        images=((Truth("ordinary"), Truth("ordinary"), Truth("ordinary", at=(0, 4), size=(1, 0))),),
        strides=(8, 16),
        streams=(1,),
    ),
    (8, 0, 100): ONE_TRUTH,
    (8, 0, 101): ONE_TRUTH,
    (8, 4, 0): Recipe(images=((Truth("thin"),),), strides=(8, 16), seed=9),
    (8, 4, 8): Recipe(images=((Truth("ordinary"),),)),
    (8, 4, 25): Recipe(
        images=((Truth("ordinary"),), (Truth("ordinary", at=(8, 8)),)), strides=(8, 16), shuffled=True
    ),
    (8, 4, 128): ONE_TRUTH,
}
"""The distinguishing recipe of every era except the first, by the era's first release."""


def distinguishing_recipe(era: Era) -> Recipe:
    """Return the smallest batch on which an era and the previous era compute different results.

    Raises:
        LookupError: the era is the first.
    """
    if era.first not in EVIDENCE:
        raise LookupError(
            f"the era that begins with {era.begins} is the oldest: no batch distinguishes it from an earlier era"
        )
    return EVIDENCE[era.first]


def distinguishing_recipes() -> list[Recipe]:
    """Return the distinguishing recipe of every era except the first, oldest era first."""
    return [distinguishing_recipe(era) for era in ERAS[1:]]
