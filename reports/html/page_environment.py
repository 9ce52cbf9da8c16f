"""The environment of a run: versions, machine, speed of judging, and the command."""

import json
import shlex
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from tal_reports.log.batches import Batches
from tal_reports.log.reader import Log
from tal_reports.text import shortened, visible


@dataclass(frozen=True)
class Environment:
    """Facts of a run's environment by name, and its command line."""

    values: list[tuple[str, str]]
    command: str


def environment_of(log: Log) -> Environment:
    """Return the data of the section about the environment of a run."""
    return Environment([*_flat(log.run["environment"]), *_paces(log.batches)], shlex.join(log.run["command"]))


def _flat(environment: dict[str, Any], prefix: str = "") -> Iterable[tuple[str, str]]:
    for key, value in environment.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else "none" if value is None else json.dumps(value)
            yield f"{prefix}{key}", shortened(text, 600)


def _paces(batches: Batches) -> Iterable[tuple[str, str]]:
    """Yield pairs of a label and the speed of judging, for each implementation."""
    for name, cost in batches.costs.items():
        if cost.per_second is not None and cost.times_the_call is not None:
            speed = f"{cost.per_second:.3g} batches per second and core"
            factor = f"{cost.times_the_call:.3g} times the time of its own calls"
            yield f"judging {visible(shortened(name, 60))}", f"{speed}; {factor}"
