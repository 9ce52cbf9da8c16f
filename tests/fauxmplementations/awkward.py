"""Adapters with attributes that raise, names that contain escape sequences, and similar oddities."""

from typing import Any

import pytest
from misbehaving import Double

from tal_conformance.core.outcome import AssignerInputs, Assignment


def no_name(_: Any) -> str:
    raise ZeroDivisionError("no name")


class NameRaises(Double):
    """Its `name` raises."""


NameRaises.name = property(no_name)  # type: ignore[attr-defined]


class VersionSkips(Double):
    """Its `version` skips the test."""

    @property
    def version(self) -> str:
        pytest.skip("no version")


class AssignRaises(Double):
    """Its `assign` cannot be read."""

    @property
    def assign(self) -> Any:
        raise OSError("no assign")


class DialectRaises(Double):
    """Its `dialect` raises."""

    @property
    def dialect(self) -> str:
        raise RuntimeError("no dialect")


class ControlsTheTerminal(Double):
    """Its name, version and message hold escape sequences, line breaks and a runner's command."""

    version = "1\n::error::lost"

    def __init__(self) -> None:
        self.name = "\x1b[2Jall\u202econform\n::error::lost " + "x" * 1000

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        print("\x1b[2J\n::error::printed")
        raise ValueError("\x1b]8;;http://x\x07\n::error::raised")
