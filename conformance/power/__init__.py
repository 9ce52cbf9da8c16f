"""Proof that the suite can fail: planted faults, each with the stage at which it must be found."""

from conformance.power.faults import FAULTS, Fault, FaultyReference

__all__ = ["FAULTS", "Fault", "FaultyReference"]
