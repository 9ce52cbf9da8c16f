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


class OneLine:
    """A dataclass (`repr=False`) whose repr is the shortest call that makes it: defaults are left out.

    Hypothesis prints a failing example by its fields, over many lines, unless it is told otherwise.
    """

    unnamed: ClassVar[int] = 0
    """So many of the first fields are written without their names, and always."""

    def __repr__(self) -> str:
        parts = []
        for number, (name, default) in enumerate(_fields(type(self))):  # type: ignore[arg-type]
            value = getattr(self, name)
            if number < self.unnamed:
                parts.append(repr(value))
            elif default is dataclasses.MISSING or value != default:
                parts.append(f"{name}={value!r}")
        return f"{type(self).__name__}({', '.join(parts)})"

    def _repr_pretty_(self, printer: Printer, cycle: bool) -> None:
        printer.text(repr(self))


@cache
def _fields(of: "type[DataclassInstance]") -> list[tuple[str, Any]]:
    """Name and default of each field of a dataclass."""
    return [(field.name, field.default) for field in dataclasses.fields(of)]
