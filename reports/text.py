"""How names, numbers and times are written, the same in the terminal and in the report."""

import math
import re
from datetime import datetime
from typing import Any

INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\uffff\ud800-\udfff]"
)
"""Control characters, marks that reorder or hide text, and halves of surrogate pairs (UTF-8 has none)."""


def visible(text: str) -> str:
    """The text with every character that steers a terminal or hides from a reader written as an escape."""
    return INVISIBLE.sub(lambda found: found.group().encode("unicode_escape", "surrogatepass").decode(), text)


def shortened(text: str, limit: int) -> str:
    """The text, with its middle left out if it has more than `limit` characters."""
    if len(text) <= limit:
        return text
    head, tail = limit * 2 // 3, limit // 3
    return f"{text[:head]} … ({len(text) - head - tail:,} characters left out) … {text[-tail:]}"


def capital(text: str) -> str:
    """The text as a sentence begins; the rest of it stays as it is."""
    return text[:1].upper() + text[1:]


def counted(number: int, noun: str, plural: str | None = None) -> str:
    """`1 batch`, `2,104 batches`."""
    if number != 1:
        noun = plural or noun + ("es" if noun.endswith(("s", "x", "ch", "sh")) else "s")
    return f"{number:,} {noun}"


def listed(words: list[str]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def real(value: Any) -> float | None:
    """A number of a log as a float; `inf` and `nan` stand there as strings. None if it is none."""
    if isinstance(value, bool) or (
        not isinstance(value, (int, float)) and value not in ("inf", "-inf", "nan")
    ):
        return None
    try:
        return float(value)
    except OverflowError:  # JSON's whole numbers have no end
        return math.inf if value > 0 else -math.inf


def short(value: Any, digits: int = 3) -> str:
    """A number in few digits: `0.412`, `1.2e-07`, `inf`; a dash where there is none."""
    number = real(value)
    return "–" if number is None else f"{number:.{digits}g}"


def seconds(value: Any) -> str:
    """A duration in the unit that suits it: `41 µs`, `3.2 ms`, `7.1 s`, `2 min 41 s`, `1 h 5 min`."""
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
    """A number of bytes: `1.2 MiB`."""
    number = real(value)
    if number is None or not math.isfinite(number):
        return short(value)
    for unit in ("B", "KiB", "MiB", "GiB"):
        if abs(number) < 1023.5 or unit == "GiB":
            break
        number /= 1024
    return f"{number:.3g} {unit}"


def moment(text: Any) -> datetime | None:
    """A time of a log; None if it is none."""
    try:
        when = datetime.fromisoformat(text) if isinstance(text, str) else None
    except ValueError:
        return None
    return when if when is not None and when.tzinfo is not None else None


def clock(text: str | None) -> str:
    """A time of a log for a reader: `2025-11-24 02:10:33 UTC`; as it stands if it is no time."""
    when = moment(text)
    return f"{when:%Y-%m-%d %H:%M:%S} {when.tzname()}" if when is not None else text or "unknown"
