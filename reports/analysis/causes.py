"""Group divergences by cause, so that a fault found by many tests and on many devices is reported once."""

import hashlib
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.log.batches import VERDICTS, Batches

PLURAL = re.compile(r"(?<=# )(\w+?)s\b")
"""Matches a plural noun after a number (`#`), so that `# anchors` and `# anchor` count as one cause."""
CLEAR = 10.0
"""Errors of at least so many bounds are preferred as examples: no wrong factor in a bound explains them."""
NUMBER = re.compile(r"[-+]?(?:0x[0-9a-f]+|\d+(?:\.\d+)?(?:e[-+]?\d+)?|\binf\b|\bnan\b)", re.IGNORECASE)


@dataclass(frozen=True)
class Cause:
    """Failures (or declared differences) of one implementation that have the same cause, and are reported as one.

    Attributes:
        lines: the `divergence` or `difference` lines of the log; the clearest, smallest example comes first.
        batches: number of judged batches that failed for this cause; None if unknown.
        choice: the choice of a dialect that explains the failures, in words; "" if no choice does.
        follows: causes at other stages, or with another summary, that follow from this cause; `lines` includes their
            lines.
    """

    lines: tuple[dict[str, Any], ...]
    batches: int | None = None
    choice: str = ""
    follows: tuple["Cause", ...] = ()

    @property
    def example(self) -> dict[str, Any]:
        """The log line with the smallest batch; lines with a clear error (`is_clear`) have priority."""
        return self.lines[0]

    @property
    def verdict(self) -> str:
        """Verdict of the failures: `divergent`, `nondeterministic` or `error`; `declared` for a difference."""
        return str(self.example.get("verdict", "declared"))

    @property
    def id(self) -> str:
        """Ten hexadecimal digits, equal for the same cause in different runs."""
        key = (self.example["implementation"], "choice", self.choice) if self.choice else key_of(self.example)
        return hashlib.sha256("\0".join(key).encode(errors="backslashreplace")).hexdigest()[:10]

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
        groups.setdefault(key_of(line), []).append(line)
    found = [
        Cause(tuple(sorted(group, key=example_rank)), failed_batches(group[0], batches))
        for group in groups.values()
    ]
    alike = [place_of(cause.example) for cause in found]
    # If two causes share stage and clause, the log does not say for which cause a batch failed.
    found = [cause if alike.count(place_of(cause.example)) == 1 else Cause(cause.lines) for cause in found]
    return worst_first(found, stages)


def worst_first(found: Sequence[Cause], stages: Sequence[str]) -> list[Cause]:
    """Return causes sorted: the implementation with the worst verdict first, then by verdict and stage."""
    worst: dict[str, int] = {}
    for cause in found:
        name = cause.example["implementation"]
        worst[name] = min(worst.get(name, 0), severity(cause, stages)[0])
    ranks = {name: rank for rank, name in enumerate(sorted(worst, key=lambda name: worst[name]))}
    return sorted(found, key=lambda cause: (ranks[cause.example["implementation"]], *severity(cause, stages)))


def key_of(line: dict[str, Any]) -> tuple[str, ...]:
    """Return the key by which failures are grouped: `place_of`, and the summary without its numbers."""
    cause = line.get("cause") or PLURAL.sub(r"\1", NUMBER.sub("#", line["summary"]))
    identity = [line.get(name) or "" for name in ("implementation", "verdict", "against", "stage", "clause")]
    return (*identity, cause)


def place_of(line: dict[str, Any]) -> tuple[Any, ...]:
    """Return implementation, verdict, stage and clause of a failure, by which failing batches are counted."""
    return line["implementation"], line.get("verdict", "declared"), line.get("stage"), line.get("clause")


def failed_batches(line: dict[str, Any], batches: Batches | None) -> int | None:
    """Return the number of batches that failed with the line's `place_of`; None if the number is unknown."""
    return None if batches is None or "verdict" not in line else batches.causes.get(place_of(line))


def example_rank(line: dict[str, Any]) -> tuple[bool, int, int]:
    """Return a sort key for log lines: clear errors before errors close to their bound, then smaller batches first."""
    picture = line.get("picture")
    anchors = sum(level["rows"] * level["columns"] for level in picture["levels"]) if picture else 10**6
    size = anchors + 10 * len(picture["truths"] if picture else ())
    return not is_clear(line), size, len(line.get("description") or "")


def is_clear(line: dict[str, Any]) -> bool:
    """Return True if the first differing value has no bound, or an error of at least `CLEAR` times its bound."""
    value = next(iter(line.get("values") or ()), None)
    share = None if value is None else share_of_bound(value)
    return share is None or share >= CLEAR


def share_of_bound(value: dict[str, Any]) -> float | None:
    """Return the error divided by its bound; None unless both values and the bound are finite numbers."""
    try:
        reference, observed, bound = (float(value[key]) for key in ("reference", "implementation", "bound"))
    except (KeyError, TypeError, ValueError):
        return None
    share = abs(observed - reference) / bound if bound > 0 else math.nan
    return None if math.isnan(share) else share


def severity(cause: Cause, stages: Sequence[str]) -> tuple[int, int, int]:
    """Return a sort key: the worst verdict first, then the earliest stage, then the most batches."""
    worst_first = -VERDICTS.index(cause.verdict) if cause.verdict in VERDICTS else 0
    stage = cause.example.get("stage")
    place = stages.index(stage) if stage in stages else len(stages) if stage else -1
    return worst_first, place, -(cause.batches or 0)
