"""The command `bench`: selection of implementations to time, and end of the benchmark at its time limit."""

import pytest
from tests.common.fake_clock import FakeClock

from tal_conformance.benchmarks.bench import Bench, Benchmark, OutOfTime, compared_implementations
from tal_conformance.benchmarks.intervals import Ratio
from tal_conformance.benchmarks.operations import LAPS
from tal_conformance.benchmarks.plans import PLANS, Plan, plan_for
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find

SMALL = Plan(("2x160 8gt",), rounds=2, most=2, seconds=0)


class AssignerOnly:
    """An implementation without a loss."""

    name = "assigner only"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        returned: Assignment = find("reference").adapter.assign(inputs)
        return returned


class Broken:
    """An implementation that raises."""

    name = "broken"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        raise ZeroDivisionError("on purpose")


class Usurper(AssignerOnly):
    """An implementation that has the same name as the official release."""

    name = "ultralytics"


def made(adapter: type) -> Implementation:
    return implementation_from(adapter, f"mine:{adapter.__name__}")


def test_official_and_reference_are_timed_beside():
    assert list(compared_implementations([])) == ["ultralytics", "reference"]
    assert list(compared_implementations([made(AssignerOnly)])) == [
        "ultralytics",
        "reference",
        "assigner only",
    ]
    assert list(compared_implementations([find("reference"), find("ultralytics")])) == [
        "ultralytics",
        "reference",
    ]
    assert list(compared_implementations([made(AssignerOnly)], beside=())) == ["assigner only"]


def test_the_baseline_is_the_official_release_and_not_one_of_its_name():
    bench = Bench(compared_implementations([made(Usurper)]), SMALL)
    assert bench.official() == "ultralytics (baseline)"
    assert bench.implementations["ultralytics"].spec == "mine:Usurper"


def test_each_task_is_timed_on_its_own_batches():
    """An implementation of rotated boxes is timed with its own assigner, a pose head's with that of detection."""
    tested = [find("ultralytics").of_task("obb"), find("reference").of_task("pose")]
    plan = PLANS["ci"].of_tasks({"obb", "pose"})
    assert plan.cases == ("2x160 8gt obb", "2x160 8gt pose")
    bench = Bench(compared_implementations(tested), plan)
    timed = {(each.title, each.name) for each in bench.benchmarks("cpu")}
    laps = ("assign forward", "loss forward", "loss forward+backward")
    assert timed == {
        *((f"{lap} 2x160 8gt obb", "ultralytics") for lap in laps),
        *((f"{lap} 2x160 8gt pose", "reference") for lap in laps[1:]),
    }
    assert (bench.official("obb"), bench.official("pose")) == ("ultralytics", None)


def test_an_assigner_alone_is_timed_as_one():
    benchmarks = Bench(compared_implementations([made(AssignerOnly)]), SMALL).benchmarks("cpu")
    assert [each.lap for each in benchmarks if each.name == "assigner only"] == list(LAPS["assign"])
    laps = [lap for laps in LAPS.values() for lap in laps]
    assert [each.lap for each in benchmarks if each.name == "ultralytics"] == laps


def test_a_broken_one_fails_alone():
    bench = Bench(compared_implementations([made(Broken)]), SMALL)
    costs = {}
    for each in bench.benchmarks("cpu"):
        if each.capability == "assign" and each.name != "broken":
            costs[each.name] = bench.cost(each)
    assert all(len(cost.seconds) == 2 for cost in costs.values())
    assert costs["ultralytics"].ratio == Ratio(1, 1, 1)
    assert costs["reference"].ratio is not None
    with pytest.raises(ImplementationFailed, match="raised ZeroDivisionError: on purpose"):
        bench.cost(Benchmark("2x160 8gt", "assign", "assign forward", "broken", "cpu"))


def test_both_laps_of_the_loss_are_of_the_same_calls():
    bench = Bench({"reference": find("reference")}, SMALL)
    forward, both = (bench.cost(each) for each in bench.benchmarks("cpu") if each.capability == "loss")
    assert all(one < other for one, other in zip(forward.seconds, both.seconds, strict=True))
    assert forward.ratio is None, "expected no ratio without the official release"
    assert forward.median == sum(forward.seconds) / 2


def test_when_all_time_is_spent_no_other_case_is_begun():
    clock = FakeClock()

    def now() -> float:
        clock.pass_(10)
        return clock.now

    plan = Plan(("2x160 8gt",), rounds=1, most=1, seconds=0, total=10)
    bench = Bench({"reference": find("reference")}, plan, now)
    assign, loss, _ = bench.benchmarks("cpu")
    first = bench.cost(assign)
    with pytest.raises(OutOfTime, match="10 s"):
        bench.cost(loss)
    assert bench.dropped == ["loss forward 2x160 8gt"]
    assert bench.cost(assign) == first, "the cost of a timed benchmark changed"


def test_plans():
    assert PLANS["dev"].of_tasks({"detect"}).cases == ("2x160 8gt",)
    of_tasks = tuple(f"16x640 10gt {task}" for task in ("obb", "e2e", "pose", "segment"))
    assert (
        PLANS["nightly"].memory
        == plan_for("dev", 3).memory
        == ("16x640 10gt", "16x640 50gt", "16x640 150gt", "16x640 10gt and 1000gt", *of_tasks)
    )
    assert (plan_for("ci", 7).rounds, plan_for("ci", 7).most) == (7, 7)
    assert plan_for("ci", None) == PLANS["ci"]


def test_the_limit_of_a_benchmark_follows_from_the_rate_of_copying(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tal_conformance.benchmarks.bench.copy_rate", lambda device: 1e9)
    bench = Bench({}, SMALL)
    assign, forward, backward = (
        bench.least_seconds(Benchmark("2x160 8gt", capability, lap, "mine", "cpu"))
        for capability, laps in LAPS.items()
        for lap in laps
    )
    anchors = 20 * 20 + 10 * 10 + 5 * 5
    assert forward == pytest.approx(2 * anchors * (64 + 80) * 4 / 1e9)
    assert assign == pytest.approx(2 * anchors * (80 + 4) * 4 / 1e9)
    assert backward == pytest.approx(3 * forward)
