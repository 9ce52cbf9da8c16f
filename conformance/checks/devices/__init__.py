"""Device checks: a simulated CUDA device for machines without one, and the clauses DEVICE-1 to DEVICE-3 in `checks`."""

from tal_conformance.checks.devices.events import Violation, Watch, WrongDevice
from tal_conformance.checks.devices.simulate import SimulatedRun, simulate
from tal_conformance.checks.devices.simulated_cuda import SimulatedTensor, Simulation

__all__ = ["SimulatedRun", "SimulatedTensor", "Simulation", "Violation", "Watch", "WrongDevice", "simulate"]
