"""Names like "../x", in logs or of implementations, do not create files outside the folder of a run."""

from pathlib import Path
from typing import Any

import pytest
from tests.common import run_logs as factory

from tal_conformance.implementations.outcome_file import outcome_path
from tal_reports import render
from tal_reports.__main__ import main
from tal_reports.analysis.merge import merge

HOSTILE = (
    "../../escaped",
    "/tmp/tal-conformance-escaped",
    "..",
    "a/../../escaped",
    "escaped\x00",
    "..\\escaped",
)


def hostile(value: Any, name: str) -> Any:
    """Return a copy of a log line in which every name (of a run, test, case ...) is `name`."""
    named = ("name", "run", "case", "implementation", "device", "test", "clause_group")
    if isinstance(value, dict):
        return {
            key: name if key in named and isinstance(content, str) else hostile(content, name)
            for key, content in value.items()
        }
    return [hostile(each, name) for each in value] if isinstance(value, list) else value


def files(folder: Path) -> set[Path]:
    return {path for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_log_whose_names_are_paths(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]):
    """A log with names that are paths is rendered, merged and printed without files outside the runs."""
    runs = tmp_path / "deep" / "runs"
    lines = [(kind, hostile(fields, name)) for kind, fields in factory.failing(2, batches=2)]
    one, other = factory.write(runs / "one", lines), factory.write(runs / "other", lines)
    outside = files(tmp_path) - files(runs)
    render(one)
    merged = merge([one, other], runs / "merged")
    render(merged)
    for command in (["markdown", str(one)], ["compare", str(one), str(other)], ["issue", str(one)]):
        assert main(command) in (0, 1)
    assert files(tmp_path) - files(runs) == outside
    assert not Path("/tmp/tal-conformance-escaped").exists()
    told = {path.relative_to(runs).parts[0] for path in files(runs)}
    assert told <= {"one", "other", "merged", "history.jsonl"}


@pytest.mark.parametrize("name", HOSTILE)
def test_an_outcome_of_an_implementation_whose_name_is_a_path(tmp_path: Path, name: str):
    case = tmp_path / "cases" / "0a.safetensors"
    assert outcome_path(case, name, "cpu").resolve().parent == case.parent


def test_a_link_among_the_cases_is_not_followed(tmp_path: Path):
    secret = tmp_path / "secret"
    secret.write_text("secret", encoding="utf-8")
    shard = factory.write(tmp_path / "runs" / "shard", factory.passing(2))
    (shard / "cases").mkdir(exist_ok=True)
    (shard / "cases" / "0a.safetensors").symlink_to(secret)
    merged = merge([shard], tmp_path / "runs" / "merged")
    assert list((merged / "cases").iterdir()) == []
