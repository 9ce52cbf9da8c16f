"""Group divergences by cause, so that a fault found by many tests and on many devices is reported once."""

import hashlib
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.log.batches import VERDICTS, Batches

PLURAL = re.compile(r"(?<=# )(\w+?)s\b")
"""Matches a plural noun after a number (`#`), so that `# anchors` and `# anchor` count as one cause."""
NUMBER = re.compile(r"[-+]?(?:0x[0-9a-f]+|\d+(?:\.\d+)?(?:e[-+]?\d+)?|\binf\b|\bnan\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Cause:
    """Failures (or declared differences) of one implementation that have the same cause, and are reported as one.

    Attributes:
        lines: the `divergence` or `difference` lines of the log, the one with the smallest batch first.
        batches: number of judged batches that failed for this cause; None if unknown.
    """

    lines: tuple[dict[str, Any], ...]
    batches: int | None = None

    @property
    def example(self) -> dict[str, Any]:
        """The log line of the failure with the smallest batch."""
        return self.lines[0]

    @property
    def verdict(self) -> str:
        """Verdict of the failures: `divergent`, `nondeterministic` or `error`; `declared` for a difference."""
        return str(self.example.get("verdict", "declared"))

    @property
    def id(self) -> str:
        """Ten hexadecimal digits, equal for the same cause in different runs."""
        return hashlib.sha256("\0".join(_key(self.example)).encode(errors="backslashreplace")).hexdigest()[
            :10
        ]

    def every(self, field: str) -> list[str]:
        """Return the distinct values of a field of the log lines, in the order of the lines."""
        return list(dict.fromkeys(line[field] for line in self.lines if isinstance(line.get(field), str)))


def causes(
    lines: Iterable[dict[str, Any]], stages: Sequence[str], batches: Batches | None = None
) -> list[Cause]:
    """Group divergences, or declared differences, by cause.

    The implementation with the worst verdict comes first. The causes of one implementation are ordered by verdict, the
    worst first, and then by stage.

    Args:
        lines: `divergence` or `difference` lines.
        stages: names of the stages in the same log, in the order in which they are computed.
        batches: counts over the same log, from which the number of failing batches is taken; None: unknown.
    """
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for line in lines:
        groups.setdefault(_key(line), []).append(line)
    found = [Cause(tuple(sorted(group, key=_bulk)), _failed(group[0], batches)) for group in groups.values()]
    alike = [_place(cause) for cause in found]
    # If two causes share stage and clause, the log does not say for which of them a batch failed.
    found = [cause if alike.count(_place(cause)) == 1 else Cause(cause.lines) for cause in found]
    worst: dict[str, int] = {}
    for cause in found:
        name = cause.example["implementation"]
        worst[name] = min(worst.get(name, 0), _severity(cause, stages)[0])
    ranks = {name: rank for rank, name in enumerate(sorted(worst, key=lambda name: worst[name]))}
    return sorted(
        found, key=lambda cause: (ranks[cause.example["implementation"]], *_severity(cause, stages))
    )


def _key(line: dict[str, Any]) -> tuple[str, ...]:
    cause = line.get("cause") or PLURAL.sub(r"\1", NUMBER.sub("#", line["summary"]))
    identity = [line.get(name) or "" for name in ("implementation", "verdict", "against", "stage", "clause")]
    return (*identity, cause)


def _place(cause: Cause) -> tuple[Any, ...]:
    return (
        cause.example["implementation"],
        cause.verdict,
        cause.example.get("stage"),
        cause.example.get("clause"),
    )


def _failed(line: dict[str, Any], batches: Batches | None) -> int | None:
    if batches is None or "verdict" not in line:
        return None
    place = (line["implementation"], line["verdict"], line.get("stage"), line.get("clause"))
    return batches.causes.get(place)


def _bulk(line: dict[str, Any]) -> tuple[int, int]:
    """Return a sort key for log lines by which the line with the smallest batch comes first."""
    picture = line.get("picture")
    anchors = sum(level["rows"] * level["columns"] for level in picture["levels"]) if picture else 10**6
    return anchors + 10 * len(picture["truths"] if picture else ()), len(line.get("description") or "")


def _severity(cause: Cause, stages: Sequence[str]) -> tuple[int, int, int]:
    worst_first = -VERDICTS.index(cause.verdict) if cause.verdict in VERDICTS else 0
    stage = cause.example.get("stage")
    place = stages.index(stage) if stage in stages else len(stages) if stage else -1
    return worst_first, place, -(cause.batches or 0)
