"""Callbacks of Ultralytics' trainer that record its training, also in the processes of a distributed training."""

import atexit
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from tal_conformance.training.recorder import EVERY, LIMIT_MB, Recording, recording
from tal_conformance.training.summary import print_summary


def recording_callbacks(
    folder: Path | str, every: int = EVERY, limit_mb: float = LIMIT_MB
) -> dict[str, Callable[[Any], None]]:
    """Return the callbacks of Ultralytics' trainer that record its training, by event.

    Pass each to `add_callback(event, callback)` of a model or a trainer. In a distributed training, only callbacks that
    the trainer's class adds reach the processes; each records into a folder `rank-N` of its own.

    Args:
        folder: folder of the case files; it is created when the training starts.
        every: number of steps between two batches that are stored regularly; 0 for none.
        limit_mb: size limit of all files in MB; the least interesting file is removed first.
    """
    callbacks = _Callbacks(Path(folder), every, limit_mb)
    return {"on_train_start": callbacks.start, "on_train_end": callbacks.end, "teardown": callbacks.end}


class _Callbacks:
    """The callbacks of one training, with the recording while it runs."""

    def __init__(self, folder: Path, every: int, limit_mb: float) -> None:
        self._arguments = folder, every, limit_mb
        self._stack = ExitStack()
        self._recorded: Recording | None = None

    def start(self, trainer: Any) -> None:
        """Start recording when a training starts.

        Raises:
            CannotRecord: the folder holds recorded batches or cannot be created, or a number is invalid.
        """
        self.end(trainer)
        self._recorded = self._stack.enter_context(recording(*self._arguments))
        atexit.register(self.end, trainer)  # a training that fails ends without an event

    def end(self, trainer: Any) -> None:
        """Stop recording when a training ends, and print the summary."""
        recorded, self._recorded = self._recorded, None
        if recorded is not None:
            self._stack.close()
            atexit.unregister(self.end)
            print_summary(recorded)
