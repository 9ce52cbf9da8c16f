"""Time left of a recorded training, from the epochs of Ultralytics' trainer and the time of the steps so far."""

import time
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any


@dataclass
class TimeLeft:
    """Estimate of the time until a training ends.

    Attributes:
        began: time of the first call of the loss, from `time.monotonic`.
    """

    began: float = field(default_factory=time.monotonic)

    def text(self, trainer: Any, calls: int, losses: int) -> str:
        """Return the epoch and the time left, such as ", epoch 3 of 100, at most 1:20:00 left"; "" if unknown.

        "At most", because a trainer may stop early.

        Args:
            trainer: Ultralytics' trainer, or None in a training loop of the user's own, whose length is unknown.
            calls: number of calls of the loss so far.
            losses: number of loss objects that are called in every step.
        """
        try:
            epochs, first = int(trainer.epochs), int(getattr(trainer, "start_epoch", 0) or 0)
            epoch, steps_per_epoch = int(trainer.epoch), len(trainer.train_loader)
        except (AttributeError, TypeError, ValueError):
            return ""
        total, done = (epochs - first) * steps_per_epoch, calls / max(losses, 1)
        if not 0 < done <= total:
            return ""
        seconds = (time.monotonic() - self.began) / done * (total - done)
        return f", epoch {epoch + 1} of {epochs}, at most {timedelta(seconds=round(seconds))} left"
