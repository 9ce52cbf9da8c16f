"""How outcomes are judged: error bounds, admissible choices, verdicts and the first stage that diverges."""

from conformance.judgement.judge import judge
from conformance.judgement.verdicts import (
    STAGES,
    Diverges,
    Judgement,
    Mismatch,
    State,
    Uniqueness,
    Value,
    Verdict,
)

__all__ = [
    "STAGES",
    "Diverges",
    "Judgement",
    "Mismatch",
    "State",
    "Uniqueness",
    "Value",
    "Verdict",
    "judge",
]
