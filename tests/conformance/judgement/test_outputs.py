"""Where outputs alone are shown, the stage that explains them is told on the smallest batch too."""

import pytest

from conformance.batches import Recipe, Truth
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
