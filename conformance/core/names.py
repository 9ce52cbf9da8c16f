"""Suggestions for mistyped names, and texts that are shortened."""

from collections.abc import Iterable
from difflib import get_close_matches


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return "; did you mean 'a' or 'b'?" with the known names most similar to `name`, or "" if none is similar."""
    spelling = {candidate.lower(): candidate for candidate in known}
    nearest = [repr(spelling[match]) for match in get_close_matches(name.lower(), spelling, n=3)]
    return f"; did you mean {' or '.join(nearest)}?" if nearest else ""


def unknown_name(kind: str, name: str, known: Iterable[str], plural: str = "") -> str:
    """Return the message about an unknown name: the name, the nearest known names and all known names.

    Args:
        kind: kind of the name in the singular, such as "dialect".
        name: the unknown name.
        known: all valid names.
        plural: plural of `kind`; "" if it only adds an s.
    """
    names = list(known)
    listed = f"Known {plural or f'{kind}s'}: {', '.join(names)}"
    return f"unknown {kind} {name!r}{suggestion(name, names) or '.'} {listed}"


LONGEST_MESSAGE, LONGEST_TRACEBACK = 2_000, 20_000
"""Maximum numbers of characters of the message and traceback of an implementation's exception."""


def cut(text: str, longest: int) -> str:
    """Return the text, without its middle if it has more than `longest` characters."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} [...] {text[-half:]}"
