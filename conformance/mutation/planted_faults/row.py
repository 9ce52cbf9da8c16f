"""One row of the index of planted faults."""

from typing import NamedTuple


class Row(NamedTuple):
    """One row of the index of planted faults, whose key is the name of the fault.

    Attributes:
        clauses: the clauses that the fault violates, separated by spaces.
        stage: the first stage that must diverge if the implementation returns the stages of its assigner.
        check: name of the check that must find the fault; "" for the check that covers the clause of `stage`.
    """

    clauses: str
    stage: str
    check: str = ""
