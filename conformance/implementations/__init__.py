"""The protocol of adapters, the adapters of this project, and loading an implementation by name."""

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, LossOutcome, Outcome, Stages
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.implementations.errors import (
    ImplementationFailed,
    ProtocolViolation,
    UnknownImplementation,
)
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import REGISTERED, find

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
    "execute",
    "find",
    "implementation_from",
]
