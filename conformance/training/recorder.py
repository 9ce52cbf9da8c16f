"""Record selected inputs of the loss during a user's training as case files, without disturbing the training."""

import contextlib
import sys
import time
import weakref
from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from torch import Tensor

from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import Content
from tal_conformance.core.circumstances import Circumstances
from tal_conformance.core.task import DETECT
from tal_conformance.doctor.examine import examine
from tal_conformance.doctor.finding import worst_line
from tal_conformance.doctor.inputs import Inputs
from tal_conformance.doctor.rows import falls, outside_range
from tal_conformance.training.capture import CannotRecord, LossCall, Rows, Unfit, listening, official_loss
from tal_conformance.training.circumstances import finished, learning_rates, loss_scale, world
from tal_conformance.training.loop import LoopCall, LossName, Step, StepFacts, loop_call
from tal_conformance.training.selection import (
    ANOMALIES,
    BEFORE,
    FAILURES,
    IMAGES,
    LABELS,
    ORDER,
    OUTSIDE,
    RAISED,
    ROWS_NOT_FINITE,
    BatchFacts,
    BatchSelector,
)
from tal_conformance.training.store import SUFFIX, CaseStore
from tal_conformance.training.time_left import TimeLeft
from tal_reference import Head, Hyperparameters
from tal_text import warn

ROW_ANOMALIES = (LABELS, IMAGES, ROWS_NOT_FINITE, ORDER, OUTSIDE)
"""Anomalies of annotation rows, in the order of `Pending.numbers`."""
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
        known: circumstances that were known when the loss was called.
        scale: factor of the training's gradient scaler at the call, if it is known.
        numbers: (7,) float32 on the CPU: the loss's total, the smallest area of a ground truth, and for `ROW_ANOMALIES`
            1 where the rows have it.
        ready: CUDA event after which `numbers` are valid; None if they are valid already.
    """

    call: LossCall
    which: int
    known: Circumstances
    scale: Tensor | float | None
    numbers: Tensor
    ready: "torch.cuda.Event | None"


@dataclass
class Recording:
    """The recording of one training: what was captured and stored so far.

    A training loop of one's own calls the recording with the inputs of each step's loss.

    Attributes:
        shelf: the folder of case files.
        every: number of steps between two batches that are stored regularly; 0 for none.
        release: release of Ultralytics; "" without it.
        calls: number of captured calls of a loss in training.
        over: reason why recording has stopped; None while recording continues.
        lost: number of batches that were selected, but not stored: the size limit was reached, or a file cannot hold
            them.
        raised: type, message and place of the first exception that a loss raised; "" if none did.
        first_finding: worst finding on the first stored batch with an anomaly; "" without one.
    """

    shelf: CaseStore
    every: int
    release: str
    calls: int = 0
    over: str | None = None
    lost: int = 0
    raised: str = ""
    first_finding: str = ""
    _losses: "weakref.WeakKeyDictionary[Any, int]" = field(default_factory=weakref.WeakKeyDictionary)
    _selectors: list[BatchSelector] = field(default_factory=list)
    _pending: deque[Pending] = field(default_factory=deque)
    _before: dict[int, tuple[Pending, int]] = field(default_factory=dict)
    _printed: set[str] = field(default_factory=set)
    _next_line: float = field(default_factory=lambda: time.monotonic() + SECONDS_BETWEEN_LINES)
    _trainer: Any = None
    _time_left: TimeLeft = field(default_factory=TimeLeft)
    _names: dict[str, LossName] = field(default_factory=dict)
    _open: Step | None = None

    def __call__(
        self,
        feature_maps: Sequence[Tensor],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters = Hyperparameters(),
        *,
        total: Tensor | float | None = None,
        epoch: int | None = None,
        optimizer: Any = None,
        scaler: Any = None,
        loss: str = "",
        task: str = DETECT.name,
        extras: Mapping[str, Tensor] | None = None,
    ) -> Step:
        """Record the inputs of one call of a loss in a training loop; call it before the loss.

        An exception that leaves the `with` block of the returned step, or that of the recording before the next call,
        is stored with the batch.

        Args:
            feature_maps: feature maps (B, 4R + C, H, W) of every level, as the loss receives them (PRE-1).
            annotations: annotation rows (N, 6) of image, class, cx, cy, w, h (ANN-1).
            head: strides, classes and bins.
            hyperparameters: hyperparameters of assigner and loss.
            total: the value that is differentiated, if the loss was called already; else set `total` of the returned
                step.
            epoch: epoch of the training.
            optimizer: optimizer, for its learning rates.
            scaler: gradient scaler of automatic mixed precision.
            loss: name of the loss, if a training has several.
            task: name of the loss family.
            extras: further tensors of the task.
        """
        self.finish(None)
        name = self._names.setdefault(loss, LossName())
        call = loop_call(name, feature_maps, annotations, head, hyperparameters, task, extras)
        self._open = Step(self.finish, call, StepFacts(epoch, optimizer, scaler), total)
        if self.over is None:
            self._safely(self._open.facts.read_rates)
        return self._open

    def finish(self, error: BaseException | None) -> None:
        """End the step that a training loop has begun, if there is one."""
        step, self._open = self._open, None
        if step is not None and self.over is None:
            self._safely(lambda: self._finish(step, error))

    def _finish(self, step: Step, error: BaseException | None) -> None:
        call = step.finished(error)
        if dtype := call.unknown_precision:
            self._print_once(
                f"predictions are {dtype}, and autocast was not enabled where a step begins, ends or sets its total: "
                f"batches are stored as inputs of a loss in {dtype} without autocast. If the loss is called under "
                "autocast, set step.total in the block of autocast, or call the recording there"
            )
        self._hear(call, step.facts)

    def hear(self, call: LossCall, facts: StepFacts | None = None) -> None:
        """Process a call of the loss. Every exception is caught, so that recording cannot make a training fail."""
        if self.over is None:
            self._safely(lambda: self._hear(call, facts))

    def close(self, error: BaseException | None = None) -> None:
        """Wait until the values of all pending calls are known, and store the batches that are selected.

        Args:
            error: exception that ended the training; None if it ended by itself.
        """
        self.finish(error)
        self._decide_all()
        self._before.clear()

    def _decide_all(self) -> None:
        while self._pending and self.over is None:
            self._safely(lambda: self._decide(self._pending.popleft()))

    def _safely(self, step: Callable[[], None]) -> None:
        try:
            step()
        except Unfit as error:
            self.lost += 1
            self._print_once(f"a batch was not recorded, because a case file cannot hold it: {error}")
        except Exception as error:  # no error of the recorder may end the training
            self.over = f"{type(error).__name__}: {error}"
            self._pending.clear()
            self._before.clear()
            self._print_once(f"recording has stopped, and the training continues: {self.over}")

    def _hear(self, call: LossCall, facts: StepFacts | None) -> None:
        if not call.trains and call.error is None:
            return
        self.calls += 1
        which = self._loss(call, facts)
        trainer = self._trainer if facts is None else facts
        numbers, ready = _numbers(call)
        known = self._known(trainer)
        scale = loss_scale(getattr(trainer, "scaler", None))
        self._pending.append(Pending(call.detached(), which, known, scale, numbers, ready))
        if call.error is not None:
            self._decide_all()  # before the exception passes on
        while self._pending and (len(self._pending) > BEHIND or _is_ready(self._pending[0])):
            self._decide(self._pending.popleft())
        self._show_progress()

    def _loss(self, call: LossCall, facts: StepFacts | None) -> int:
        """Return the index of the loss of a call; for a new loss, find its trainer."""
        if call.criterion not in self._losses:
            if facts is None:
                self._trainer = trainer_above(sys._getframe(1))
                self._time_left = TimeLeft()
            resumed = bool(getattr(self._trainer, "start_epoch", 0))
            self._losses[call.criterion] = len(self._selectors)
            self._selectors.append(BatchSelector(self.every, resumed))
        return self._losses[call.criterion]

    def _known(self, trainer: Any) -> Circumstances:
        """Return the circumstances that are known when the loss is called.

        Args:
            trainer: Ultralytics' trainer, or the facts of a training loop; None if neither is known.
        """
        rank, world_size = world()
        amp = getattr(trainer, "amp", None)
        return Circumstances(
            epoch=getattr(trainer, "epoch", None),
            learning_rates=trainer.rates
            if isinstance(trainer, StepFacts)
            else learning_rates(getattr(trainer, "optimizer", None)),
            amp=None if amp is None else bool(amp),
            world_size=world_size,
            rank=rank,
            source=f"ultralytics {self.release}"
            if self.release and not isinstance(trainer, StepFacts)
            else "",
        )

    def _show_progress(self) -> None:
        """Print the number of captured calls and stored batches, and the time left, at most once a minute."""
        now = time.monotonic()
        if now >= self._next_line:
            self._next_line = now + SECONDS_BETWEEN_LINES
            stored, size = len(self.shelf.cases), self.shelf.size / 1e6
            left = self._time_left.text(self._trainer, self.calls, len(self._selectors))
            print_message(
                f"{self.calls} calls of the loss captured, {stored} batches stored ({size:.1f} MB){left}"
            )

    def _decide(self, pending: Pending) -> None:
        """Store the batch of a pending call if there is a reason to (`BatchSelector.reasons`), then the one before.

        Either is stored even if a case file cannot hold the other.
        """
        if pending.ready is not None:
            pending.ready.synchronize()
        selector = self._selectors[pending.which]
        step = selector.step
        reasons = selector.reasons(_facts(pending))
        before = self._before.pop(pending.which, None)
        if not reasons:
            self._before[pending.which] = pending, step
            return
        self._safely(lambda: self._store(pending, step, reasons))
        if before is not None and reasons & set(FAILURES) and self.over is None:
            self._safely(lambda: self._store(*before, {BEFORE}))

    def _store(self, pending: Pending, step: int, reasons: set[str]) -> None:
        """Store the batch of a call, unless more interesting batches fill the size limit."""
        content = pending.call.content()
        circumstances = replace(
            pending.known,
            step=step,
            reasons=tuple(sorted(reasons)),
            loss=None if pending.call.total is None else float(pending.numbers[0]),
            loss_scale=None if pending.scale is None else float(pending.scale),
            **finished(pending.known, pending.call),
        )
        content = content._replace(origin=self._origin(pending, circumstances))
        with contextlib.suppress(ValueError):  # inputs that are not a valid batch have no hazards
            content = content._replace(hazards=hazards_of(Batch(*content)))
        stored = self.shelf.add(content, step, {(pending.which, reason) for reason in reasons}, circumstances)
        if not stored:
            self.lost += 1
            self._print_once(
                "a batch was not recorded: more interesting batches fill the size limit (--limit-mb)"
            )
        if reasons & set(ANOMALIES):
            self._print_anomaly(content, circumstances, reasons)

    def _print_anomaly(self, content: Content, circumstances: Circumstances, reasons: set[str]) -> None:
        """Print the first batch with an anomaly, and what is wrong with its inputs."""
        if circumstances.exception and not self.raised:
            self.raised = f"{circumstances.exception} at {circumstances.raised_at}"
        finding = worst_line(examine(Inputs(content, circumstances=circumstances)))
        self.first_finding = self.first_finding or finding
        for reason in sorted(reasons & set(ANOMALIES)):
            if reason not in self._printed:
                self._printed.add(reason)
                what = circumstances.raised if reason == RAISED else reason
                print_message(f"step {circumstances.step}: {what}{f'; {finding}' if finding else ''}")

    def _origin(self, pending: Pending, circumstances: Circumstances) -> str:
        """Return one line that says where and why a batch was recorded, for the batch's field `origin`."""
        where = [f"recorded: {circumstances.source or 'training loop'}"]
        model = getattr(getattr(self._trainer, "args", None), "model", None)
        where += [Path(str(model)).name] if model else []
        # the second loss of an end-to-end head
        where += [f"loss {pending.which + 1}"] if pending.which else []
        where += [f"step {circumstances.step}"]
        where += [f"epoch {circumstances.epoch}"] if circumstances.epoch is not None else []
        unknown = isinstance(pending.call, LoopCall) and pending.call.unknown_precision
        where += ["autocast not seen"] if unknown else []
        loss = f", loss {circumstances.loss:.6g}" if circumstances.loss is not None else ""
        raised = f", {circumstances.exception}" if circumstances.exception else ""
        return f"{', '.join(where)}: {', '.join(circumstances.reasons)}{loss}{raised}"

    def counts(self) -> Counter[str]:
        """Return the number of batches with each anomaly, stored or not."""
        return sum((selector.counts for selector in self._selectors), Counter[str]())

    def first_step(self, anomaly: str) -> int:
        """Return the step of the first batch with an anomaly that occurred."""
        return min(
            selector.first_steps[anomaly] for selector in self._selectors if anomaly in selector.first_steps
        )

    def _print_once(self, text: str) -> None:
        """Print a line, unless the same line was printed before."""
        if text not in self._printed:
            self._printed.add(text)
            print_message(text)


def print_message(text: str) -> None:
    """Print a message of the recorder on standard error."""
    with contextlib.suppress(OSError, ValueError):  # standard error may be closed
        warn(f"conformance recorder: {text}")


def _numbers(call: LossCall) -> tuple[Tensor, "torch.cuda.Event | None"]:
    """Return a tensor (7,) of the numbers that decide whether a batch is stored, and a CUDA event.

    The numbers are those of `Pending.numbers`; an unknown total is 0. The tensor is copied to the CPU asynchronously,
    and is valid after the event. Without a GPU the event is None.
    """
    facts = _row_facts(call.columns, *call.images_and_classes)  # (6,)
    total = torch.zeros((), device=facts.device) if call.total is None else call.total.float()
    numbers = torch.cat((total.reshape(1), facts.to(total.device, non_blocking=True)))  # (7,)
    if not numbers.is_cuda:
        return numbers.cpu(), None
    arriving = numbers.to("cpu", non_blocking=True)
    ready = torch.cuda.Event()
    ready.record()
    return arriving, ready


def _row_facts(rows: Rows, images: int, classes: int) -> Tensor:
    """Return a tensor (6,) float32: the smallest area, and 1 where rows have each of `ROW_ANOMALIES`, else 0."""
    boxes = rows.boxes.float()  # (N, 4 or more)
    if not len(boxes):
        return torch.tensor([torch.inf, *(0.0 for _ in ROW_ANOMALIES)], device=boxes.device)
    not_finite = [(~column.isfinite()).any() for column in rows]
    coordinates = boxes[:, :4]
    return torch.stack((
        coordinates[:, 2:].prod(1).min(),
        outside_range(rows.labels, classes).any().float(),
        outside_range(rows.images, images).any().float(),
        torch.stack(not_finite).any().float(),
        falls(rows.images).any().float(),
        ((coordinates < 0) | (coordinates > 1)).any().float(),
    ))  # fmt: skip


def _facts(pending: Pending) -> BatchFacts:
    """Return the facts by which the batch of a pending call is selected."""
    total, smallest, *flags = pending.numbers.tolist()
    anomalies = {anomaly for anomaly, flag in zip(ROW_ANOMALIES, flags, strict=True) if flag}
    anomalies |= {RAISED} if pending.call.error is not None else set()
    known = None if pending.call.total is None else total
    return BatchFacts(len(pending.call.columns.boxes), smallest, known, frozenset(anomalies))


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
    """Record the inputs of a detection loss in this process as case files, while the block runs.

    Calls of the official loss are captured without further code. A training loop with another loss calls the recording
    that the block receives, with the inputs of each step: `rec(feature_maps, annotations, head)`.

    The stored batches are the first batch, every n-th batch, the first batch without ground truths, each batch with the
    most ground truths, the smallest ground truth or the largest loss so far, and batches on which something is wrong:
    the loss raised or is not finite (and the batch before), a label is outside the head, an image index is outside the
    batch, rows are not finite or out of order, or coordinates lie outside [0, 1]. Stored files remain if the training
    fails.

    In a distributed training each process records into a folder `rank-N` of its own.

    Args:
        folder: folder of the case files; it is created.
        every: number of steps between two batches that are stored regularly; 0 for none.
        limit_mb: size limit of all files in MB; the least interesting file is removed first.

    Raises:
        CannotRecord: `folder` holds recorded batches or cannot be created, or a number is invalid.
    """
    rank, world_size = world()
    folder = Path(folder) / f"rank-{rank}" if world_size > 1 else Path(folder)
    if every < 0:
        raise CannotRecord(f"expected a number of steps of at least 0, got every = {every}")
    if not 0 < limit_mb < float("inf"):
        raise CannotRecord(f"expected a finite size limit above 0 MB, got {limit_mb:g} MB")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.glob(f"*{SUFFIX}")):
            raise CannotRecord(f"{folder} already holds recorded batches: name another folder")
    except OSError as error:
        raise CannotRecord(f"cannot create the folder {folder} for recorded batches: {error}") from error
    release = installed_release()
    recorded = Recording(CaseStore(folder, int(limit_mb * 1e6)), every, release)
    with listening(recorded.hear) if release else contextlib.nullcontext():
        try:
            yield recorded
        except BaseException as error:
            recorded.close(error)
            raise
        recorded.close()


def installed_release() -> str:
    """Return the release of Ultralytics whose loss can be captured, or "" if there is none."""
    try:
        return official_loss()[1]
    except CannotRecord:
        return ""
