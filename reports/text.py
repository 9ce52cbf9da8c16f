"""Format names, numbers and times for terminal and report."""

import math
from datetime import datetime
from typing import Any

from tal_text import visible

__all__ = [
    "capital", "clock", "counted", "listed", "moment", "real", "seconds", "short", "shortened", "size", "visible",
    "wrapped_rows",
]  # fmt: skip


def shortened(text: str, limit: int) -> str:
    """Return the text; if it has more than `limit` characters, a note replaces the middle part of the text."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]} … ({len(text) - head - tail:,} characters left out) … {text[-tail:]}"


def wrapped_rows(text: str, width: int) -> int:
    """Return the number of rows of a terminal with `width` columns that the lines of a text fill."""
    return sum(max(1, math.ceil(len(line) / width)) for line in text.splitlines())


def capital(text: str) -> str:
    """Return the text with its first letter in upper case."""
    return text[:1].upper() + text[1:]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """Return a number with its noun in singular or plural: `1 batch`, `2,104 batches`."""
    if number != 1:
        noun = plural or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{number:,} {noun}"


def listed(words: list[str]) -> str:
    """Join words: `a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def real(value: Any) -> float | None:
    """Return a log's number as a float, or None for other values; the strings `inf` and `nan` are numbers too."""
    if isinstance(value, bool) or (
        not isinstance(value, (int, float)) and value not in ("inf", "-inf", "nan")
    ):
        return None
    try:
        return float(value)
    except OverflowError:  # an integer of a JSON file can be too large for a float
        return math.inf if value > 0 else -math.inf


def short(value: Any, digits: int = 3) -> str:
    """Format a number with few digits: `0.412`, `1.2e-07`, `inf`; a dash for anything else."""
    number = real(value)
    return "–" if number is None else f"{number:.{digits}g}"


def seconds(value: Any) -> str:
    """Format a duration in seconds: `41 µs`, `3.2 ms`, `7.1 s`, `2 min 41 s`, `1 h 5 min`."""
    number = real(value)
    if number is None or not math.isfinite(number):
        return short(value)
    for unit, size in (("µs", 1e-6), ("ms", 1e-3), ("s", 1.0)):
        if abs(number) < 999.5 * size and (unit != "s" or abs(number) < 99.5):
            return f"{number / size:.3g} {unit}"
    minutes, rest = divmod(round(number), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"


def size(value: Any) -> str:
    """Format a number of bytes: `1.2 MiB`."""
    number = real(value)
    if number is None or not math.isfinite(number):
        return short(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1023.5 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.3g} {unit}"


def moment(text: Any) -> datetime | None:
    """Parse a time of a log; None if it is not a time with a zone."""
    try:
        when = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return when if when is not None and when.tzinfo is not None else None


def clock(text: str | None) -> str:
    """Format a time of a log: `2025-11-24 02:10:33 UTC`; other text is returned unchanged."""
    when = moment(text)
    return f"{when:%Y-%m-%d %H:%M:%S} {when.tzname()}" if when is not None else text or "unknown"
