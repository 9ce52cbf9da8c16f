"""The same on every device: a CUDA device for machines without one; in `checks` the clauses DEVICE-1 to DEVICE-3."""

from conformance.devices.running import SimulatedRun, simulate
from conformance.devices.simulated import SimulatedTensor, Simulation
from conformance.devices.watch import Violation, Watch, WrongDevice

__all__ = ["SimulatedRun", "SimulatedTensor", "Simulation", "Violation", "Watch", "WrongDevice", "simulate"]
