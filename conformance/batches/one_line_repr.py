"""A one-line repr: the shortest Python expression that evaluates to an equal object."""

import dataclasses
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Printer(Protocol):
    """Interface of the pretty printers of Hypothesis and IPython, as far as it is used here."""

    def text(self, text: str) -> object:
        """Print a text without line breaks."""


class OneLineRepr:
    """Base class of dataclasses (`repr=False`) whose repr is the shortest call that makes an equal object.

    Arguments with default values are left out. Without `_repr_pretty_` Hypothesis would print the fields of a failing
    example over many lines.
    """

    unnamed: ClassVar[int] = 0
    """Number of leading fields that are always written, without their names."""

    def __repr__(self) -> str:
        return to_source(self, self.unnamed)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(repr(self))


def to_source(value: Any, unnamed: int = 0) -> str:
    """Return the Python source of a value; for a dataclass, the shortest call that makes an equal object.

    Args:
        value: any value; the fields of a dataclass may hold further dataclasses.
        unnamed: number of leading fields that are always written, and without their names.
    """
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return repr(value)
    parts = []
    for number, (name, default) in enumerate(_fields(type(value))):
        own = getattr(value, name)
        if number < unnamed:
            parts.append(to_source(own))
        elif default is dataclasses.MISSING or own != default:
            text = repr(own) if isinstance(own, OneLineRepr) else to_source(own)
            parts.append(f"{name}={text}")
    return f"{type(value).__name__}({', '.join(parts)})"


@cache
def _fields(of: "type[DataclassInstance]") -> list[tuple[str, Any]]:
    """Return the name and the default of each field of a dataclass."""
    return [(field.name, field.default) for field in dataclasses.fields(of)]
