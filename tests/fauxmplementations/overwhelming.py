"""Adapters that return too much data, or use memory that a limit of one process does not count."""

import os
from contextlib import suppress
from typing import Any

import torch
from misbehaving import Double

from tal_conformance.core.outcome import AssignerInputs, Assignment


class AnswersGigabytes(Double):
    """Returns scores of 3 GiB."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return Assignment(
            right.labels, right.boxes, torch.zeros(3 * 2**28), right.foreground, right.truth_index
        )


class RaisesMegabytes(Double):
    """Raises an exception with a message of 256 MiB."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        raise ValueError("x" * 2**28)


class KeepsTensorsInFrames(Double):
    """Raises in a function whose local variable is a tensor of 256 MiB."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        large = torch.ones(2**26)
        raise ValueError(f"sum {large.sum().item()}")


class SharesGigabytes(Double):
    """Fills shared memory, which a limit of private memory does not count."""

    kept: list[torch.Tensor]

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        self.__dict__.setdefault("kept", [])
        while True:
            memory = os.memfd_create("shared")
            for _ in range(4):
                os.write(memory, bytes(2**24))


class OpensFiles(Double):
    """Opens files until the system refuses, and leaves them open."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        with suppress(OSError):
            while True:
                os.open(os.devnull, os.O_RDONLY)
        return right
