"""Who is tested: the protocol that adapters follow, the adapters of this project, and how one is found by name."""

from conformance.implementations.outcome import (
    ImplementationFailed,
    LossOutcome,
    Outcome,
    assigner_inputs,
    observe,
)
from conformance.implementations.protocol import (
    AssignerInputs,
    Assignment,
    Implementation,
    Loss,
    ProtocolViolation,
    Stages,
    implementation_from,
)
from conformance.implementations.registry import REGISTERED, UnknownImplementation, find

__all__ = [
    "REGISTERED",
    "AssignerInputs",
    "Assignment",
    "Implementation",
    "ImplementationFailed",
    "Loss",
    "LossOutcome",
    "Outcome",
    "ProtocolViolation",
    "Stages",
    "UnknownImplementation",
    "assigner_inputs",
    "find",
    "implementation_from",
    "observe",
]
