"""How recipes are written: as the shortest line of Python that makes them again."""

import dataclasses
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

if TYPE_CHECKING:
    from _typeshed import DataclassInstance


class Printer(Protocol):
    """The part of Hypothesis' and IPython's pretty printers that is needed."""

    def text(self, text: str) -> object:
        """Print this."""


class OneLineRepr:
    """A dataclass (`repr=False`) whose repr is the shortest call that makes it: defaults are left out.

    Hypothesis prints a failing example by its fields, over many lines, unless it is told otherwise.
    """

    unnamed: ClassVar[int] = 0
    """So many of the first fields are written without their names, and always."""

    def __repr__(self) -> str:
        return to_source(self, self.unnamed)

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(repr(self))


def to_source(value: Any, unnamed: int = 0) -> str:
    """A value as Python; a dataclass as the shortest call that makes it.

    Args:
        value: a dataclass, with others in its fields or not, or anything else.
        unnamed: so many of its first fields are written without their names, and always.
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
    """Name and default of each field of a dataclass."""
    return [(field.name, field.default) for field in dataclasses.fields(of)]
