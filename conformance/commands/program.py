"""The program's name, and the error that ends a command in one line. This module does not import torch."""

import sys
import tomllib
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from tal_reference import Dialect

SCRIPT = "tal-conformance"
"""Name of the console script that starts this program."""
PACKAGE = Path(__file__).resolve().parents[1]
DISTRIBUTION = "tal-conformance"
"""Name of this project in `pyproject.toml` and on PyPI."""


class CommandError(Exception):
    """Error that ends a command. The message states what was found, what was expected, and what to do.

    Attributes:
        status: exit status of the program.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def program_name() -> str:
    """Return the command that starts this program from the working directory, for usage and messages."""
    if Path(sys.argv[0]).stem == SCRIPT:
        return SCRIPT
    here = Path("conformance/__main__.py")
    if here.is_file() and here.resolve().parent == PACKAGE:  # the root of the repository
        return "python -m conformance"
    return "python -m tal_conformance"


def version() -> str:
    """Return the version of this project: in a clone from its pyproject.toml, else from the installed metadata."""
    with suppress(OSError, ValueError):
        project = tomllib.loads((PACKAGE.parent / "pyproject.toml").read_text(encoding="utf-8")).get(
            "project", {}
        )
        if project.get("name") == DISTRIBUTION:
            return str(project["version"])
    try:
        return metadata.version(DISTRIBUTION)
    except metadata.PackageNotFoundError:  # a copy of the source that is not installed
        return "(not installed)"


def dialect_named(option: str, name: str | None) -> "Dialect | None":
    """Return the dialect named by an option, or None if the option is not given.

    Raises:
        CommandError: the dialect is unknown.
    """
    from tal_reference import parse

    try:
        return None if name is None else parse(name)
    except ValueError as error:
        raise CommandError(f"{option}: {error}") from error


def prepare_judging() -> None:
    """Make Hypothesis generate the same batches in every run, and limit torch to one thread, as in the profile `ci`."""
    import torch

    from tal_conformance.batches.seeding import make_draws_reproducible

    make_draws_reproducible()
    torch.set_num_threads(1)
