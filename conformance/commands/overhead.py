"""`tal-conformance overhead`: measure how much `record` slows down a training step, as a ratio of processor times.

Steps of a YOLOv8n's training (forward, official loss, backward) are timed alternately with and without the
recorder. Batch and weights stay the same, so that no batch is stored in a timed step. The loss alone is timed
too, because the recorder slows it down most.

Measured on one core of a shared machine, torch 2.14.1, ultralytics 8.4.190, images of 192x256, 40 rounds, twice: a step
of 0.22 s takes 1.007 (0.997 to 1.014) and 0.995 (0.990 to 1.006) times as long with the recorder; the loss alone, which
takes 5 ms, takes 1.05 (1.02 to 1.08) and 1.04 (1.02 to 1.08) times as long.
"""

import argparse
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from statistics import median

import torch

from tal_conformance.benchmarks.intervals import Ratio, paired_ratio
from tal_conformance.commands.arguments import OVERHEAD_ROUNDS
from tal_conformance.commands.program import CommandError
from tal_conformance.commands.results import set_result
from tal_conformance.core.progress import Advance, no_progress, progress
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.training.capture import CannotRecord, listening
from tal_conformance.training.recorder import recording
from tal_conformance.training.yolov8n import Schedule, build_model, official_criterion, one_thread
from tal_text import say

LIMIT = 1.05
"""Largest allowed ratio of a training step with the recorder to one without."""


def run(options: argparse.Namespace) -> int:
    """Print the measured overhead; return 0, or 1 if a training step takes longer than `LIMIT` allows.

    Raises:
        CommandError: the overhead cannot be measured.
    """
    return overhead(options.rounds)


def compared(step: Callable[[], object], rounds: int, advance: Advance = no_progress) -> tuple[Ratio, float]:
    """Return the ratio of a step's processor times with and without the recorder, and the seconds without recorder.

    Args:
        step: function that calls the official loss once, as in a training, each time on the same batch.
        rounds: number of timed steps with, and without, the recorder.
        advance: progress display, called after each round.

    Raises:
        RuntimeError: a batch was stored in a timed step, or the recorder stopped.
    """
    with tempfile.TemporaryDirectory() as folder:
        with recording(Path(folder), every=0) as recorded:
            step()
        kept = len(recorded.shelf.cases)
        times: dict[bool, list[float]] = {True: [], False: []}
        for round_ in range(rounds):
            for listens in (True, False) if round_ % 2 else (False, True):
                times[listens].append(_seconds(step, listening(recorded.hear) if listens else nullcontext()))
            advance()
        if recorded.calls != rounds + 1 or len(recorded.shelf.cases) != kept or recorded.over:
            raise RuntimeError(
                f"the recorder captured {recorded.calls} calls, stored {len(recorded.shelf.cases) - kept} batches in "
                f"timed steps and stopped because of {recorded.over!r}; expected {rounds + 1} calls, 0 batches and None"
            )
    return paired_ratio(times[True], times[False]), median(times[False])


def _seconds(step: Callable[[], object], around: AbstractContextManager[None]) -> float:
    with around:
        began = time.process_time()  # time of this process only; on a CPU the recorder never waits
        step()
        return time.process_time() - began


def steps() -> dict[str, Callable[[], object]]:
    """Return the functions to time, by name: a whole training step, and the loss alone.

    Raises:
        UnknownImplementation: ultralytics is not installed, cannot be imported, or its photographs differ from the
            labelled ones.
    """
    model, images = build_model(), Schedule().images(0)
    criterion, rows = official_criterion(model), images.annotations
    batch = {"batch_idx": rows[:, 0], "cls": rows[:, 1], "bboxes": rows[:, 2:]}
    predictions = model(images.pixels)

    def whole() -> None:
        model.zero_grad()
        criterion(model(images.pixels), batch)[0].sum().backward()

    def loss() -> torch.Tensor:
        total: torch.Tensor = criterion(predictions, batch)[0]
        return total

    return {"training step": whole, "loss alone": loss}


@one_thread()
def overhead(rounds: int = OVERHEAD_ROUNDS) -> int:
    """Measure the overhead of the recorder and print it.

    Returns:
        0, or 1 if a training step takes longer than `LIMIT` allows.

    Raises:
        CommandError: the overhead cannot be measured.
    """
    if rounds < 2:
        raise CommandError(f"--rounds {rounds}: expected at least 2, for a confidence interval of the ratio")
    try:
        timed = steps()
        with progress("Timing steps", len(timed) * rounds) as advance:
            ratios = {name: compared(step, rounds, advance) for name, step in timed.items()}
    except (UnknownImplementation, CannotRecord) as error:
        raise CommandError(str(error)) from error
    for name, (ratio, seconds) in ratios.items():
        interval = f"({ratio.low:.4f} to {ratio.high:.4f})"
        say(f"{name}: {seconds * 1000:.1f} ms; with the recorder {ratio.at:.4f} times as long {interval}")
    exceeded = ratios["training step"][0].at > LIMIT
    set_result(
        limit=LIMIT,
        exceeded=exceeded,
        timings={name: {"seconds": seconds, **ratio._asdict()} for name, (ratio, seconds) in ratios.items()},
    )
    comparison = "MORE" if exceeded else "no more"
    say(f"with the recorder, a training step takes {comparison} than {LIMIT} times as long")
    return int(exceeded)
