"""The smallest batch on which the results of each era differ from those of the previous era.

An era is a range of releases with the same dialect. The eras are defined in `tal_reference.eras`, which does not import
recipes.
"""

from dataclasses import replace

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.task import DETECT, E2E, OBB
from tal_reference.eras import Era, Version
from tal_reference.eras_of_tasks import ERAS_BY_TASK

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
"""The distinguishing recipe of every era of detection except the first, by the era's first release."""

TURNED = replace(ONE_TRUTH, task=OBB.name)
THIN_TURNED = replace(TURNED, images=((Truth("thin", size=(4, 0)),),), predictions="near")
EVIDENCE_BY_TASK: dict[str, dict[Version, Recipe]] = {
    DETECT.name: EVIDENCE,
    E2E.name: {
        (8, 4, 0): Recipe(strides=(8, 16), predictions="near", task=E2E.name),
        (8, 4, 8): replace(ONE_TRUTH, strides=(8,), task=E2E.name),
        (8, 4, 25): replace(EVIDENCE[8, 4, 25], task=E2E.name),
        (8, 4, 128): replace(ONE_TRUTH, task=E2E.name),
    },
    OBB.name: {
        (8, 3, 242): replace(TURNED, images=((Truth("two_pixels", at=(0, 9), size=(11, 1)),),), cells=(8, 4)),
        (8, 4, 0): replace(TURNED, predictions="near"),
        (8, 4, 8): THIN_TURNED,
        (8, 4, 25): replace(EVIDENCE[8, 4, 25], task=OBB.name),
        (8, 4, 39): THIN_TURNED,
        (8, 4, 80): THIN_TURNED,
        (8, 4, 84): replace(TURNED, predictions="near"),
        (8, 4, 128): TURNED,
    },
}
"""The distinguishing recipe of every era of a task except the first, by the era's first release."""


def distinguishing_recipe(era: Era, task: str = DETECT.name) -> Recipe:
    """Return the smallest batch on which an era and the previous era of a task compute different results.

    Raises:
        LookupError: the era is the first.
    """
    evidence = EVIDENCE_BY_TASK[task]
    if era.first not in evidence:
        raise LookupError(
            f"the era that begins with {era.begins} is the oldest: no batch distinguishes it from an earlier era"
        )
    return evidence[era.first]


def distinguishing_recipes(task: str = DETECT.name) -> list[Recipe]:
    """Return the distinguishing recipe of every era of a task except the first, oldest era first."""
    return [distinguishing_recipe(era, task) for era in ERAS_BY_TASK[task][1:]]
