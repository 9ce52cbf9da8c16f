"""What the reference, the implementations under test and the official release cost, as ratios to the official one."""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import pytest
import torch

from conformance.benchmarks import (
    CASES,
    LAPS,
    MemoryUnknown,
    Plan,
    Timings,
    clock_of,
    interleave,
    operation,
    peak_bytes,
    plan_for,
)
from conformance.conftest import RUN, Run
from conformance.implementations import (
    Implementation,
    ImplementationFailed,
    ProtocolViolation,
    UnknownImplementation,
    find,
)

OFFICIAL = "ultralytics"
BESIDE = ("reference", OFFICIAL)
"""Timed whether or not they are under test."""


class Replay:
    """pytest-benchmark's stopwatch here: it shows the times that interleaved rounds took.

    pytest-benchmark times one callable a test, from first round to last, before the next. On a machine that does other
    things too, ratios of such times mean little. So all implementations are timed in turns, and each test then replays
    one implementation's times for pytest-benchmark's tables, comparisons and JSON.
    """

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def rounds(self, seconds: list[float]) -> Callable[[], None]:
        """What to give to pytest-benchmark: each call takes the next of these times."""
        remaining = iter(seconds)

        def replay() -> None:
            self.now += next(remaining, 0.0)

        return replay


REPLAY = Replay()


@dataclass
class Bench:
    """All benchmarks of a run: each case is timed when its first test needs it, for all implementations at once.

    Attributes:
        run: the run.
        plan: how much is timed.
        beside: baselines that are not under test.
        stats: what pytest-benchmark made of each test, for its JSON.
    """

    run: Run
    plan: Plan
    beside: list[Implementation]
    stats: list[Any] = field(default_factory=list)
    _measured: dict[tuple[str, str, str], Timings] = field(default_factory=dict)
    _told: set[tuple[str, str, str, str]] = field(default_factory=set)

    @property
    def contenders(self) -> dict[str, Implementation]:
        """Everything that is timed, by name."""
        return {each.name: each for each in [*self.beside, *self.run.implementations]}

    @cached_property
    def official(self) -> str | None:
        """Name of the baseline, if there is one."""
        return next((name for name, each in self.contenders.items() if each.asked_as == OFFICIAL), None)

    def timings(self, case: str, capability: str, device: str) -> Timings:
        """Interleaved rounds of all that have the capability."""
        key = (case, capability, device)
        if key not in self._measured:
            batch = CASES[case].build().to(device)
            able = {name: each for name, each in self.contenders.items() if capability in each.capabilities}
            operations = {name: operation(capability, each, batch) for name, each in able.items()}
            self._measured[key] = interleave(operations, clock_of(device), self.plan, self.official)
        return self._measured[key]

    def peak(self, case: str, capability: str, device: str, name: str) -> int | None:
        """Peak memory of a whole operation, where the plan wants it and it can be had."""
        if not self.plan.memory:
            return None
        try:
            return peak_bytes(self.contenders[name], CASES[case].build(), device, capability)
        except MemoryUnknown as unknown:
            self.tell_once(str(unknown))
            return None

    def tell_once(self, reason: str) -> None:
        """Note what is not tested."""
        if ("", "", "", reason) not in self._told:
            self._told.add(("", "", "", reason))
            self.run.recorder.line("not_tested", implementation=None, device=None, reason=reason)

    def fail(self, key: tuple[str, str, str, str], title: str, failure: ImplementationFailed, node: str) -> None:
        """Note an implementation's failure, once for all laps of an operation, and fail the test."""
        case, _, device, name = key
        message = f"{name}-{device} is ERROR in the benchmark {title!r}: {failure.what}"
        if key not in self._told:
            self._told.add(key)
            implementation = self.contenders[name].asked_as
            self.run.recorder.line(
                "divergence", implementation=name, test="test_benchmark", clause_group=None, case=None, device=device,
                dtype="float32", verdict="error", stage=None, clause=None, summary=message,
                description=f"benchmark batch {case}", traceback=failure.details,
                reproduce={"pytest": f"pytest conformance/test_benchmark.py --implementation {implementation} --rounds 1"},
            )  # fmt: skip
        pytest.fail(message if failure.details is None else f"{message}\n{failure.details}", pytrace=False)


def plan_of(config: pytest.Config) -> Plan:
    """The plan of the profile, or of `--rounds`."""
    return plan_for(config.getoption("--conformance-profile"), config.getoption("--rounds"))


def baselines(run: Run) -> list[Implementation]:
    """Reference and official release, where they can be had and are not under test anyway."""
    found = []
    for name in BESIDE:
        if name not in [implementation.asked_as for implementation in run.implementations]:
            try:
                found.append(find(name))
            except (UnknownImplementation, ProtocolViolation):
                continue
    return found


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each implementation, device, case and lap; those of one interleaved measurement stand together."""
    run = metafunc.config.stash.get(RUN, None)
    if "bench" not in metafunc.fixturenames:
        return
    parameters = []
    if run is not None:
        devices = [device for device, state in run.devices.items() if state == "tested"]
        contenders = [*baselines(run), *run.implementations]
        parameters = [
            pytest.param(
                size, capability, lap, each.name, device,
                id=f"{lap} {size} {each.name} {device}".replace(" ", "-"),
                marks=pytest.mark.benchmark(group=f"{lap} {size} {device}", timer=REPLAY),
            )
            for device in devices
            for size in plan_of(metafunc.config).cases
            for capability in LAPS
            for lap in LAPS[capability]
            for each in contenders
            if capability in each.capabilities
        ]  # fmt: skip
    metafunc.parametrize(("size", "capability", "lap", "implementation", "device"), parameters)


@pytest.fixture(scope="module")
def bench(run: Run, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The benchmarks of this run; at the end they leave pytest-benchmark's JSON in the run's folder."""
    config = request.config
    bench = Bench(run, plan_of(config), baselines(run))
    if hasattr(config, "workerinput"):
        bench.tell_once("benchmarks: timings taken while pytest-xdist keeps all cores busy mean nothing (run without -n)")
        pytest.skip("no benchmarks beside other workers (pytest -n)")
    left_out = [name for name in CASES if name not in bench.plan.cases]
    if left_out:
        profile = config.getoption("--conformance-profile")
        bench.tell_once(f"benchmarks: profile {profile} leaves out {', '.join(left_out)} (make bench has them)")
    if bench.official is None:
        bench.tell_once("benchmarks: no official release is installed, so there are no ratios to it")
    yield bench
    if bench.stats:
        write_json(bench.stats, config, run)


def write_json(stats: list[Any], config: pytest.Config, run: Run) -> None:
    """Leave pytest-benchmark's JSON. Its own `--benchmark-json` warns in runs that happen to have no benchmarks."""
    hook = config.hook
    machine, commit = (
        hook.pytest_benchmark_generate_machine_info(config=config),
        hook.pytest_benchmark_generate_commit_info(config=config),
    )
    written = hook.pytest_benchmark_generate_json(
        config=config, benchmarks=stats, include_data=True, machine_info=machine, commit_info=commit
    )
    (run.folder / "benchmark.json").write_text(json.dumps(written, indent=1, default=repr), encoding="utf-8")


def test_benchmark(
    bench: Bench,
    benchmark: Any,
    request: pytest.FixtureRequest,
    size: str,
    capability: str,
    lap: str,
    implementation: str,
    device: str,
):
    """Median time, ratio to the official release with its interval, and peak memory, into log and JSON."""
    key, title = (size, capability, device, implementation), f"{lap} {size}"
    if benchmark.disabled:
        bench.tell_once("benchmarks are disabled (--benchmark-disable): called, but not timed")
    timings = bench.timings(size, capability, device)
    if implementation in timings.failures:
        bench.fail(key, title, timings.failures[implementation], request.node.nodeid)
    at = LAPS[capability].index(lap)
    seconds = timings.seconds(implementation, at)
    ratio = timings.ratio(implementation, bench.official, at)
    ...
