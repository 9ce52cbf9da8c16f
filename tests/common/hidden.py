"""An adapter that hides the assignment of its loss, and subjects made from adapters."""

from dataclasses import replace
from typing import Any

from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Subject


class HidesEverything(ReferenceAdapter):
    """The reference's loss without assignment and assigner inputs."""

    exposes_stages = False
    assign = None  # type: ignore[assignment] # an implementation of a loss alone

    def loss(self, *arguments: Any) -> Loss:
        """Return total and items alone."""
        return replace(super().loss(*arguments), assignment=None, inputs=None)


def subject_of(adapter: Any) -> Subject:
    """Return the subject of an adapter on the CPU."""
    return Subject(implementation_from(adapter, adapter.name), "cpu")
