"""Run an implementation on the simulated CUDA device, and record its device errors, synchronisations and transfers."""

from collections.abc import Callable
from dataclasses import dataclass, field, fields, is_dataclass, replace
from functools import partial
from types import SimpleNamespace
from typing import Any

from torch import Tensor

from tal_conformance.checks.devices.events import Violation, Watch
from tal_conformance.checks.devices.simulated_cuda import SimulatedTensor, Simulation, to_host
from tal_conformance.checks.devices.source_lines import own_line
from tal_conformance.checks.devices.torch_calls import DEVICE
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.outcome_tensors import map_tensors
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge


@dataclass
class SimulatedRun:
    """Result of an implementation on a batch on the simulated device.

    Attributes:
        watch: events while the implementation's own code ran, and the violations of its backward pass.
        outcome: results of the implementation, as tensors on the CPU; None if it failed.
        failure: the reason why the implementation failed; None if it did not fail.
        judgement: judgement of the outcome, computed on the simulated device too; None if not requested.
        judging: events while the outcome was judged.
    """

    watch: Watch = field(default_factory=Watch)
    outcome: Outcome | None = None
    failure: ImplementationFailed | None = None
    judgement: Judgement | None = None
    judging: Watch = field(default_factory=Watch)


def simulate(implementation: Implementation, batch: Batch, judged: bool = True) -> SimulatedRun:
    """Run an implementation on a batch on the simulated device, forward and backward.

    Args:
        implementation: an implementation that runs in this process.
        batch: the batch, on the CPU.
        judged: True to judge the outcome too, on the simulated device.

    Raises:
        WrongDevice: the suite's own code combined tensors of two devices.
    """
    run = SimulatedRun(Watch(batches=1))
    with Simulation() as simulation:
        expected = Expectation(batch.to(DEVICE), implementation.dialect)
        try:
            face = watched(implementation, simulation, run.watch)
            outcome = execute(face, expected.batch, inputs=expected.inputs)
        except ImplementationFailed as failure:
            run.failure = failure
            return run
        finally:
            # violations of the backward pass, which the suite starts
            run.watch.violations += simulation.watch.violations
        if judged:
            with simulation.watching(run.judging):
                run.judgement = _judgement(outcome, expected)
    run.outcome = map_tensors(outcome, to_host)
    return run


def _judgement(outcome: Outcome, expected: Expectation) -> Judgement:
    try:
        return judge(outcome, expected)
    except Divergence as error:
        return error.judgement


def watched(implementation: Implementation, simulation: Simulation, watch: Watch) -> Implementation:
    """Return a copy of an implementation that records its calls in `watch`, and results on the CPU as violations."""

    def run(method: Callable[..., Any], *arguments: Any) -> Any:
        with simulation.watching(watch):
            returned = method(*arguments)
            watch.violations += [
                _returned_on_cpu(name, tensor, simulation)
                for name, tensor in _tensors(type(returned).__name__, returned)
                if not isinstance(tensor, SimulatedTensor)
            ]
            return returned

    offered = [name for name in ("assign", "loss") if name in implementation.capabilities]
    methods = {name: partial(run, getattr(implementation.adapter, name)) for name in offered}
    return replace(implementation, adapter=SimpleNamespace(**methods))


def _tensors(name: str, value: Any) -> list[tuple[str, Tensor]]:
    """Return the tensors of nested dataclasses and dictionaries with their names."""
    if isinstance(value, Tensor):
        return [(name, value)]
    if isinstance(value, dict):
        return [pair for key, part in value.items() for pair in _tensors(f"{name}[{key!r}]", part)]
    if not is_dataclass(value):
        return []
    return [
        pair for part in fields(value) for pair in _tensors(f"{name}.{part.name}", getattr(value, part.name))
    ]


def _returned_on_cpu(name: str, tensor: Tensor, simulation: Simulation) -> Violation:
    origin = simulation.origin_of(tensor)
    problem = f"{name} is returned on the CPU" + (f", {origin}" if origin else "")
    return Violation(name, origin.line if origin else own_line(), problem, (origin,) if origin else ())
