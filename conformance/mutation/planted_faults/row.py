"""One row of the index of planted faults."""

from typing import NamedTuple


class Row(NamedTuple):
    """One row of the index.

    Attributes:
        clauses: the clauses that the fault violates, separated by spaces.
        stage: the first stage that must diverge if stages are visible.
        check: name of the check that must find the fault; "" for the check of the stage's clause.
    """

    clauses: str
    stage: str
    check: str = ""
