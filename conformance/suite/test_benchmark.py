"""What the reference and the implementations under test cost, as ratios to the official release."""

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
from tal_conformance.core.files import REPOSITORY
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.suite.checker import skip_untested
from tal_conformance.suite.session import RUN, SessionState

REPLAY = RecordedTimer()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for each benchmark; those of one interleaved measurement stand together."""
    if "benched" not in metafunc.fixturenames:
        return
    run = metafunc.config.stash.get(RUN, None)
    benchmarks: list[Benchmark] = []
    if run is not None:
        bench = bench_of(run, metafunc.config)
        devices = [device for device, state in run.devices.items() if state == "tested"]
        benchmarks = [each for device in devices for each in bench.benchmarks(device)]
    metafunc.parametrize("benched", [parameter(each) for each in benchmarks])


def parameter(benchmark: Benchmark) -> Any:
    """A benchmark as pytest's parameter, with pytest-benchmark's marks."""
    marks = pytest.mark.benchmark(group=f"{benchmark.title} {benchmark.device}", timer=REPLAY)
    name = f"{benchmark.title} {benchmark.name} {benchmark.device}".replace(" ", "-")
    return pytest.param(benchmark, id=name, marks=marks)


def bench_of(run: SessionState, config: pytest.Config) -> Bench:
    """The benchmarks that this run's profile, or `--rounds`, asks for."""
    plan = plan_for(config.getoption("--conformance-profile"), config.getoption("--rounds"))
    if config.getoption("benchmark_disable") and not config.getoption("benchmark_enable"):
        plan = plan.untimed()
    beside = () if beside_others(config) else BASELINES  # where nothing is timed, it need not be imported
    return Bench(compared_implementations(run.implementations, beside), plan)


def beside_others(config: pytest.Config) -> bool:
    """Whether this process is a worker of pytest-xdist, where nothing can be timed."""
    return hasattr(config, "workerinput")


@pytest.fixture(scope="module")
def bench(run: SessionState, request: pytest.FixtureRequest) -> Iterator[Bench]:
    """The benchmarks of this run. What they leave out is noted."""
    if beside_others(request.config):
        skip_untested(
            run.recorder,
            "benchmarks: no times are taken while pytest-xdist keeps all cores busy (run without -n)",
        )
    bench = bench_of(run, request.config)
    left_out = [name for name in CASES if name not in bench.plan.cases]
    if left_out:
        note(run, f"benchmarks: {', '.join(left_out)} are not in this profile (make bench has them)")
    if not bench.plan.most:
        note(run, "benchmarks: disabled, so everything is called once and nothing is timed")
    if bench.official is None:
        note(run, "benchmarks: no official release can be had, so there are no ratios to it")
    yield bench
    if bench.dropped:
        note(
            run,
            f"benchmarks: {bench.plan.total:g} s were spent before {', '.join(bench.dropped)} (make bench)",
        )


def note(run: SessionState, reason: str) -> None:
    """Say in the log what is not tested."""
    run.recorder.line("not_tested", implementation=None, device=None, reason=reason)


@pytest.fixture(scope="module")
def finished(run: SessionState, request: pytest.FixtureRequest) -> Iterator[list[Any]]:
    """What pytest-benchmark made of each test; at the end it leaves its JSON in the run's folder.

    Its own `--benchmark-json`, set for every run, would warn in those that happen to have no benchmarks.
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
    """Median time, ratio to the official release with its interval, and peak memory, into log and JSON."""
    try:
        cost, peak = bench.cost(benched), peak_of(bench, run, benched)
    except OutOfTime as spent:
        pytest.skip(str(spent))
    except ImplementationFailed as failure:
        no_result(benchmark, failure)
        fail(run, bench, benched, failure)
    line = fields(benched, cost, peak)
    benchmark.extra_info |= line | {"threads": torch.get_num_threads()}
    benchmark.pedantic(REPLAY.of(cost.seconds), setup=REPLAY.reset, rounds=max(1, len(cost.seconds)))
    if cost.seconds:
        run.recorder.line("benchmark", **line)
        finished.append(benchmark.stats)


def fields(benched: Benchmark, cost: Cost, peak: int | None) -> dict[str, Any]:
    """A benchmark's line in the log."""
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
    }


def peak_of(bench: Bench, run: SessionState, benched: Benchmark) -> int | None:
    """Peak memory, where it is asked for and can be had."""
    try:
        return bench.peak(benched)
    except MemoryUnknown as unknown:
        note(run, f"peak memory: {unknown}")
        return None


def no_result(benchmark: Any, failure: ImplementationFailed) -> None:
    """Tell pytest-benchmark that there is nothing to show."""

    def fail() -> None:
        raise failure

    with suppress(ImplementationFailed):
        benchmark.pedantic(fail)


def fail(run: SessionState, bench: Bench, benched: Benchmark, failure: ImplementationFailed) -> Never:
    """Count it as an error of the implementation; the others' benchmarks go on."""
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
