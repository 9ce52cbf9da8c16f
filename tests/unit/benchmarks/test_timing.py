"""Timing of implementations in interleaved rounds, with a fake clock that only the operations advance."""

import gc

import pytest
import torch
from tests.common.fake_clock import FakeClock, taking

from tal_conformance.benchmarks.intervals import Ratio
from tal_conformance.benchmarks.operations import Operation
from tal_conformance.benchmarks.plans import Plan
from tal_conformance.benchmarks.timing import clock_of, interleave


def rounds(count: int) -> Plan:
    return Plan(("any",), rounds=count, most=count, seconds=0)


def test_everybody_takes_turns():
    clock = FakeClock()
    operations = {name: taking(clock, name, lambda _: 1) for name in "ABC"}
    interleave(operations, clock, rounds(3), now=lambda: 0)
    assert "".join(call for call in clock.calls if call != "settle") == "ABC" * 4, (
        "one untimed round, three timed"
    )
    assert clock.calls[3:5] == ["settle", "A"], "expected the device to be idle before timing"


def test_times_are_to_the_end_of_each_step_and_without_the_preparation():
    clock = FakeClock()
    timings = interleave({"A": taking(clock, "A", lambda _: 3, lambda _: 4)}, clock, rounds(2), now=lambda: 0)
    assert timings.rounds == {"A": [(3.0, 7.0), (3.0, 7.0)]}


def test_a_slow_implementation_is_seen_whatever_the_machine_does():
    """A ratio of 1.5 is measured on a machine whose speed changes up to tenfold from round to round."""
    clock = FakeClock()
    mood = [1.0, 10.0, 2.5, 7.0, 1.0, 4.0, 9.0, 1.0]
    operations = {
        "official": taking(clock, "official", lambda call: mood[call % 8]),
        "slow": taking(clock, "slow", lambda call: 1.5 * mood[call % 8]),
    }
    timings = interleave(operations, clock, rounds(12), "official", now=lambda: 0)
    assert timings.ratio("slow", "official", 0) == Ratio(1.5, 1.5, 1.5)
    assert timings.ratio("official", "official", 0) == Ratio(1.0, 1.0, 1.0)


@pytest.mark.parametrize("raises_in", [0, 2])
def test_one_that_raises_leaves_the_others_their_times(raises_in: int):
    """If an operation raises in the first, untimed call or in round 2, all other operations are still timed."""
    clock = FakeClock()
    operations = {
        "first": taking(clock, "first", lambda _: 1),
        "broken": taking(clock, "broken", lambda _: 1, raises_in=raises_in),
        "last": taking(clock, "last", lambda _: 2),
    }
    timings = interleave(operations, clock, rounds(4), "first", now=lambda: 0)
    assert timings.seconds("first", 0) == [1] * 4
    assert timings.seconds("last", 0) == [2] * 4
    assert list(timings.failures) == ["broken"]
    assert timings.failures["broken"].what.startswith("raised RuntimeError: broken had enough (")
    assert "had enough" in str(timings.failures["broken"].details)
    assert timings.ratio("broken", "first", 0) is None


def test_all_raising_ends_it():
    clock = FakeClock()
    timings = interleave({"A": taking(clock, "A", lambda _: 1, raises_in=1)}, clock, rounds(5), now=lambda: 0)
    assert not timings.rounds


def test_without_the_baseline_there_is_no_ratio():
    clock = FakeClock()
    timings = interleave({"A": taking(clock, "A", lambda _: 1)}, clock, rounds(2), None, now=lambda: 0)
    assert timings.ratio("A", None, 0) is None
    assert timings.ratio("A", "official", 0) is None


def test_least_rounds_are_made_even_if_time_is_spent():
    clock = FakeClock()
    plan = Plan(("any",), rounds=3, most=10, seconds=1)
    timings = interleave({"A": taking(clock, "A", lambda _: 50)}, clock, plan, now=clock.mark)
    assert len(timings.rounds["A"]) == 3


def test_rounds_go_on_until_time_is_spent():
    """With rounds of 1,050 s and a limit of 7,000 s, the seventh round begins, and the eighth does not begin."""
    clock = FakeClock()
    plan = Plan(("any",), rounds=3, most=10, seconds=7000)
    timings = interleave({"A": taking(clock, "A", lambda _: 50)}, clock, plan, now=clock.mark)
    assert len(timings.rounds["A"]) == 7


def test_rounds_end_when_every_interval_is_narrow():
    clock = FakeClock()
    steady = {"official": taking(clock, "official", lambda _: 1), "A": taking(clock, "A", lambda _: 2)}
    plan = Plan(("any",), rounds=4, most=50, seconds=10**9, width=0.05)
    assert len(interleave(steady, clock, plan, "official", clock.mark).rounds["A"]) == 4
    wild = {
        "official": taking(clock, "official", lambda _: 1, lambda _: 1),
        # the second lap varies: 0 s or 5 s
        "A": taking(clock, "A", lambda _: 2, lambda call: 5 * (call % 2)),
    }
    assert len(interleave(wild, clock, plan, "official", clock.mark).rounds["A"]) == 50


def test_a_plan_without_rounds_only_verifies():
    clock = FakeClock()
    timings = interleave({"A": taking(clock, "A", lambda _: 1)}, clock, rounds(3).untimed(), now=lambda: 0)
    assert timings.rounds == {"A": []}
    assert clock.calls == ["A"]


def test_nothing_is_collected_while_time_is_taken():
    seen = []
    watching = Operation(lambda: None, (lambda _: seen.append(gc.isenabled()),), lambda _: None)
    interleave({"A": watching}, FakeClock(), rounds(1), now=lambda: 0)
    assert seen == [True, False]
    assert gc.isenabled()


def test_the_wall_clock_moves_forward():
    clock = clock_of("cpu")
    clock.settle()
    since = clock.mark()
    assert clock.seconds(since, clock.mark()) >= 0


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_the_cuda_clock_sees_what_the_device_does_after_the_call_returned():
    """The CUDA clock measures queued work: 20 products take longer than one, although all calls return at once."""
    clock = clock_of("cuda")
    matrix = torch.ones(2048, 2048, device="cuda")

    def multiply(times: int) -> Operation:
        def run(_: None) -> None:
            for _ in range(times):
                matrix @ matrix

        return Operation(lambda: None, (run,), lambda _: None)

    timings = interleave({"once": multiply(1), "often": multiply(20)}, clock, rounds(5), "once")
    assert min(timings.seconds("often", 0)) > min(timings.seconds("once", 0))


def test_on_cuda_nothing_waits_while_time_is_taken(monkeypatch: pytest.MonkeyPatch):
    """On a mocked CUDA device, no synchronisation happens between the first and the last event of a measurement."""
    asked: list[str] = []

    class Event:
        def __init__(self, enable_timing: bool) -> None:
            assert enable_timing

        def record(self) -> None:
            asked.append("record")

        def synchronize(self) -> None:
            asked.append("wait for event")

        def elapsed_time(self, until: "Event") -> float:
            return 1500.0

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: asked.append("wait for device"))
    steps = (lambda _: asked.append("forward"), lambda _: asked.append("backward"))
    call = Operation(lambda: asked.append("prepare"), steps, lambda _: None)
    timings = interleave({"A": call}, clock_of("cuda"), rounds(1), now=lambda: 0)
    assert asked[3:] == [
        *("prepare", "wait for device", "record", "forward", "record", "backward", "record"),
        *("wait for event", "wait for event"),
    ]
    assert timings.rounds == {"A": [(1.5, 1.5)]}
