"""The search for the smallest batch on which a dialect differs from the newest dialect."""

from dataclasses import replace

import pytest

from tal_conformance.dialects.choices import differ
from tal_conformance.dialects.smallest_difference import smallest_difference
from tal_reference import DIALECTS, NEWEST, Dialect

OF_THE_LOSS = replace(NEWEST, name="newest without a least sum", score_sum_floor=0.0)
OTHERS = [dialect for dialect in DIALECTS.values() if dialect != NEWEST]


@pytest.mark.parametrize("dialect", OTHERS, ids=[dialect.name for dialect in OTHERS])
def test_what_an_assigner_declares_is_shown_on_a_small_batch(dialect: Dialect):
    """For every older dialect, a batch with one ground truth is assigned differently than in the newest dialect."""
    recipe = smallest_difference(dialect, alone=True)
    assert recipe is not None
    assert differ(dialect, NEWEST, recipe)
    assert sum(map(len, recipe.images)) == 1


def test_what_the_loss_alone_declares_is_not_asked_of_an_assigner():
    assert smallest_difference(OF_THE_LOSS, alone=True) is None
    assert smallest_difference(OF_THE_LOSS) is not None


def test_a_dialect_that_declares_nothing_fails():
    with pytest.raises(LookupError, match=r"agrees with .* on every generated batch"):
        smallest_difference(replace(NEWEST, name="newest by another name"))
