"""The same on every device: a CUDA device for machines without one; in `checks` the clauses DEVICE-1 to DEVICE-3."""

from tal_conformance.checks.devices.events import Violation, Watch, WrongDevice
from tal_conformance.checks.devices.simulate import SimulatedRun, simulate
from tal_conformance.checks.devices.simulated_cuda import SimulatedTensor, Simulation

__all__ = ["SimulatedRun", "SimulatedTensor", "Simulation", "Violation", "Watch", "WrongDevice", "simulate"]
