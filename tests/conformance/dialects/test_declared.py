"""`test_declared_differences`: an assigner without a loss is held to what its assigner's dialect makes different."""

import pytest

from conformance.test_dialects import smallest_difference
from reference import DIALECTS


@pytest.mark.slow
def test_the_loss_alone_may_make_the_difference():
    declared = DIALECTS["ultralytics-8.3.253"]
    assert smallest_difference(declared) is not None
    recipe = smallest_difference(declared, alone=True)
    assert recipe is None or recipe.reg_max > 1  # L1 for one bin is the loss's
