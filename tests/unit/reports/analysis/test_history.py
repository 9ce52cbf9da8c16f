"""The file history.jsonl, which has an entry for each run, and comparisons and trends from these entries."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.common import run_logs as factory
from tests.common.run_logs import batch, benchmark, divergence, error, implementation, run_line, write

from tal_reports import read_log, render
from tal_reports.__main__ import main
from tal_reports.analysis.compare import change_sentence, compare, format_comparison
from tal_reports.analysis.history import (
    comparable,
    entry_of,
    fingerprint,
    previous,
    read_history,
    remember,
    with_power,
)
from tal_reports.analysis.summary import summarise
from tal_reports.analysis.trend import HEIGHT, power_trend_of, sparkline, trend_of


def entry(folder: Path, lines: Any, started: str = "2025-11-24T02:10:33.000+00:00", **fields: Any):
    """Write a run with the given log lines and start time into `folder`, and return its history entry."""
    raw = b"".join(
        json.dumps(
            factory.line(kind, line, started) | ({"run": folder.name} if kind == "run" else {})
        ).encode()
        + b"\n"
        for kind, line in lines
    )
    log = read_log(factory.write_raw(folder, raw))
    return entry_of(log, summarise(log)) | fields


def run(*causes: Any, batches: Any = 20, **fields: Any):
    """Return the log lines of a run, in which one implementation has the given divergences."""
    return [
        ("run", run_line([implementation("my-assigner", version="1.0")], **fields)),
        *(("batch", batch(number, "my-assigner")) for number in range(batches)),
        *(("divergence", cause) for cause in causes),
        ("end", {"exit": int(bool(causes))}),
    ]


@pytest.fixture
def pair(tmp_path: Path):
    """Return the history entries of two runs with two causes of failure each; one cause is in both runs."""
    first = divergence(1, stage="metric", clause_group="TAL-MET")
    before = entry(tmp_path / "a", run(divergence(0), first))
    after = entry(
        tmp_path / "b", run(divergence(5), error(2, "my-assigner")), "2025-11-25T02:10:33.000+00:00"
    )
    return before, after


def test_new_fixed_and_persisting_causes(pair: Any):
    change = compare(*pair)
    assert [cause["verdict"] for cause in change.new] == ["error"]
    assert [cause["stage"] for cause in change.fixed] == ["metric"]
    assert [cause["stage"] for cause in change.still] == ["conflict"]
    assert change.counts == "1 new, 1 fixed, 1 still present"
    assert change.results == [("my-assigner", "divergent", "error")]


def test_the_same_run_twice_changes_nothing(pair: Any):
    change = compare(pair[0], pair[0])
    assert (change.new, change.fixed, change.results, change.notes) == ([], [], [], [])
    assert change_sentence(change) == "Nothing changed: 2 causes still present."


def test_an_untested_cause_does_not_count_as_fixed(tmp_path: Path):
    before = entry(tmp_path / "a", run(divergence(1, stage="metric", clause_group="TAL-MET")))
    after = entry(tmp_path / "b", run(batches=1))  # the run's only batch comes from the check of DEC
    change = compare(before, after)
    assert change.fixed == []
    assert [cause["stage"] for cause in change.untested] == ["metric"]
    assert change.counts == "1 not tested again"


def test_causes_of_a_new_implementation_do_not_count_as_new(tmp_path: Path):
    before = entry(tmp_path / "a", factory.passing(20))
    change = compare(before, entry(tmp_path / "b", run(divergence(0))))
    assert change.new == []
    assert "not tested before: my-assigner" in change.notes


def test_other_differences_are_noted(tmp_path: Path):
    other = run(seed="7", environment=factory.ENVIRONMENT | {"torch": "2.15.0"})
    notes = compare(entry(tmp_path / "a", run()), entry(tmp_path / "b", other)).notes
    assert notes == [
        "the seeds differ: a cause counted as fixed may only lack a generated batch this time",
        "torch was 2.14.1+cpu and is 2.15.0",
    ]


@pytest.mark.parametrize(("ratio", "slower"), [(0.62, None), (0.9, True), (0.4, False)])
def test_times_are_compared_by_their_intervals(tmp_path: Path, ratio: float, slower: bool | None):
    lines = [run(), run()]
    for one, value in zip(lines, (0.62, ratio), strict=True):
        one.insert(1, ("benchmark", benchmark(ratio=value)))
    change = compare(entry(tmp_path / "a", lines[0]), entry(tmp_path / "b", lines[1]))
    assert [timing.slower for timing in change.timings] == ([] if slower is None else [slower])


def test_times_of_another_machine_are_not_compared(tmp_path: Path):
    first, second = run(), run(environment=factory.ENVIRONMENT | {"cpu": "another"})
    first.insert(1, ("benchmark", benchmark(ratio=0.62)))
    second.insert(1, ("benchmark", benchmark(ratio=0.9)))
    change = compare(entry(tmp_path / "a", first), entry(tmp_path / "b", second))
    assert change.timings == []


def test_the_fingerprint_is_of_the_machine_alone():
    assert fingerprint(factory.ENVIRONMENT) == fingerprint(factory.ENVIRONMENT | {"git": "other"})
    assert fingerprint(factory.ENVIRONMENT) != fingerprint(factory.ENVIRONMENT | {"threads": 2})


def test_a_run_is_stored_once(tmp_path: Path, pair: Any):
    path = tmp_path / "history.jsonl"
    assert remember(path, pair[1])
    assert remember(path, pair[0])
    before = path.read_bytes()
    assert not remember(path, pair[0])
    assert path.read_bytes() == before
    assert [known["run"] for known in read_history(path)] == ["a", "b"]


def test_an_unfinished_run_is_not_stored(tmp_path: Path):
    unfinished = entry(tmp_path / "a", run()[:-1])
    assert not remember(tmp_path / "history.jsonl", unfinished)
    assert not (tmp_path / "history.jsonl").exists()


def test_an_entry_with_invalid_counts_is_left_out(tmp_path: Path, pair: Any):
    path = tmp_path / "history.jsonl"
    remember(path, pair[0] | {"implementations": [pair[0]["implementations"][0] | {"uniqueness": "many"}]})
    remember(path, pair[1])
    assert [known["run"] for known in read_history(path)] == ["b"]


def test_a_torn_history_loses_one_line(tmp_path: Path, pair: Any):
    path = tmp_path / "history.jsonl"
    remember(path, pair[0])
    whole = path.read_bytes()
    path.write_bytes(whole + b'{"schema":1,"run":"torn')
    assert remember(path, pair[1])
    assert [known["run"] for known in read_history(path)] == ["a", "b"]
    assert path.read_bytes().startswith(whole)


@pytest.mark.parametrize(
    "line", [b"[]", b"{}", b'{"schema":2}', b"\xff\xfe", b"nonsense", b'{"schema":1,"run":"x"}']
)
def test_lines_that_are_not_entries_are_left_out(tmp_path: Path, pair: Any, line: bytes):
    path = tmp_path / "history.jsonl"
    path.write_bytes(line + b"\n")
    remember(path, pair[0])
    assert [known["run"] for known in read_history(path)] == ["a"]


def test_comparable_runs(tmp_path: Path, pair: Any):
    before, after = pair
    other_profile = before | {"run": "c", "profile": "nightly"}
    others = entry(tmp_path / "d", factory.passing(5))
    later = after | {"run": "e", "started": "2025-12-01T00:00:00.000+00:00"}
    assert comparable([before, other_profile, others, after, later], after) == [before]
    assert previous([], after) is None


def test_a_comparison_has_no_control_characters(tmp_path: Path):
    hostile = divergence(3, summary=factory.HOSTILE.replace("\ud800", ""))
    text = "\n".join(
        format_comparison(compare(entry(tmp_path / "a", run()), entry(tmp_path / "b", run(hostile))))
    )
    assert "\\x1b" in text
    assert "\x1b" not in text


def test_a_report_has_the_change_since_the_last_run(tmp_path: Path):
    render(write(tmp_path / "runs" / "a", run(divergence(0))))
    page = render(write(tmp_path / "runs" / "b", run(error(2, "my-assigner")))).read_text()
    assert '<details class="since"><summary><b>Since the last run' in page, "folded above the causes"
    assert "1 new, 1 fixed." in page
    assert page.count('<span class="badge new">new</span>') == 1
    assert 'id="trend"' in page
    again = render(tmp_path / "runs" / "b").read_text()
    assert again == page
    assert len(read_history(tmp_path / "runs" / "history.jsonl")) == 2


def test_the_change_is_open_where_nothing_failed(tmp_path: Path):
    render(write(tmp_path / "runs" / "a", run(divergence(0))))
    page = render(write(tmp_path / "runs" / "b", run())).read_text()
    assert '<details class="since" open>' in page


def test_the_first_report_has_no_change(tmp_path: Path):
    page = render(write(tmp_path / "runs" / "a", run(divergence(0)))).read_text()
    assert "Since the last run" not in page
    assert 'id="trend"' not in page


def test_a_report_elsewhere_leaves_no_history(tmp_path: Path):
    (tmp_path / "out").mkdir()
    render(write(tmp_path / "runs" / "a", run()), tmp_path / "out")
    assert not (tmp_path / "runs" / "history.jsonl").exists()


def test_the_report_is_written_even_if_the_history_cannot_be(tmp_path: Path):
    folder = write(tmp_path / "runs" / "a", run())
    (tmp_path / "runs" / "history.jsonl").mkdir()
    assert render(folder).is_file()


def test_compare_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = write(tmp_path / "a", run()), write(tmp_path / "b", run(divergence(0)))
    assert main(["compare", str(a), str(b)]) == 1
    assert "new: my-assigner divergent at conflict (TAL-CONF-1)" in capsys.readouterr().out
    assert main(["compare", str(b), str(a)]) == 0
    assert "fixed: my-assigner" in capsys.readouterr().out
    assert main(["compare", str(a), str(tmp_path / "none")]) == 2


def test_a_trend_needs_two_runs(pair: Any):
    assert trend_of(pair[:1]) is None
    trend = trend_of(pair)
    assert trend.runs == 2
    (row,) = trend.rows
    assert row.name == "my-assigner"
    assert next(line.text for line in row.lines) == "2"


def test_a_sparkline():
    line = sparkline([1.0, 3.0, 2.0])
    assert line.path == "M0 21L60 3L120 12"
    assert line.last == (120.0, 12.0)
    assert (line.text, line.range) == ("2", "1 to 3")


def test_a_sparkline_is_broken_where_a_number_is_missing():
    assert sparkline([1.0, None, 3.0, float("nan"), 2.0]).path.count("M") == 3
    assert sparkline([None, None]).path == ""
    assert sparkline([2.0, 2.0]).last == (120.0, HEIGHT / 2)
    assert sparkline([2.0, None]).text == "–"


@pytest.mark.parametrize(("cpu", "told"), [("Example CPU @ 2.5 GHz (2 cores)", 1), ("another", 0)])
def test_benchmarks_have_the_ratio_of_the_last_run_on_such_a_machine(tmp_path: Path, cpu: str, told: int):
    first, second = run(), run(environment=factory.ENVIRONMENT | {"cpu": cpu})
    first.insert(1, ("benchmark", benchmark(ratio=0.777)))
    second.insert(1, ("benchmark", benchmark(ratio=0.62)))
    render(write(tmp_path / "runs" / "a", first))
    page = render(write(tmp_path / "runs" / "b", second)).read_text()
    assert page.count('<td class="soft" data-label="last run">0.777×</td>') == told


def powered(folder: Path, survivors: int, started: str = "2025-11-24T02:10:33.000+00:00", **fields: Any):
    """Return the history entry of a run with planted faults: nine found, and `survivors` not found."""
    faults = [factory.power(number, **fields) for number in range(8)] + [factory.power(8, **fields)]
    faults += [factory.power(9, fault=f"survivor {number}", **fields) for number in range(survivors)]
    return entry(folder, [*factory.planting(0), *(("power", one) for one in faults)], started)


def test_planted_faults_have_a_trend_of_their_own(tmp_path: Path):
    before = powered(tmp_path / "a", 2)
    between = entry(tmp_path / "b", run(), "2025-11-25T02:10:33.000+00:00")
    after = powered(tmp_path / "c", 0, "2025-11-26T02:10:33.000+00:00")
    later = powered(tmp_path / "d", 1, "2025-11-27T02:10:33.000+00:00")
    known = with_power([before, between, later], after)
    assert [one["run"] for one in known] == ["a", "c"]
    (row,) = power_trend_of(known).rows
    assert row.name == "ci"
    assert [(line.text, line.range) for line in row.lines] == [
        ("100 %", "80 % to 100 %"),
        ("0", "0 to 2"),
        ("3.5", ""),
    ]
    assert power_trend_of([after]) is None
    assert [one["run"] for one in with_power([before], between)] == ["a"]


def test_each_profile_that_plants_faults_has_its_line(tmp_path: Path):
    entries = [powered(tmp_path / "a", 1), powered(tmp_path / "b", 1, profile="nightly")]
    trend = power_trend_of(entries)
    assert {row.name: row.lines[0].text for row in trend.rows} == {"nightly": "88.9 %", "ci": "–"}


@pytest.mark.parametrize(
    "said", [{"ci": None}, {"ci": {"mutants": "many"}}, {"ci": {}}, {"ci": {"mutants": 0, "killed": 0}}]
)
def test_a_history_with_foreign_lines_has_a_trend(tmp_path: Path, said: Any):
    one = powered(tmp_path / "a", 1)
    (row,) = power_trend_of([one, one | {"power": said}]).rows
    assert row.lines[0].text == "–"


def test_the_trend_of_planted_faults_is_in_the_report_of_every_later_run(tmp_path: Path):
    lines = factory.planting(10)
    first = render(write(tmp_path / "runs" / "a", lines)).read_text()
    assert "Trend of planted faults" not in first
    assert "Trend of planted faults" in render(write(tmp_path / "runs" / "b", lines)).read_text()
    assert "Trend of planted faults" in render(write(tmp_path / "runs" / "c", run())).read_text()


@pytest.mark.parametrize("option", [["--case", "cases/0a.safetensors"], ["--case=cases/0a.safetensors"]])
def test_a_run_of_case_files_is_not_stored(tmp_path: Path, option: list[str]):
    render(write(tmp_path / "runs" / "a", run(divergence(0))))
    render(write(tmp_path / "runs" / "b", run(divergence(0), command=["pytest", "conformance", *option])))
    assert [known["run"] for known in read_history(tmp_path / "runs" / "history.jsonl")] == ["a"]


def test_with_many_new_causes_some_are_listed_and_all_are_counted(tmp_path: Path):
    letters = "abcdefghijklmnopqrstuvwxyz"
    many = [error(number, "my-assigner", summary=f"raised {letters[number]}") for number in range(26)]
    render(write(tmp_path / "runs" / "a", run()))
    page = render(write(tmp_path / "runs" / "b", run(*many))).read_text()
    assert "<summary>26 new</summary>" in page
    assert "<li>and 6 more</li>" in page


def test_an_implementation_that_could_not_be_loaded_counts_as_new(tmp_path: Path):
    absent = {"implementation": "nope", "device": None, "reason": "no module named nope"}
    asked = run_line([implementation("ultralytics"), implementation("nope", capabilities=[])])
    before = entry(tmp_path / "a", [("run", run_line()), ("batch", batch()), ("end", {"exit": 0})])
    after = entry(
        tmp_path / "b", [("run", asked), ("batch", batch()), ("not_tested", absent), ("end", {"exit": 1})]
    )
    assert [cause["implementation"] for cause in compare(before, after).new] == ["nope"]
