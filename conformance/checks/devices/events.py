"""What happens on a simulated device: what would fail on a real one, and what would make it wait."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from tal_conformance.checks.devices.source_lines import Line, Origin


@dataclass(frozen=True)
class Violation:
    """Something that fails on a CUDA device, or that is silently done on the CPU in place of it.

    Attributes:
        operation: as one writes it: `torch.where`.
        line: where it happened.
        problem: what is wrong, as the end of a sentence.
        origins: where the tensors on the CPU came from, if that is known.
    """

    operation: str
    line: Line
    problem: str
    origins: tuple[Origin, ...] = ()

    def __str__(self) -> str:
        """One sentence that names the operation, its line and its tensors."""
        return f"{self.operation} at {self.line} -- {self.problem}"


class WrongDevice(RuntimeError):
    """An operation that raises on a CUDA device.

    Attributes:
        violation: what was wrong.
    """

    def __init__(self, violation: Violation) -> None:
        super().__init__(str(violation))
        self.violation = violation


@dataclass
class Watch:
    """What happened on the simulated device.

    Attributes:
        violations: in their order.
        synchronisations: how often the CPU had to wait for the device, by operation and line.
        transfers: how often tensors went from the CPU to the device, by operation and line.
        batches: how many batches were run.
    """

    violations: list[Violation] = field(default_factory=list)
    synchronisations: Counter[tuple[str, Line]] = field(default_factory=Counter)
    transfers: Counter[tuple[str, Line]] = field(default_factory=Counter)
    batches: int = 0

    def add(self, other: "Watch") -> None:
        """Take what another one saw."""
        self.violations += other.violations
        self.synchronisations += other.synchronisations
        self.transfers += other.transfers
        self.batches += other.batches

    def places(self, most: int) -> list[dict[str, Any]]:
        """The lines that wait or transfer most often, for the run log."""
        counted = [("synchronisation", self.synchronisations), ("transfer", self.transfers)]
        found = [(count, kind, *key) for kind, counts in counted for key, count in counts.items()]
        found.sort(key=lambda place: (-place[0], place[1], place[2], str(place[3])))
        return [
            {"kind": kind, "operation": operation, "where": str(line), "count": count}
            for count, kind, operation, line in found[:most]
        ]
