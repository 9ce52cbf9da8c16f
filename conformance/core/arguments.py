"""Types of command line arguments, for argparse."""

import argparse
from collections.abc import Callable, Iterable

from tal_conformance.core.names import cut, unknown_name

LONGEST_QUOTE = 80
"""Largest number of characters of an argument that a message quotes."""


def positive(text: str) -> int:
    """Return the positive integer that a command line argument spells.

    Raises:
        ArgumentTypeError: the text is not an integer, or the integer is below 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {cut(text, LONGEST_QUOTE)!r}")
    return int(text)


def not_negative(text: str) -> float:
    """Return the number >= 0 that a command line argument spells.

    Raises:
        ArgumentTypeError: the text is not a number, or the number is negative, infinite or NaN.
    """
    try:
        number = float(text)
    except ValueError:
        number = -1.0
    if not 0 <= number < float("inf"):
        raise argparse.ArgumentTypeError(f"expected a number >= 0, got {cut(text, LONGEST_QUOTE)!r}")
    return number


def name_among(kind: str, known: Iterable[str], plural: str = "") -> Callable[[str], str]:
    """Return an argument type that accepts only known names; its error message suggests similar names.

    Args:
        kind: kind of the name in the singular, such as "profile".
        known: all valid names.
        plural: plural of `kind`; "" if it only adds an s.
    """
    names = tuple(known)

    def name(text: str) -> str:
        if text not in names:
            raise argparse.ArgumentTypeError(unknown_name(kind, text, names, plural))
        return text

    return name
