"""The same on every device: a CUDA device for machines without one, and the clauses DEVICE-1 to DEVICE-3."""

from conformance.devices.checks import MEANINGS, as_on_the_cpu, made_on_the_device, repeatable
from conformance.devices.running import SimulatedRun, simulate
from conformance.devices.simulated import SimulatedTensor, Simulation
from conformance.devices.watch import Violation, Watch, WrongDevice

__all__ = [
    "MEANINGS",
    "SimulatedRun",
    "SimulatedTensor",
    "Simulation",
    "Violation",
    "Watch",
    "WrongDevice",
    "as_on_the_cpu",
    "made_on_the_device",
    "repeatable",
    "simulate",
]
