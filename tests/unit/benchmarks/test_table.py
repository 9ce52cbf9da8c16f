"""Table of time ratios that `bench` prints in the terminal."""

from typing import Any

from tal_conformance.benchmarks.table import table


def line(name: str, implementation: str, **changes: Any) -> dict[str, Any]:
    numbers = {"ratio_to_official": 2.0, "ratio_low": 1.9, "ratio_high": 2.25}
    return {
        "name": name,
        "device": "cpu",
        "implementation": implementation,
        "seconds": 0.0123,
        "peak_bytes": None,
    } | (numbers | changes)


def test_a_row_for_each_benchmark():
    same = {"ratio_to_official": 1.0, "ratio_low": 1.0, "ratio_high": 1.0}
    lines = [
        line("assign forward", "ultralytics", **same),
        line("assign forward", "mine"),
        line("loss forward", "ultralytics", **same, seconds=1.5, peak_bytes=3 * 2**20),
    ]
    header, assign, loss = table(lines)
    assert header.split()[-2:] == ["ultralytics", "mine"]
    assert assign.split("  ")[0] == "assign forward cpu"
    assert " ".join(assign.split()) == "assign forward cpu 12.3 ms 2.00 (1.90–2.25)"
    assert loss.endswith("1.5 s, 3 MiB")


def test_the_distance_from_the_limit_of_moved_bytes():
    cell = table([line("x", "mine", least_seconds=0.000246, peak_bytes=2**20)])[1]
    assert cell.endswith("2.00 (1.90–2.25), 50x limit, 1 MiB")


def test_what_is_not_known():
    unknown = {"ratio_to_official": None, "ratio_low": None, "ratio_high": None}
    assert table([line("x", "mine", **unknown)])[1].endswith("12.3 ms, no ratio")
    assert table([line("x", "mine", ratio_low=None, ratio_high=None)])[1].endswith("2.00")


def test_nothing_timed():
    assert table([]) == []
