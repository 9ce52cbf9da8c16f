"""Adapters with awkward attributes cause a one-line message or an error on a batch, never an internal error."""

import re
from pathlib import Path

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.implementations.errors import (
    ImplementationFailed,
    ProtocolViolation,
    UnknownImplementation,
)
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.registry import find

FOLDER = Path(__file__).parents[2] / "fauxmplementations"
BATCH = Recipe(images=((Truth("ordinary"),),), classes=2).build()
REFUSED = {
    "awkward.py:NameRaises": "raised ZeroDivisionError: no name",
    "awkward.py:VersionSkips": "raised Skipped: no version",
    "awkward.py:DialectRaises": "raised RuntimeError: no dialect",
    "skipping_at_import.py:Anything": "raised Skipped: not here",
}


@pytest.mark.parametrize("isolate", [False, True], ids=["in process", "isolated"])
@pytest.mark.parametrize("name", REFUSED)
def test_an_adapter_that_cannot_be_read_is_refused(name: str, isolate: bool):
    with pytest.raises((ProtocolViolation, UnknownImplementation)) as caught:
        find(f"{FOLDER}/{name}", isolate)
    expected = REFUSED[name].removeprefix("raised ") if isolate else REFUSED[name]
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_method_that_cannot_be_read_is_its_error():
    double = find(f"{FOLDER}/awkward.py:AssignRaises")
    assert "assign" in double.capabilities
    with pytest.raises(ImplementationFailed, match="raised OSError: no assign"):
        execute(double, BATCH)


def test_names_are_one_line_of_limited_length():
    double = find(f"{FOLDER}/awkward.py:ControlsTheTerminal")
    for text in (double.name, double.version):
        assert re.fullmatch(r"[^\n]{1,200}", text)
