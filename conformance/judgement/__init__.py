"""Judging outcomes: error bounds, admissible choices, verdicts, and the first diverging stage."""

from tal_conformance.core.verdicts import (
    Divergence,
    Judgement,
    Mismatch,
    State,
    Uniqueness,
    Value,
    Verdict,
)
from tal_conformance.judgement.judge import judge

__all__ = [
    "Divergence",
    "Judgement",
    "Mismatch",
    "State",
    "Uniqueness",
    "Value",
    "Verdict",
    "judge",
]
