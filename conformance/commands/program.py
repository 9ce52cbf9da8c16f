"""The command that starts this program, and the error that ends a command with exit status 2. Imports no torch."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tal_conformance.core.names import unknown_name

if TYPE_CHECKING:
    from tal_reference import Dialect

SCRIPT = "tal-conformance"
"""Name of the console script."""
PACKAGE = Path(__file__).resolve().parents[1]


class CommandError(Exception):
    """A command cannot do all of its work. The message says what was found, what was expected, and what to do.

    Attributes:
        status: exit status of the program.
    """

    def __init__(self, message: str, status: int = 2) -> None:
        super().__init__(message)
        self.status = status


def program_name() -> str:
    """Return the words that start this program from the present directory, for usage and messages."""
    if Path(sys.argv[0]).stem == SCRIPT:
        return SCRIPT
    here = Path("conformance/__main__.py")
    if here.is_file() and here.resolve().parent == PACKAGE:  # the clone's root
        return "python -m conformance"
    return "python -m tal_conformance"


def dialect_named(option: str, name: str | None) -> "Dialect | None":
    """Return the dialect that an option names; None without that option.

    Raises:
        CommandError: the dialect is unknown.
    """
    from tal_reference import DIALECTS

    if name is not None and name not in DIALECTS:
        raise CommandError(f"{option}: {unknown_name('dialect', name, DIALECTS)}")
    return DIALECTS[name] if name is not None else None


def prepare_judging() -> None:
    """Make Hypothesis' draws reproducible and let torch use one thread, as the gate does."""
    import torch

    from tal_conformance.batches.seeding import make_draws_reproducible

    make_draws_reproducible()
    torch.set_num_threads(1)
