"""Events on a simulated device: operations that fail on a real CUDA device, synchronisations and transfers."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tal_conformance.checks.devices.source_lines import Line, Origin


@dataclass(frozen=True)
class Violation:
    """An operation that fails on a CUDA device, or that silently runs on the CPU instead.

    Attributes:
        operation: name of the operation in source code, such as `torch.where`.
        line: line of source code that calls the operation.
        problem: description of the error, as the end of a sentence.
        origins: the calls that made the CPU tensors of the operation, if known.
    """

    operation: str
    line: Line
    problem: str
    origins: tuple[Origin, ...] = ()

    def __str__(self) -> str:
        """Return one sentence that names the operation, its line and the problem."""
        return f"{self.operation} at {self.line} -- {self.problem}"


class WrongDevice(RuntimeError):
    """Error of an operation that would raise on a CUDA device.

    Attributes:
        violation: the operation, its line and the problem.
    """

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


@dataclass
class Watch:
    """Record of the events on the simulated device.

    Attributes:
        violations: the device errors, in order of occurrence.
        synchronisations: number of times that the CPU waited for the device, by operation and line.
        transfers: number of tensors moved from the CPU to the device, by operation and line.
        batches: number of batches run.
    """

    violations: list[Violation] = field(default_factory=list)
    synchronisations: Counter[tuple[str, Line]] = field(default_factory=Counter)
    transfers: Counter[tuple[str, Line]] = field(default_factory=Counter)
    batches: int = 0

    def add(self, other: "Watch") -> None:
        """Add the events recorded by another `Watch`."""
        self.violations += other.violations
        self.synchronisations += other.synchronisations
        self.transfers += other.transfers
        self.batches += other.batches

    def places(self, most: int) -> list[dict[str, Any]]:
        """Return the `most` lines of code with the most synchronisations or transfers, for the run log."""
        counted = [("synchronisation", self.synchronisations), ("transfer", self.transfers)]
        places = [(count, kind, *key) for kind, counts in counted for key, count in counts.items()]
        places.sort(key=lambda place: (-place[0], place[1], place[2], str(place[3])))
        return [
            {"kind": kind, "operation": operation, "where": str(line), "count": count}
            for count, kind, operation, line in places[:most]
        ]
