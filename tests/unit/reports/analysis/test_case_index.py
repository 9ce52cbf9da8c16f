"""`cases/index.tsv` says of each case file whether it is a failure, a declared difference or neither."""

import csv
from pathlib import Path

from tests.common.run_logs import divergence, run_line

from tal_reports import RunLog, read_log
from tal_reports.analysis.case_index import COLUMNS, NAME, write_case_index
from tal_reports.analysis.merge import merge
from tal_reports.html.render import render


def finished_run(folder: Path, name: str, *cases: str) -> Path:
    """Write a finished run with one divergence on each case, and a case file that the log does not mention."""
    with RunLog.create(folder, name) as log:
        log.append("run", **run_line())
        for case in cases:
            log.append("divergence", **divergence(case=case, summary="wrong\towner\nhere"))
        for case in (*cases, f"other{name}"):
            (log.folder / "cases" / f"{case}.safetensors").write_bytes(b"")
        log.finish(1)
    return folder / name


def table(run: Path) -> list[dict[str, str]]:
    with (run / "cases" / NAME).open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file, dialect="excel-tab"))


def test_failures_and_other_files_are_told_apart(tmp_path: Path):
    run = finished_run(tmp_path, "first", "aaaaaaaaaaaa")
    render(run)
    failure, other = table(run)
    assert set(failure) == set(COLUMNS)
    assert (failure["case"], failure["kind"], failure["verdict"]) == ("aaaaaaaaaaaa", "failure", "divergent")
    assert failure["summary"] == "wrong owner here"
    assert (other["case"], other["kind"], other["verdict"]) == ("otherfirst", "not in the log", "")


def test_a_run_without_cases_has_no_table(tmp_path: Path):
    with RunLog.create(tmp_path, "run") as log:
        log.append("run", **run_line())
        log.finish(0)
    assert write_case_index(read_log(tmp_path / "run"), tmp_path / "run") is None
    assert list((tmp_path / "run" / "cases").iterdir()) == []


def test_a_table_of_cases_that_no_longer_exist_is_removed(tmp_path: Path):
    run = finished_run(tmp_path, "first", "aaaaaaaaaaaa")
    render(run)
    for case in (run / "cases").glob("*.safetensors"):
        case.unlink()
    render(run)
    assert not (run / "cases" / NAME).exists()


def test_a_merged_run_has_a_table_of_all_cases(tmp_path: Path):
    runs = [finished_run(tmp_path, name, case) for name, case in (("a", "a" * 12), ("b", "b" * 12))]
    for run in runs:
        render(run)
    merged = merge(runs, tmp_path / "merged")
    assert "not copied" not in (merged / "log.jsonl").read_text(encoding="utf-8")
    render(merged)
    kinds = [row["kind"] for row in table(merged)]
    assert kinds.count("failure") == 2
    assert len(kinds) == 4
