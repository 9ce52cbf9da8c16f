"""`test_declared_differences`: an assigner without a loss is held to what its assigner's dialect makes different."""

import pytest

from conformance import test_dialects
from conformance.lanes import LANES
from reference import DIALECTS


def test_an_assigner_alone_is_shown_a_difference_of_the_assigner(monkeypatch: pytest.MonkeyPatch):
    """What is widened differs without a loss too; where it is no difference, there is none to show."""
    monkeypatch.setattr(test_dialects, "LANES", {"small_boxes": LANES["small_boxes"]})
    assert test_dialects.smallest_difference(DIALECTS["ultralytics-8.3.253"], alone=True) is not None
    monkeypatch.setattr(test_dialects, "LANES", {})
    assert test_dialects.smallest_difference(DIALECTS["ultralytics-8.3.253"], alone=True) is None
