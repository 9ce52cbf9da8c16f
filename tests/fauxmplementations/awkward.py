"""Adapters with attributes that raise, names that contain escape sequences, and similar oddities."""

from typing import Any

import pytest
from misbehaving import Double

from tal_conformance.core.outcome import AssignerInputs, Assignment


def no_name(_: Any) -> str:
    raise ZeroDivisionError("no name")


class NameRaises(Double):
    """Raises when its `name` is read."""


NameRaises.name = property(no_name)  # type: ignore[attr-defined]


class VersionSkips(Double):
    """Calls `pytest.skip` when its `version` is read."""

    @property
    def version(self) -> str:
        pytest.skip("no version")


class AssignRaises(Double):
    """Raises when its `assign` is read."""

    @property
    def assign(self) -> Any:
        raise OSError("no assign")


class DialectRaises(Double):
    """Raises when its `dialect` is read."""

    @property
    def dialect(self) -> str:
        raise RuntimeError("no dialect")


class ControlsTheTerminal(Double):
    """Puts escape sequences, line breaks and a CI runner's command into its name, version and error message."""

    version = "1\n::error::lost"

    def __init__(self) -> None:
        self.name = "\x1b[2Jall\u202econform\n::error::lost " + "x" * 1000

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        print("\x1b[2J\n::error::printed")
        raise ValueError("\x1b]8;;http://x\x07\n::error::raised")
