"""Error messages suggest similar names for mistyped names."""

import pytest

from tal_conformance.core.names import suggestion, unknown_name

KNOWN = ["reference", "rearranged", "ultralytics"]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("refrence", "; did you mean 'reference'?"),
        ("ULTRALYTICS", "; did you mean 'ultralytics'?"),
        ("mine", ""),
    ],
)
def test_suggestion(name: str, text: str):
    assert suggestion(name, KNOWN) == text


def test_unknown_name():
    assert unknown_name("adapter", "mine", iter(KNOWN)) == (
        "unknown adapter 'mine'. Known adapters: reference, rearranged, ultralytics"
    )
