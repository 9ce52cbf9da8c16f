"""Adapters for tests of workers: a correct adapter, and adapters that hang, die, print or return wrong results."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import EVERY


class Right(ReferenceAdapter):
    """The reference adapter, loaded by a worker process."""


class Double:
    """Base class of the adapters: correct on batches without ground truths, failing on all other batches."""

    name = "double"
    version = "1"
    exposes_stages = True
    dialect = "ultralytics-8.4.190"
    precisions = EVERY

    def __init__(self, **notes: str) -> None:
        self.right, self.notes = ReferenceAdapter(), notes

    def assign(self, inputs: AssignerInputs) -> Assignment:
        return self.right.assign(inputs)

    def loss(self, feature_maps: Any, annotations: Tensor, head: Any, hyperparameters: Any) -> Loss:
        if len(annotations):
            self.fail()
        return self.right.loss(feature_maps, annotations, head, hyperparameters)

    def fail(self) -> None:
        raise NotImplementedError


class Hangs(Double):
    def fail(self) -> None:
        while True:
            time.sleep(1)


class Leaves(Double):
    """Starts a process that outlives the worker, writes that process's id into a file, and hangs."""

    def fail(self) -> None:
        child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
        Path(self.notes["pids"]).write_text(f"{os.getpid()} {child.pid}", encoding="utf-8")
        while True:
            time.sleep(1)


class Dies(Double):
    def fail(self) -> None:
        print("last words", flush=True)
        os._exit(7)


class Exits(Double):
    def fail(self) -> None:
        sys.exit("enough")


class IsKilled(Double):
    def fail(self) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class Prints(Double):
    """Prints to every stream and file descriptor that it can write to."""

    def fail(self) -> None:
        print("TALF" * 10_000, flush=True)
        sys.stderr.write("TALF\x00\x00")
        os.write(1, b"TALF\xff" * 1000)
        os.write(2, b"TALF\xff" * 1000)


class Garbage(Double):
    """Writes random bytes into every open pipe."""

    def fail(self) -> None:
        for pipe in range(3, 1024):
            try:
                os.write(pipe, b"no frame at all, but long enough to be the head of one")
            except OSError:
                continue


class Raises(Double):
    def fail(self) -> None:
        raise ZeroDivisionError("one by none")


class ChangesState(Double):
    def fail(self) -> None:
        torch.set_default_dtype(torch.float64)


class Connects(Double):
    def fail(self) -> None:
        socket.create_connection(("127.0.0.1", int(self.notes["port"])), timeout=1)


class Installs(Double):
    def fail(self) -> None:
        subprocess.run([sys.executable, "-m", "pip", "--version"], check=True)


class Tells(Double):
    """Raises an error whose message contains the worker's environment."""

    def fail(self) -> None:
        names = ("HOME", "YOLO_CONFIG_DIR", "YOLO_AUTOINSTALL", "SECRET_OF_THE_USER")
        raise RuntimeError("; ".join(f"{name}={os.environ.get(name)}" for name in names))


class WrongShape(Double):
    def loss(self, feature_maps: Any, annotations: Tensor, head: Any, hyperparameters: Any) -> Loss:
        loss = self.right.loss(feature_maps, annotations, head, hyperparameters)
        return Loss(loss.total, loss.items[:2], loss.assignment)


class NoAssignment(Double):
    def loss(self, feature_maps: Any, annotations: Tensor, head: Any, hyperparameters: Any) -> Loss:
        loss = self.right.loss(feature_maps, annotations, head, hyperparameters)
        return Loss(loss.total, loss.items, assignment="none")  # type: ignore[arg-type]


class WrongGradient(Double):
    """Returns a correct total with a doubled gradient."""

    def loss(self, feature_maps: Any, annotations: Tensor, head: Any, hyperparameters: Any) -> Loss:
        loss = self.right.loss(feature_maps, annotations, head, hyperparameters)
        return Loss(2 * loss.total - loss.total.detach(), loss.items, loss.assignment)


EVERY_DOUBLE = (
    Right, Hangs, Leaves, Dies, Exits, IsKilled, Prints, Garbage, Raises, ChangesState, Connects, Installs, Tells,
    WrongShape, NoAssignment, WrongGradient,
)  # fmt: skip
FIRST_GAIN = 100
"""A DFL gain of FIRST_GAIN + n selects the n-th adapter of EVERY_DOUBLE."""


class Every(Double):
    """Adapter that delegates each call to one of the other adapters, which the batch's DFL gain selects."""

    def loss(self, feature_maps: Any, annotations: Tensor, head: Any, hyperparameters: Any) -> Loss:
        place = max(0, int(hyperparameters.dfl_gain) - FIRST_GAIN)
        kind: Any = EVERY_DOUBLE[place]
        chosen = kind() if kind is Right else kind(**self.notes)
        loss: Loss = chosen.loss(feature_maps, annotations, head, hyperparameters)
        return loss


class CannotBeMade:
    def __init__(self) -> None:
        raise OSError("no weights")


class DiesWhileMade:
    def __init__(self) -> None:
        os._exit(9)


class HangsWhileMade:
    def __init__(self) -> None:
        time.sleep(600)
