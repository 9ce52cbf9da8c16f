"""Time and peak memory of the reference and the implementations under test, as ratios to the official release."""

import json
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any, Never

import pytest
import torch

from tal_conformance.benchmarks.bench import (
    BASELINES,
    Bench,
    Benchmark,
    Cost,
    OutOfTime,
    compared_implementations,
)
from tal_conformance.benchmarks.memory import MemoryUnknown
from tal_conformance.benchmarks.plans import plan_for
from tal_conformance.benchmarks.recorded_timer import RecordedTimer
from tal_conformance.benchmarks.workloads import CASES
from tal_conformance.core.devices import USUAL
from tal_conformance.core.files import REPOSITORY
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.suite.checker import skip_untested
from tal_conformance.suite.session import RUN, SessionState

REPLAY = RecordedTimer()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the test over all benchmarks; benchmarks that are timed alternately are adjacent."""
    if "benched" not in metafunc.fixturenames:
        return
    run = metafunc.config.stash.get(RUN, None)
    benchmarks: list[Benchmark] = []
    if run is not None:
        bench = bench_of(run, metafunc.config)
        devices = [device for device, state in run.devices.items() if state == "tested" and device in USUAL]
        benchmarks = [benchmark for device in devices for benchmark in bench.benchmarks(device)]
    metafunc.parametrize("benched", [parameter(benchmark) for benchmark in benchmarks])


def parameter(benchmark: Benchmark) -> Any:
    """Return a benchmark as a pytest parameter, with the group that pytest-benchmark lists it in."""
    marks = pytest.mark.benchmark(group=f"{benchmark.title} {benchmark.device}", timer=REPLAY)
    name = f"{benchmark.title} {benchmark.name} {benchmark.device}".replace(" ", "-")
    return pytest.param(benchmark, id=name, marks=marks)


def bench_of(run: SessionState, config: pytest.Config) -> Bench:
    """Return the benchmarks of the profile and of the tested tasks, in the rounds of `--rounds` if it is given."""
    plan = plan_for(config.getoption("--conformance-profile"), config.getoption("--rounds"))
    plan = plan.of_tasks(tasks_of(run))
    if config.getoption("benchmark_disable") and not config.getoption("benchmark_enable"):
        plan = plan.untimed()
    baselines = () if is_xdist_worker(config) else BASELINES  # without timing, no baseline need be imported
    return Bench(compared_implementations(run.implementations, baselines), plan)


def tasks_of(run: SessionState) -> set[str]:
    """Return the names of the tasks that the run tests."""
    return {implementation.task for implementation in run.implementations}


def is_xdist_worker(config: pytest.Config) -> bool:
    """Return True in a worker of pytest-xdist, where timing is meaningless."""
    return hasattr(config, "workerinput")


@pytest.fixture(scope="module")
def bench(run: SessionState, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """Return the benchmarks of this run, and log which measurements are left out."""
    if is_xdist_worker(request.config):
        skip_untested(
            run.recorder,
            "benchmarks: no times are taken while pytest-xdist keeps all cores busy (run without -n)",
        )
    bench = bench_of(run, request.config)
    known = [name for name, case in CASES.items() if case.task in tasks_of(run)]
    left_out = [name for name in known if name not in bench.plan.cases]
    if left_out:
        note(run, f"benchmarks: {len(left_out)} of {len(known)} are not in this profile; make bench runs all")
    if not bench.plan.most:
        note(run, "benchmarks: disabled, so that every implementation is called once and nothing is timed")
    if not all(map(bench.official, tasks_of(run))):
        note(run, "benchmarks: no official release is installed, so that ratios to it are missing")
    yield bench
    if bench.dropped:
        note(
            run,
            f"benchmarks: the time limit of {bench.plan.total:g} s was reached before {', '.join(bench.dropped)}; "
            "run make bench for them",
        )


def note(run: SessionState, reason: str) -> None:
    """Log the reason why something is not tested."""
    run.recorder.line("not_tested", implementation=None, device=None, reason=reason)


@pytest.fixture(scope="module")
def finished(run: SessionState, request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """Return a list that collects the statistics of pytest-benchmark, and write it to benchmark.json at the end.

    The option `--benchmark-json` would do the same, but warns in runs without benchmarks.
    """
    finished: list[Any] = []
    yield finished
    if finished:
        config, hook = request.config, request.config.hook
        content = hook.pytest_benchmark_generate_json(
            config=config,
            benchmarks=finished,
            include_data=True,
            machine_info=hook.pytest_benchmark_generate_machine_info(config=config),
            commit_info=hook.pytest_benchmark_generate_commit_info(config=config),
        )
        path = run.folder / "benchmark.json"
        path.write_text(json.dumps(content, indent=1, default=vars), encoding="utf-8")


def test_benchmark(
    bench: Bench, run: SessionState, finished: list[Any], benchmark: Any, benched: Benchmark
) -> None:
    """Log an implementation's median time, ratio to the official release with interval, and peak memory."""
    try:
        cost, peak = bench.cost(benched), peak_of(bench, run, benched)
    except OutOfTime as spent:
        pytest.skip(str(spent))
    except ImplementationFailed as failure:
        no_result(benchmark, failure)
        fail(run, bench, benched, failure)
    line = fields(benched, cost, peak, bench.least_seconds(benched))
    benchmark.extra_info |= line | {"threads": torch.get_num_threads()}
    benchmark.pedantic(REPLAY.of(cost.seconds), setup=REPLAY.reset, rounds=max(1, len(cost.seconds)))
    if cost.seconds:
        run.recorder.line("benchmark", **line)
        finished.append(benchmark.stats)


def fields(benched: Benchmark, cost: Cost, peak: int | None, least_seconds: float) -> dict[str, Any]:
    """Return the fields of the run log's line about a benchmark."""
    ratio = cost.ratio
    return {
        "name": benched.title,
        "group": benched.title,
        "implementation": benched.name,
        "device": benched.device,
        "seconds": cost.median,
        "ratio_to_official": None if ratio is None else ratio.at,
        "ratio_low": None if ratio is None else ratio.low,
        "ratio_high": None if ratio is None else ratio.high,
        "rounds": len(cost.seconds),
        "peak_bytes": peak,
        "least_seconds": least_seconds,
    }


def peak_of(bench: Bench, run: SessionState, benched: Benchmark) -> int | None:
    """Return the peak memory of the benchmarked call in bytes; None if it was not measured."""
    try:
        return bench.peak(benched)
    except MemoryUnknown as unknown:
        note(run, f"peak memory: {unknown}")
        return None


def no_result(benchmark: Any, failure: ImplementationFailed) -> None:
    """Tell pytest-benchmark that the benchmark has no result."""

    def fail() -> None:
        raise failure

    with suppress(ImplementationFailed):
        benchmark.pedantic(fail)


def fail(run: SessionState, bench: Bench, benched: Benchmark, failure: ImplementationFailed) -> Never:
    """Log an error of the implementation and fail its benchmark; other implementations are still measured."""
    spec = bench.implementations[benched.name].spec
    suite = "conformance" if Path.cwd() == REPOSITORY else "--pyargs tal_conformance"
    word = benched.case.replace(" ", "-")
    message = f"{benched.name}-{benched.device} is ERROR in the benchmark {benched.title!r}: {failure.what}"
    run.recorder.line(
        "divergence",
        implementation=benched.name,
        test="test_benchmark",
        clause_group=None,
        case=None,
        device=benched.device,
        dtype="float32",
        verdict="error",
        stage=None,
        clause=None,
        summary=message,
        cause=failure.what,
        description=f"the batch of the benchmark {benched.title!r}",
        traceback=failure.details,
        reproduce={"pytest": f"pytest {suite} --implementation {spec} --rounds 1 -k {word}"},
    )
    pytest.fail(message if failure.details is None else f"{message}\n{failure.details}", pytrace=False)
