"""Circumstances of a recorded batch: where in a training its loss was called, and how the call ended."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

TRAINING, LOSS_OR_TRAINING = "training", "loss or training"
"""Values of `Circumstances.raised_by` for exceptions that the loss did not raise, or may not have raised."""


@dataclass(frozen=True)
class Circumstances:
    """Facts about one call of a loss in a training, and how the call ended. Unknown facts are None or empty.

    Attributes:
        step: number of the call among the calls of this loss, from 0.
        epoch: epoch of the training.
        learning_rates: learning rate of every parameter group of the optimizer.
        amp: True if the training uses automatic mixed precision.
        autocast: dtype of automatic mixed precision during the call, such as "float16"; "" without it.
        loss_scale: factor by which a gradient scaler multiplies the loss.
        world_size: number of processes of the training.
        rank: index of this process, from 0.
        source: what was recorded, such as "ultralytics 8.4.190".
        loss: value of the loss that is differentiated; NaN and the infinities are possible.
        reasons: reasons to store the batch.
        exception: type and message of the exception that the loss raised, or the training after it; "" if neither
            raised.
        raised_at: file, line and function in which it was raised.
        traceback: traceback of that exception.
        raised_by: part of the training that raised the exception: "" for the loss, "training" for a later part of the
            step (backward, optimizer, data loader), "loss or training" if that is unknown.
        dtypes: dtypes of the predictions before they were stored in one dtype; () if they had one dtype.
    """

    step: int | None = None
    epoch: int | None = None
    learning_rates: tuple[float, ...] = ()
    amp: bool | None = None
    autocast: str = ""
    loss_scale: float | None = None
    world_size: int = 1
    rank: int = 0
    source: str = ""
    loss: float | None = None
    reasons: tuple[str, ...] = ()
    exception: str = ""
    raised_at: str = ""
    traceback: str = ""
    dtypes: tuple[str, ...] = ()
    raised_by: str = ""

    def as_dict(self) -> dict[str, Any]:
        """Return the known facts as JSON values; numbers that JSON lacks are "nan", "inf" and "-inf"."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: _json_value(value) for name, value in values.items() if value not in (None, (), "")}

    @classmethod
    def from_dict(cls, values: object) -> "Circumstances":
        """Return circumstances from the JSON values of a case file; values of unexpected types are ignored."""
        found = values if isinstance(values, Mapping) else {}
        converted = {field.name: _converted(field.type, found.get(field.name)) for field in fields(cls)}
        return cls(**{name: value for name, value in converted.items() if value is not None})

    @property
    def raised(self) -> str:
        """A clause about the exception, such as "the loss raised ValueError: k at tal.py:9 in get"; "" without one."""
        if not self.exception:
            return ""
        where = f" at {self.raised_at}" if self.raised_at else ""
        if self.raised_by == TRAINING:
            return f"the training raised {self.exception}{where} after this call of the loss"
        if self.raised_by == LOSS_OR_TRAINING:
            return f"the loss, or the training after it, raised {self.exception}{where}"
        return f"the loss raised {self.exception}{where}"

    def words(self) -> str:
        """Return the circumstances as a phrase, such as "step 31, epoch 2, learning rate 0.01, loss nan"."""
        parts = [f"step {self.step}"] if self.step is not None else []
        parts += [f"epoch {self.epoch}"] if self.epoch is not None else []
        rates = sorted(set(self.learning_rates))
        if rates:
            parts.append(f"learning rate {rates[-1]:.3g}" if len(rates) == 1 else _range_words(rates))
        parts += [f"autocast {self.autocast}"] if self.autocast else []
        parts += [f"loss scale {self.loss_scale:g}"] if self.loss_scale is not None else []
        parts += [f"rank {self.rank} of {self.world_size}"] if self.world_size > 1 else []
        parts += [f"loss {self.loss:.6g}"] if self.loss is not None else []
        return ", ".join(parts)


def _range_words(rates: list[float]) -> str:
    return f"learning rates {rates[0]:.3g} to {rates[-1]:.3g}"


def _json_value(value: Any) -> Any:
    if isinstance(value, tuple):
        return [_json_value(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def _converted(kind: object, value: object) -> Any:
    """Return a JSON value as the type of a field, or None if the value has another type."""
    name = kind.__name__ if isinstance(kind, type) else str(kind)
    if name.startswith("tuple"):
        item = "float" if "float" in name else "str"
        items = [_converted(item, each) for each in value] if isinstance(value, list) else [None]
        return None if None in items else tuple(items)
    if name.startswith("float"):
        special = isinstance(value, str) and value in ("nan", "inf", "-inf")
        return float(value) if special or type(value) in (int, float) else None  # type: ignore[arg-type]  # checked
    expected = {"int": int, "bool": bool, "str": str}[name.partition(" ")[0]]
    return value if type(value) is expected else None
