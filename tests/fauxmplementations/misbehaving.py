"""Adapters that misbehave on batches with ground truths, in one way each, and are correct on all others."""

import asyncio
import ctypes
import os
import signal
import subprocess
import sys
import time
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter

RIGHT = ReferenceAdapter()
LATE = 500
"""Number of the batch at which adapters such as `RaisesLate` fail."""


class Double:
    """Base class of the adapters: correct on all batches."""

    version = "1"
    dialect = "ultralytics-8.4.190"

    def __init_subclass__(cls) -> None:
        cls.name = cls.__name__

    def assign(self, inputs: AssignerInputs) -> Any:
        right = replace(RIGHT.assign(inputs), stages=None)
        return self.misbehave(inputs, right) if inputs.truth_mask.any() else right

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return right


class Right(Double):
    """Returns correct results on all batches."""


class RightToo(Double):
    """Returns correct results on all batches."""


class Raises(Double):
    """Raises an exception."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        raise ZeroDivisionError("one by none")


class RaisesLate(Double):
    """Raises at its 500th batch only, and is correct if the batch is repeated."""

    asked = 0

    def assign(self, inputs: AssignerInputs) -> Any:
        self.asked += 1
        if self.asked == LATE:
            raise RuntimeError("the 500th")
        return super().assign(inputs)


class RaisesFromThenOn(Double):
    """Raises at every batch from the 500th on."""

    asked = 0

    def assign(self, inputs: AssignerInputs) -> Any:
        self.asked += 1
        if self.asked >= LATE:
            raise RuntimeError("the 500th, or a later one")
        return super().assign(inputs)


class RaisesBackwards(Double):
    """Returns a loss whose backward pass raises an exception."""

    assign = None  # type: ignore[assignment]

    def loss(self, feature_maps: Any, annotations: Tensor, head: Any, hyperparameters: Any) -> Loss:
        right = RIGHT.loss(feature_maps, annotations, head, hyperparameters)
        if len(annotations):
            right.total.register_hook(self.fail)
        return Loss(right.total, right.items)

    def fail(self, _: Tensor) -> None:
        raise ArithmeticError("no way back")


class Recurses(Double):
    """Recurses without end."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return self.misbehave(inputs, right)


class ExitsPolitely(Double):
    """Calls `sys.exit`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        sys.exit("enough")


class Skips(Double):
    """Calls `pytest.skip`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        import pytest

        pytest.skip("not today")


class ExpectsToFail(Double):
    """Calls `pytest.xfail`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        import pytest

        pytest.xfail("as expected")


class InterruptsItself(Double):
    """Raises KeyboardInterrupt without a signal."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        raise KeyboardInterrupt("by itself")


class ClosesGenerators(Double):
    """Raises GeneratorExit."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        raise GeneratorExit("closed")


class IsCancelled(Double):
    """Raises `asyncio.CancelledError`."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        raise asyncio.CancelledError("cancelled")


class ReturnsNone(Double):
    """Returns None."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return None


class TooFew(Double):
    """Returns a tuple with too few results."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return right.labels, right.boxes, right.scores


class TooMany(Double):
    """Returns a tuple with too many results."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return *(getattr(right, field.name) for field in fields(right)), right.labels


class OneImageTooFew(Double):
    """Returns results for all images except one."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return Assignment(
            *(getattr(right, field.name)[:-1] for field in fields(right) if field.name != "stages")
        )


class WrongShape(Double):
    """Returns scores of a wrong shape."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=right.scores.transpose(1, 2))


class WrongDtype(Double):
    """Returns indices with a fraction of 0.5, which cannot be converted to integers."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, truth_index=right.truth_index.float() + 0.5)


class WrongDevice(Double):
    """Returns scores on another device."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=right.scores.to("meta"))


class ReturnsNan(Double):
    """Returns NaN as target scores."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return replace(right, scores=right.scores * torch.nan)


class ChangesInputs(Double):
    """Changes an input in place."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        inputs.truth_boxes.mul_(2)
        return right


class ChangesLater(Double):
    """Keeps a reference to its result, and changes the result at the next call."""

    kept: Assignment | None = None

    def assign(self, inputs: AssignerInputs) -> Any:
        if self.kept is not None:
            self.kept.scores.add_(1)
        self.kept = replace(RIGHT.assign(inputs), stages=None)
        return self.kept


class ChangesState(Double):
    """Changes torch's default dtype."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        torch.set_default_dtype(torch.float64)
        return right


class Prints(Double):
    """Prints three megabytes."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        for _ in range(3 * 2**10):
            print("x" * 2**10)
        return right


class Leaves(Double):
    """Starts a process that is still running when the call returns."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        return right


class Forks(Double):
    """Forks a child process that keeps running."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        if os.fork() == 0:
            time.sleep(600)
            os._exit(0)
        return right


class ForksAndReturns(Double):
    """Forks, and returns in both processes."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.fork()
        return right


class Writes(Double):
    """Writes a file into the working directory."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        Path("left-by-writes.txt").write_text("here", encoding="utf-8")
        return right


# Behaviour that would end the suite's own process


class Hangs(Double):
    """Computes in an endless loop."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        while True:
            pass


class Sleeps(Double):
    """Sleeps for ten minutes."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        time.sleep(600)
        return right


class Segfaults(Double):
    """Reads invalid memory, which causes a segmentation fault."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        return ctypes.string_at(0)


class Exits(Double):
    """Ends the process with exit status 0."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os._exit(0)


class IsKilled(Double):
    """Kills its process with SIGKILL, as the kernel does when memory is exhausted."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class EatsMemory(Double):
    """Allocates memory without end."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        eaten = []
        while True:
            eaten.append(bytearray(2**27))


class EatsMemoryInTorch(Double):
    """Allocates tensors without end."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        eaten = []
        while True:
            eaten.append(torch.empty(2**27, dtype=torch.uint8))


class LeaksMemory(Double):
    """Leaks a third of the allowed memory with each batch."""

    leaked: list[Tensor]

    def assign(self, inputs: AssignerInputs) -> Any:
        self.__dict__.setdefault("leaked", []).append(torch.empty(2**30, dtype=torch.uint8))
        return super().assign(inputs)


class PrintsWithoutEnd(Double):
    """Prints without end."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        while True:
            print("x" * 2**20)


class Daemonises(Double):
    """Starts a daemon: a process detached from its parent."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        if os.fork() == 0:
            os.setsid()
            subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
            os._exit(0)
        os.wait()
        return right


FIRST_GAIN = 100
"""A DFL gain of FIRST_GAIN + n selects the n-th adapter of `Every`."""


class Every(Double):
    """Adapter that delegates each call to another adapter, which the DFL gain of the batch selects."""

    def __init__(self, names: list[str]) -> None:
        self.each = [globals()[name]() for name in names]

    def assign(self, inputs: AssignerInputs) -> Any:
        place = int(inputs.hyperparameters.dfl_gain) - FIRST_GAIN
        return self.each[place].assign(inputs) if place >= 0 else super().assign(inputs)
