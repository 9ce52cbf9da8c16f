"""Record selected inputs of the loss during a user's training as case files, without disturbing the training."""

import contextlib
import sys
import time
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from tal_conformance.batches.hazards import hazards_of
from tal_conformance.training.capture import Call, CannotRecord, Unfit, listening, official_loss
from tal_conformance.training.selection import BatchFacts, BatchSelector
from tal_conformance.training.store import SUFFIX, CaseStore
from tal_text import warn

EVERY, LIMIT_MB = 500, 500.0
"""Defaults: steps between two batches that are stored regularly, and size limit of all files in MB."""
BEHIND = 2
"""Maximum number of calls whose values the GPU may still be computing; the recorder waits for older values."""
SECONDS_BETWEEN_LINES = 60.0
"""Minimum time between two lines about the progress, so that they do not hide the training's own output."""


@dataclass(frozen=True, eq=False)
class Pending:
    """A captured call whose values the GPU may still be computing.

    Attributes:
        call: the call, without its autograd graph.
        which: index of the loss object; an end-to-end head has two loss objects.
        epoch: epoch of the training, if it is known.
        numbers: (2,) float32 on the CPU: the loss's total, and the smallest area of a ground truth.
        ready: CUDA event after which `numbers` are valid; None if they are valid already.
    """

    call: Call
    which: int
    epoch: int | None
    numbers: Tensor
    ready: "torch.cuda.Event | None"


@dataclass
class Recording:
    """The recording of one training: what was captured and stored so far.

    Attributes:
        shelf: the folder of case files.
        every: number of steps between two batches that are stored regularly; 0 for none.
        release: release of Ultralytics.
        calls: number of calls of the official loss in training.
        over: reason why recording has stopped; None while recording continues.
    """

    shelf: CaseStore
    every: int
    release: str
    calls: int = 0
    over: str | None = None
    _losses: "weakref.WeakKeyDictionary[Any, tuple[int, BatchSelector]]" = field(
        default_factory=weakref.WeakKeyDictionary
    )
    _pending: deque[Pending] = field(default_factory=deque)
    _printed: set[str] = field(default_factory=set)
    _next_line: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN_LINES)
    _trainer: Any = None

    def hear(self, call: Call) -> None:
        """Process a call of the loss. Every exception is caught, so that recording cannot make a training fail."""
        if self.over is None:
            self._safely(lambda: self._hear(call))

    def close(self) -> None:
        """Wait until the values of all pending calls are known, and store the batches that are selected."""
        while self._pending and self.over is None:
            self._safely(lambda: self._decide(self._pending.popleft()))

    def _safely(self, step: Any) -> None:
        try:
            step()
        except Unfit as error:
            self._print_once(f"a batch was not recorded, because a case file cannot hold it: {error}")
        except Exception as error:  # no error of the recorder may end the training
            self.over = f"{type(error).__name__}: {error}"
            self._pending.clear()
            self._print_once(f"recording has stopped, and the training continues: {self.over}")

    def _hear(self, call: Call) -> None:
        if not call.trains:
            return
        if self.calls == 0:
            self._trainer = trainer_above(sys._getframe(1))
        self.calls += 1
        which = self._losses.setdefault(call.criterion, (len(self._losses), BatchSelector(self.every)))[0]
        numbers, ready = _numbers(call)
        epoch = getattr(self._trainer, "epoch", None)
        self._pending.append(Pending(call.detached(), which, epoch, numbers, ready))
        while self._pending and (len(self._pending) > BEHIND or _is_ready(self._pending[0])):
            self._decide(self._pending.popleft())
        self._show_progress()

    def _show_progress(self) -> None:
        """Print the number of captured calls and stored batches, at most once a minute."""
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + SECONDS_BETWEEN_LINES
            stored, size = len(self.shelf.cases), self.shelf.size / 1e6
            print_message(f"{self.calls} calls of the loss captured, {stored} batches stored ({size:.1f} MB)")

    def _decide(self, pending: Pending) -> None:
        """Store the batch of a pending call if there is a reason to (`BatchSelector.reasons`)."""
        if pending.ready is not None:
            pending.ready.synchronize()
        interest = self._losses[pending.call.criterion][1]
        total, smallest = pending.numbers.tolist()
        step = interest.step
        reasons = interest.reasons(BatchFacts(len(pending.call.boxes), smallest, total))
        if not reasons:
            return
        batch = pending.call.batch()
        origin = self._origin(pending, step, total, reasons)
        batch = replace(batch, origin=origin, hazards=hazards_of(batch))
        if not self.shelf.add(batch, step, {(pending.which, reason) for reason in reasons}):
            self._print_once(
                "a batch was not recorded: more interesting batches fill the size limit (--limit-mb)"
            )

    def _origin(self, pending: Pending, step: int, total: float, reasons: set[str]) -> str:
        """Return one line that says where and why a batch was recorded, for the batch's field `origin`."""
        where = [f"recorded: ultralytics {self.release}"]
        model = getattr(getattr(self._trainer, "args", None), "model", None)
        where += [Path(str(model)).name] if model else []
        where += (
            [f"loss {pending.which + 1}"] if pending.which else []
        )  # the second loss of an end-to-end head
        where += [f"step {step}"]
        where += [f"epoch {pending.epoch}"] if pending.epoch is not None else []
        return f"{', '.join(where)}: {', '.join(sorted(reasons))}, loss {total:.6g}"

    def _print_once(self, text: str) -> None:
        """Print a line, unless the same line was printed before."""
        if text not in self._printed:
            self._printed.add(text)
            print_message(text)


def print_message(text: str) -> None:
    """Print a message of the recorder on standard error."""
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed
        warn(f"conformance recorder: {text}")


def _numbers(call: Call) -> tuple[Tensor, "torch.cuda.Event | None"]:
    """Return a tensor (2,) of the loss's total and the smallest area of a ground truth, and a CUDA event.

    The tensor is copied to the CPU asynchronously, and is valid after the event. Without a GPU the event is None.
    """
    total, boxes = call.total.float(), call.boxes.detach().float()
    areas = boxes[:, 2] * boxes[:, 3] if len(boxes) else torch.full((1,), torch.inf)  # (N,)
    numbers = torch.stack((total, areas.min().to(total.device, non_blocking=True)))
    if not numbers.is_cuda:
        return numbers.cpu(), None
    arriving = numbers.to("cpu", non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return arriving, ready


def _is_ready(pending: Pending) -> bool:
    return pending.ready is None or pending.ready.query()


def trainer_above(frame: FrameType | None) -> Any:
    """Return the Ultralytics trainer on the call stack, recognised by attributes of all trainers, or None."""
    while frame is not None:
        one = frame.f_locals.get("self")
        if {"epoch", "epochs", "args", "train_loader"} <= getattr(one, "__dict__", {}).keys():
            return one
        frame = frame.f_back
    return None


@contextmanager
def recording(folder: Path | str, every: int = EVERY, limit_mb: float = LIMIT_MB) -> Iterator[Recording]:
    """Record the inputs of the official detection loss in this process as case files, while the block runs.

    The stored batches are the first batch, every n-th batch, the first batch without ground truths, and each batch with
    the most ground truths, the smallest ground truth or the largest loss so far. Stored files remain if the training
    fails.

    Args:
        folder: folder of the case files; it is created.
        every: number of steps between two batches that are stored regularly; 0 for none.
        limit_mb: size limit of all files in MB; the least interesting file is removed first.

    Raises:
        CannotRecord: `folder` holds recorded batches or cannot be created, a number is invalid, or Ultralytics is not
            installed.
    """
    folder = Path(folder)
    if every < 0:
        raise CannotRecord(f"expected a number of steps of at least 0, got every = {every}")
    if not 0 < limit_mb < float("inf"):
        raise CannotRecord(f"expected a finite size limit above 0 MB, got {limit_mb:g} MB")
    release = official_loss()[1]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob(f"*{SUFFIX}")):
            raise CannotRecord(f"{folder} already holds recorded batches: name another folder")
    except OSError as error:
        raise CannotRecord(f"cannot create the folder {folder} for recorded batches: {error}") from error
    recorded = Recording(CaseStore(folder, int(limit_mb * 1e6)), every, release)
    with listening(recorded.hear):
        try:
            yield recorded
        finally:
            recorded.close()
