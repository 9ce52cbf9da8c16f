"""Where outputs alone are shown, the stage that explains them is told on the smallest batch too."""

import pytest

from conformance.batches import Copy, Recipe, Truth
from conformance.conforming import conform
from conformance.implementations import implementation_from
from conformance.power import FAULTS, FaultyReference
from conformance.recording import Failure, Subject

ONE_POSITIVE = Recipe(images=((Truth("ordinary"),),), predictions="near").build()
"""Of one positive there is the best weight, and no other weight beside it."""


@pytest.mark.parametrize(
    ("name", "stage"), {"alpha_and_beta_swapped": "metric", "iou_for_ciou": "overlap"}.items()
)
def test_the_weight_of_one_positive_tells_t_from_u(name: str, stage: str):
    """A t too small brings the weight below the overlap; nothing but the overlap brings it above."""
    subject = Subject(implementation_from(FaultyReference(FAULTS[name], shows_stages=False), name), "cpu")
    with pytest.raises(Failure) as caught:
        conform(subject, ONE_POSITIVE, alone=True)
    assert caught.value.stage == stage


def test_a_contested_anchor_that_goes_to_a_bystander_is_the_conflicts():
    """Its new owner did not select it, but two others did: the selection is not what is wrong."""
    recipe = Recipe(
        images=(
            (
                Truth("ordinary", label=4, at=(0, 6), size=(7, 10)), Truth("ordinary", at=(0, 14)),
                Truth("ordinary", at=(1, 13), size=(3, 0)), Truth("ordinary", label=4, at=(5, 11), size=(13, 15)),
            ),
        ),
        cells=(11, 13), strides=(8, 16, 32), classes=5, predictions="near", levels=2,
        copies=(Copy(image=0, truth=1, source=9, target=10),), streams=(241,),
    )  # fmt: skip
    faulty = FaultyReference(FAULTS["contested_by_metric"], shows_stages=False)
    with pytest.raises(Failure) as caught:
        conform(Subject(implementation_from(faulty, "faulty"), "cpu"), recipe.build(), alone=True)
    assert caught.value.stage == "conflict"
