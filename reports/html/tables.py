"""Tables of text, and the order and wording that several sections of the report share."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Table:
    """A table of text.

    Attributes:
        columns: headings.
        rows: cells, row by row.
        numeric: index of the first column of numbers; all later columns contain numbers too.
    """

    columns: list[str]
    rows: list[list[str]]
    numeric: int = 1


def word(verdict: str) -> str:
    """Return a verdict in readable form, such as "within bound" for `within_bound`."""
    return verdict.replace("_", " ")


def place_in(names: Iterable[str]) -> Callable[[str], int]:
    """Return a sort key function: the given names come first, in the given order, and all other names after them."""
    places = {name: place for place, name in enumerate(names)}
    return lambda name: places.get(name, len(places))
