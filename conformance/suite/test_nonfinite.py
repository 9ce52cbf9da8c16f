"""NONFINITE: a prediction that is NaN or infinite, and how far it spreads."""

from functools import partial

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tal_conformance.batches.named_strategies import LANES
from tal_conformance.batches.non_finite import NUMBERS, NotFinite
from tal_conformance.checks.reference import conform
from tal_conformance.judgement.non_finite import judge_nonfinite
from tal_conformance.suite.checker import Conformance
from tal_conformance.suite.options import share_of_examples

BATCHES = st.builds(
    NotFinite,
    recipe=LANES["nonfinite"],
    value=st.sampled_from(tuple(NUMBERS)),
    class_logit=st.booleans(),
    channel=st.integers(0, 127),
    place=st.integers(0, 1023),
)


@pytest.mark.clauses("NONFINITE")
@settings(max_examples=share_of_examples(2))
@given(batch=BATCHES)
def test_nonfinite(conforms: Conformance, batch: NotFinite) -> None:
    """NONFINITE-1 to NONFINITE-3."""
    conforms(batch.build(), by=partial(conform, judge=judge_nonfinite))
