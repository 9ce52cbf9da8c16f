"""summary.json, the interface for other tools."""

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from tests.common import run_logs as factory
from tests.common.run_logs import batch, divergence, error, implementation, line, raw, run_line

from tal_reports import RunLog, read_log, summarise, terminal_table
from tal_reports.analysis.summary import unsupported_sentence, write_summary
from tal_reports.log.batches import MAX_REASONS, OTHER_REASONS
from tal_reports.log.schemas import FOLDER, fault, kinds, schema

CONTRACT = {
    *("schema", "run", "started", "finished", "profile", "seed", "environment", "devices", "implementations"),
    *("hazards", "benchmarks", "exit"),
}


def summary_of(folder: Path, lines: factory.Lines) -> dict[str, Any]:
    return summarise(read_log(factory.write(folder, lines)))


def test_a_run_that_conforms(run_dir: Path):
    summary = summary_of(run_dir, factory.passing(90))
    assert summary.keys() >= CONTRACT
    assert (summary["schema"], summary["run"], summary["exit"]) == (3, run_dir.name, 0)
    assert summary["profile"] == "ci"
    assert summary["seed"] == "0"
    assert summary["devices"] == {"cpu": "tested", "cuda": "not tested: no such device"}
    assert summary["started"] <= summary["finished"]
    first, second = summary["implementations"]
    assert (first["name"], first["version"], first["dialect"]) == (
        "ultralytics",
        "8.4.190",
        "ultralytics-8.4.190",
    )
    assert first["batches"] == second["batches"] == 45 == sum(first["verdicts"].values())
    assert set(first["verdicts"]) == {
        "exact", "within_bound", "admissible", "rejected", "inconclusive", "not_supported", "known", "divergent",
        "error", "nondeterministic",
    }  # fmt: skip
    assert [one["result"] for one in (first, second)] == ["conforms", "conforms"]
    assert first["first_divergences"] == []
    assert summary["benchmarks"][0]["name"] == "assign forward 16x640 80c 50gt"
    assert summary["benchmarks"][0]["ratio_to_official"] == 0.62
    assert [one["stage"] for one in summary["differences"]] == ["candidates", "conflict"]
    assert summary["problems"] == []


def test_a_run_with_a_divergence(run_dir: Path):
    summary = summary_of(run_dir, factory.failing(1))
    mine = summary["implementations"][2]
    assert (mine["name"], mine["result"], mine["verdicts"]["divergent"]) == ("my-assigner", "divergent", 1)
    (first,) = mine["first_divergences"]
    assert first == {
        "stage": "conflict",
        "clause": "TAL-CONF-1",
        "case": "0000c0ffee00",
        "summary": "an anchor goes to a ground truth that it does not overlap most",
        "verdict": "divergent",
        "id": first["id"],
        "choice": None,
        "tests": ["test_contested_anchor"],
        "follows": [],
    }
    assert mine["identification"] is None
    assert re.fullmatch("[0-9a-f]{10}", first["id"])
    assert summary["exit"] == 1


def test_first_divergences_are_causes_the_worst_first(run_dir: Path):
    lines = [
        ("divergence", divergence(1, stage="gradients")),
        ("divergence", divergence(2)),
        ("divergence", error(3, "my-assigner", summary="raised IndexError: 3")),
        ("divergence", error(4, "my-assigner", summary="raised IndexError: 4")),
    ]
    summary = summary_of(run_dir, [("run", run_line([implementation("my-assigner")])), *lines])
    (one,) = summary["implementations"]
    found = [(first["verdict"], first["stage"], first["clause"]) for first in one["first_divergences"]]
    expected = [
        ("error", None, None),
        ("divergent", "conflict", "TAL-CONF-1"),
        ("divergent", "gradients", "LOSS-GRAD-1"),
    ]
    assert found == expected
    assert one["result"] == "error"


def test_a_divergence_counts_even_if_its_batch_line_is_lost(run_dir: Path):
    summary = summary_of(
        run_dir, [("run", run_line()), ("divergence", divergence(name="ultralytics")), ("end", {"exit": 0})]
    )
    (one,) = summary["implementations"]
    assert (one["verdicts"]["divergent"], one["batches"]) == (1, 0)
    assert summary["exit"] == 1


def test_an_implementation_that_could_not_be_loaded_is_an_error(run_dir: Path):
    asked = run_line([implementation(), implementation("nope", version="unknown", capabilities=[])])
    absent = {"implementation": "nope", "device": None, "reason": "no module named nope"}
    summary = summary_of(
        run_dir, [("run", asked), ("batch", batch()), ("not_tested", absent), ("end", {"exit": 1})]
    )
    one = summary["implementations"][1]
    assert (one["name"], one["result"], one["batches"], one["verdicts"]["error"]) == ("nope", "error", 0, 1)
    assert one["first_divergences"][0].items() >= {
        "stage": None, "clause": None, "case": None, "summary": "no module named nope", "verdict": "error",
    }.items()  # fmt: skip
    assert absent in summary["not_tested"]


def test_an_untested_device_is_not_an_error(run_dir: Path):
    absent = {"implementation": "ultralytics", "device": "cuda", "reason": "out of memory"}
    summary = summary_of(
        run_dir, [("run", run_line()), ("batch", batch()), ("not_tested", absent), ("end", {"exit": 0})]
    )
    assert summary["implementations"][0]["result"] == "conforms"
    assert summary["exit"] == 0


@pytest.mark.parametrize(
    ("capabilities", "words"),
    [
        (["assign", "loss", "stages"], []),
        (["assign", "stages"], ["no loss"]),
        (["loss"], ["stages of the assigner are not exposed"]),
        ([], []),
    ],
)
def test_missing_capabilities_are_reported_as_not_tested(
    run_dir: Path, capabilities: list[str], words: list[str]
):
    run = run_line([implementation(capabilities=capabilities)], devices={"cpu": "tested"})
    summary = summary_of(run_dir, [("run", run), ("batch", batch()), ("end", {"exit": 0})])
    reasons = [one["reason"] for one in summary["not_tested"]]
    assert len(reasons) == len(words)
    assert all(word in reason for word, reason in zip(words, reasons, strict=True))


def test_nothing_is_passed_silently(run_dir: Path):
    summary = summary_of(run_dir, [("run", run_line()), ("end", {"exit": 0})])
    assert summary["implementations"][0]["result"] == "not tested"
    assert {"implementation": "ultralytics", "device": None, "reason": "no batch was judged"} in summary[
        "not_tested"
    ]
    assert {"implementation": None, "device": "cuda", "reason": "no such device"} in summary["not_tested"]


def test_a_repeated_reason_is_reported_once(run_dir: Path):
    absent = {"implementation": None, "device": "cuda", "reason": "no such device"}
    summary = summary_of(run_dir, [("run", run_line()), ("batch", batch()), ("not_tested", absent)])
    assert summary["not_tested"] == [absent]


def test_a_killed_run_has_not_finished_and_fails(run_dir: Path):
    summary = summary_of(run_dir, factory.passing(20)[:-1])
    assert summary["finished"] is None
    assert summary["exit"] == 1
    assert "did not finish" in summary["problems"][0]


def test_a_run_with_a_failing_exit_status_has_a_problem(run_dir: Path):
    summary = summary_of(run_dir, [*factory.passing(20)[:-1], ("end", {"exit": 3})])
    assert summary["exit"] == 1
    assert "exit status 3" in summary["problems"][0]


def test_training_that_disagrees_is_a_divergence(run_dir: Path):
    lines = [
        ("run", run_line()),
        ("batch", batch()),
        ("training", factory.training(agrees=False)),
        ("end", {"exit": 0}),
    ]
    summary = summary_of(run_dir, lines)
    assert summary["implementations"][0]["result"] == "divergent"
    assert summary["exit"] == 1


def test_hazards_never_reached_are_named(run_dir: Path):
    summary = summary_of(run_dir, [("run", run_line()), ("batch", batch(hazards=["tiny"]))])
    assert summary["hazards"] == {"tiny": 1} | dict.fromkeys(factory.HAZARDS.keys() - {"tiny"}, 0)
    assert next(iter(summary["hazards"])) == "tiny"


def test_implementations_missing_in_the_run_line_are_included(run_dir: Path):
    summary = summary_of(run_dir, [("run", run_line()), ("batch", batch(name="ghost"))])
    assert [one["name"] for one in summary["implementations"]] == ["ultralytics", "ghost"]
    assert summary["implementations"][1]["version"] is None


def test_non_finite_numbers_are_strings(run_dir: Path):
    lines = [
        ("run", run_line()),
        ("batch", batch(stages={"box": float("inf")}, verdict="exact")),
        ("training", factory.training(worst=float("nan"))),
        ("benchmark", factory.benchmark() | {"ratio_to_official": float("inf")}),
    ]
    summary = summary_of(run_dir, lines)
    assert summary["implementations"][0]["margins"]["box"]["largest"] == "inf"
    assert summary["training"][0]["worst"] == "nan"
    assert summary["benchmarks"][0]["ratio_to_official"] == "inf"
    json.dumps(summary, allow_nan=False)


def test_the_summary_is_written_atomically_and_read_back(run_dir: Path, tmp_path: Path):
    summary = summary_of(run_dir, factory.failing(4))
    path = write_summary(summary, tmp_path)
    assert json.loads(path.read_text()) == summary
    assert sorted(file.name for file in tmp_path.iterdir()) == ["runs", "summary.json"]


@pytest.mark.parametrize("name", ["log", "summary"])
def test_the_schemas_are_schemas(name: str):
    Draft202012Validator.check_schema(schema(name))
    assert (FOLDER / f"{name}.schema.json").is_file()


@pytest.mark.parametrize("lines", [factory.passing(30), factory.failing(8)])
def test_written_files_follow_the_schemas(run_dir: Path, lines: factory.Lines):
    # The files are validated by jsonschema, without code of this project in between.
    factory.write(run_dir, lines)
    for text in (run_dir / "log.jsonl").read_text().splitlines():
        Draft202012Validator(schema("log")).validate(json.loads(text))
    Draft202012Validator(schema("summary")).validate(summarise(read_log(run_dir)))


BREAKS = {
    "without a run": lambda summary: summary.pop("run"),
    "another schema": lambda summary: summary.update(schema=4),
    "exit 2": lambda summary: summary.update(exit=2),
    "exit true": lambda summary: summary.update(exit=None),
    "a verdict is missing": lambda summary: summary["implementations"][0]["verdicts"].pop("known"),
    "a count is negative": lambda summary: summary["implementations"][0]["verdicts"].update(exact=-1),
    "a count is no number": lambda summary: summary["hazards"].update(tiny="many"),
    "a divergence has no stage": lambda summary: summary["implementations"][2]["first_divergences"][0].pop(
        "stage"
    ),
    "a ratio is text": lambda summary: summary["benchmarks"][0].update(ratio_to_official="fast"),
    "devices are a list": lambda summary: summary.update(devices=["cpu"]),
    "an unknown result": lambda summary: summary["implementations"][0].update(result="fine"),
}


@pytest.mark.parametrize("break_it", BREAKS.values(), ids=BREAKS)
def test_a_broken_summary_fails(run_dir: Path, break_it: Any):
    summary = summary_of(run_dir, factory.failing(1))
    assert fault(summary, "summary") is None
    broken = copy.deepcopy(summary)
    break_it(broken)
    assert fault(broken, "summary") is not None


@pytest.mark.parametrize(
    "kind", ["run", "batch", "divergence", "difference", "benchmark", "training", "scope"]
)
def test_required_fields_are_required(kind: str):
    fields = {
        "run": run_line, "batch": batch, "divergence": divergence, "difference": factory.difference,
        "benchmark": factory.benchmark, "training": factory.training, "scope": factory.scope,
    }[kind]()  # fmt: skip
    whole = line(kind, fields)
    assert fault(whole, "log") is None
    required = set(schema("log")["$defs"][kind].get("required", ()))
    required |= (
        set(schema("log")["$defs"]["shown"]["required"]) if kind in ("divergence", "difference") else set()
    )
    for name in required:
        wrong = fault({key: value for key, value in whole.items() if key != name}, "log")
        assert wrong is not None
        assert name in wrong


def test_a_fault_says_where_and_stays_short():
    wrong = fault(
        line("divergence", divergence(values=[{"where": "x" * 10_000, "quantity": 7}])), "log", "divergence"
    )
    assert wrong is not None
    assert wrong.startswith("values[0]")
    assert len(wrong) < 300


def test_the_log_is_only_read(run_dir: Path):
    run_dir.mkdir(parents=True)
    content = raw(line("run", run_line()), line("batch", batch()))
    (run_dir / "log.jsonl").write_bytes(content)
    summarise(read_log(run_dir))
    assert (run_dir / "log.jsonl").read_bytes() == content
    assert [path.name for path in run_dir.iterdir()] == ["log.jsonl"]


def test_unknown_kinds_are_valid_for_readers_and_rejected_by_writers(run_dir: Path):
    later = line("weather", {"rain": 9})
    assert fault(later, "log") is None  # so that the log of a later version can be read
    with (
        RunLog.create(run_dir.parent, "later") as log,
        pytest.raises(ValueError, match="unknown kind"),
    ):
        log.append("weather", rain=9)
    assert kinds() <= set(schema("log")["$defs"])


def test_the_cost_of_judging(run_dir: Path):
    times = {"milliseconds": 30.0, "call_milliseconds": 5.0, "drawing_milliseconds": 20.0}
    untimed = {"milliseconds": 9.0}
    lines = [
        ("run", run_line([implementation("ultralytics")])),
        *(("batch", batch(number, **times)) for number in (1, 2)),
        ("batch", batch(3, **untimed)),
        ("batch", batch(4, **times, phase="shrink")),
        ("batch", batch(5, **(times | {"call_milliseconds": "inf"}))),
    ]
    (one,) = summary_of(run_dir, lines)["implementations"]
    assert one["cost"]["batches"] == 2
    assert one["cost"]["seconds"] == pytest.approx(0.1)
    assert one["cost"]["call_seconds"] == pytest.approx(0.01)
    assert one["cost"]["times_the_call"] == pytest.approx(10)
    assert one["cost"]["batches_per_second"] == pytest.approx(20)


def test_a_run_without_timed_calls_has_no_ratio(run_dir: Path):
    (one,) = summary_of(run_dir, [("run", run_line([implementation("ultralytics")]))])["implementations"]
    assert (one["cost"]["times_the_call"], one["cost"]["batches_per_second"]) == (None, None)


def test_an_untested_precision_is_not_an_error(run_dir: Path):
    reason = {"implementation": "ultralytics", "device": None, "reason": "precision float64: not declared"}
    lines = [("run", run_line([implementation("ultralytics")])), ("not_tested", reason), ("end", {"exit": 0})]
    (one,) = summary_of(run_dir, lines)["implementations"]
    assert one["result"] == "not tested"
    assert one["verdicts"]["error"] == 0


Counts = tuple[int, int | None]


def result_with(run_dir: Path, lines: factory.Lines, *counts: Counts, end: bool = True) -> dict[str, Any]:
    """Write a run with (planned, finished) counts of tests, and return its implementation's summary."""
    tests = [
        ("tests", {"implementation": "ultralytics", "planned": planned, "finished": finished})
        for planned, finished in counts
    ]
    whole = factory.passing(20)
    first: dict[str, Any] = summary_of(run_dir, [*whole[:-1], *lines, *tests, *whole[-1:] * end])[
        "implementations"
    ][0]
    return first


@pytest.mark.parametrize(
    ("counts", "result"),
    [
        ([], "conforms"),
        ([(104, None), (104, 104)], "conforms"),
        ([(104, 12), (104, None)], "not finished"),
        ([(104, None)], "not finished"),
    ],
)
def test_only_an_implementation_whose_tests_all_finished_conforms(
    run_dir: Path, counts: list[Counts], result: str
):
    assert result_with(run_dir, [], *counts)["result"] == result


def test_an_implementation_of_a_killed_run_has_not_finished(run_dir: Path):
    line = result_with(run_dir, [], (104, None), end=False)
    assert (line["result"], line["tests"]) == ("not finished", {"planned": 104, "finished": None})


def test_an_implementation_with_too_many_inconclusive_batches_does_not_conform(run_dir: Path):
    fields = {"device": "cpu", "test": "test_loss", "batches": 40, "inconclusive": 30, "reason": "30 of 40"}
    line = result_with(run_dir, [("inconclusive", fields | {"implementation": "ultralytics"})])
    assert line["result"] == "inconclusive"


@pytest.mark.parametrize("verdict", ["rejected", "inconclusive"])
def test_an_implementation_without_any_other_verdict_does_not_conform(run_dir: Path, verdict: str):
    lines = [("batch", factory.batch(number, verdict=verdict)) for number in range(5)]
    run = [("run", factory.run_line()), *lines, ("end", {"exit": 0})]
    assert summary_of(run_dir, run)["implementations"][0]["result"] == "inconclusive"


def test_undecided_batches_of_older_logs_are_inconclusive(run_dir: Path):
    lines = [
        ("batch", factory.batch(number, verdict="exact", undecided=number < 3, phase="generate"))
        for number in range(5)
    ]
    verdicts = summary_of(run_dir, [("run", factory.run_line()), *lines])["implementations"][0]["verdicts"]
    assert (verdicts["inconclusive"], verdicts["exact"]) == (3, 2)


def test_the_share_of_inconclusive_batches_is_told_by_clause_group(run_dir: Path):
    lines = [
        (
            "batch",
            factory.batch(number, verdict="inconclusive" if number < 3 else "exact", clause_group="LOSS"),
        )
        for number in range(12)
    ]
    log = read_log(factory.write(run_dir, [("run", factory.run_line()), *lines, ("end", {"exit": 0})]))
    summary = summarise(log)
    first = summary["implementations"][0]
    assert first["result"] == "conforms"
    groups = {
        group: (count["inconclusive"], count["batches"]) for group, count in first["inconclusive"].items()
    }
    assert groups == {"LOSS": (3, 12)}
    told = "3 inconclusive batches, judged in part: 3 of 12 in LOSS (25.0%)"
    assert told in [line["reason"] for line in summary["not_tested"]]
    assert told in terminal_table(log)


def test_reasons_of_undecided_batches_are_counted(run_dir: Path):
    reasons = [["not enough time"], ["not enough time", "not defined"], []]
    lines = [
        ("batch", factory.batch(number, verdict="inconclusive", undecided=True, undecided_because=because))
        for number, because in enumerate(reasons)
    ]
    counted = summary_of(run_dir, [("run", factory.run_line()), *lines])["implementations"][0]
    assert counted["undecided"] == 3
    assert counted["undecided_because"] == {"not enough time": 2, "not defined": 1}


def unsupported_run(excluded: int, judged: int) -> factory.Lines:
    """Return log lines of a run whose implementation rejects `excluded` batches and is judged on `judged`."""
    lines = [batch(number, "limited", verdict="exact") for number in range(judged)]
    for number in range(excluded):
        reason = "16 bins only" if number % 3 else "no topk2"
        lines.append(batch(judged + number, "limited", verdict="not_supported", stages={}, reason=reason))
    rows = [("batch", one) for one in lines]
    return [("run", run_line([implementation("limited")])), *rows, ("end", {"exit": 0})]


def test_batches_that_are_not_supported_are_counted_with_their_share_and_reasons(run_dir: Path):
    summary = summary_of(run_dir, unsupported_run(30, 70))
    (line,) = summary["implementations"]
    assert line["not_supported"] == {
        "batches": 30,
        "share": 0.3,
        "reasons": {"16 bins only": 20, "no topk2": 10},
    }
    assert line["verdicts"]["not_supported"] == 30
    assert line["result"] == "conforms"
    assert unsupported_sentence(line) == "30 of 100 batches (30 %): 16 bins only (20); no topk2 (10)"
    assert fault(summary, "summary") is None


def test_an_implementation_that_supports_nothing_does_not_conform(run_dir: Path):
    (line,) = summary_of(run_dir, unsupported_run(30, 0))["implementations"]
    assert line["result"] == "inconclusive"


def test_the_number_of_counted_reasons_is_bounded(run_dir: Path):
    lines = [
        batch(number, "limited", verdict="not_supported", reason=f"reason {number}") for number in range(50)
    ]
    run = [("run", run_line([implementation("limited")])), *(("batch", one) for one in lines)]
    (line,) = summary_of(run_dir, run)["implementations"]
    assert len(line["not_supported"]["reasons"]) == MAX_REASONS + 1
    assert line["not_supported"]["reasons"][OTHER_REASONS] == 50 - MAX_REASONS
