"""Merging of shards (runs of parts of the suite) into one run."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tests.common import run_logs as factory
from tests.common.run_logs import batch, divergence, implementation, run_line, write

from tal_reports import LogError, read_log
from tal_reports.__main__ import main
from tal_reports.analysis.merge import merge

GPU = {"cpu": "not tested: not asked for", "cuda": "tested"}


def shard(
    folder: Path,
    name: str = "ultralytics",
    version: str = "8.4.190",
    device: str = "cpu",
    torch: str = "2.14.1",
    exit_status: Any = 0,
    extra: Any = (),
    **fields: Any,
):
    """Write a run of one implementation on one device, with the given log fields, and return its folder."""
    run = run_line(
        [implementation(name, version=version)], environment=factory.ENVIRONMENT | {"torch": torch}, **fields
    )
    lines = [
        ("run", run),
        (
            "not_tested",
            {
                "implementation": None,
                "device": "cuda" if device == "cpu" else "cpu",
                "reason": "not asked for",
            },
        ),
        *(("batch", batch(number, name, device=device)) for number in range(9)),
        *extra,
    ]
    return write(folder, [*lines, ("end", {"exit": exit_status})] if exit_status is not None else lines)


@pytest.mark.parametrize("how", ["the same folder", "its log", "a copy"])
def test_a_run_is_not_merged_with_itself(how: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    run, other = shard(tmp_path / "a" / "1"), shard(tmp_path / "b" / "1", device="cuda")
    again = {"the same folder": run, "its log": run / "log.jsonl", "a copy": tmp_path / "copy"}[how]
    if how == "a copy":
        shutil.copytree(run, again)
    assert main(["merge", str(run), str(other), str(again), "--into", str(tmp_path / "merged")]) == 2
    assert "are the same run, whose batches would count twice: name the run once" in capsys.readouterr().err
    assert not (tmp_path / "merged").exists()


def test_two_devices_become_one_run(tmp_path: Path):
    cpu = shard(tmp_path / "cpu")
    cuda = shard(tmp_path / "cuda", device="cuda", devices=GPU)
    log = read_log(merge([cpu, cuda], tmp_path / "all"))
    assert log.run["devices"] == {"cpu": "tested", "cuda": "tested"}
    assert log.batches.judged == 18
    assert {cell.device for cell in log.batches.cells} == {"cpu", "cuda"}
    assert log.not_tested == []  # each device was tested by the other shard
    assert log.seconds is None  # the shards ran at different times
    assert read_log(cpu).seconds is not None
    assert log.end["exit"] == 0
    assert log.problems.sentences() == []


def test_devices_of_shards_with_different_torch_are_distinguished(tmp_path: Path):
    old, new = shard(tmp_path / "old", torch="2.9.0"), shard(tmp_path / "new")
    log = read_log(merge([old, new], tmp_path / "all"))
    assert {cell.device for cell in log.batches.cells} == {"cpu, torch 2.9.0", "cpu, torch 2.14.1"}
    assert log.run["environment"]["torch"] == {"old": "2.9.0", "new": "2.14.1"}
    assert log.run["environment"]["cpu"] == factory.ENVIRONMENT["cpu"]


def test_versions_of_one_implementation_are_distinguished(tmp_path: Path):
    found = divergence(0, "ultralytics")
    old = shard(tmp_path / "old", version="8.3.0", extra=[("divergence", found)], exit_status=1)
    log = read_log(merge([old, shard(tmp_path / "new")], tmp_path / "all"))
    names = {"ultralytics 8.3.0", "ultralytics 8.4.190"}
    assert {one["name"] for one in log.run["implementations"]} == names
    assert {cell.implementation for cell in log.batches.cells} == names
    assert [line["implementation"] for line in log.divergences] == ["ultralytics 8.3.0"]
    assert log.end["exit"] == 1


def test_cases_are_copied_and_commands_have_their_new_paths(tmp_path: Path):
    found = divergence(0)
    a = shard(tmp_path / "a", "my-assigner", extra=[("divergence", found)], exit_status=1)
    (a / "cases" / f"{found['case']}.safetensors").write_bytes(b"content")
    (a / "benchmark.json").write_text("{}")
    into = merge([a, shard(tmp_path / "b")], tmp_path / "all")
    assert (into / "cases" / f"{found['case']}.safetensors").read_bytes() == b"content"
    assert (into / "benchmark-a.json").is_file()
    (line,) = read_log(into).divergences
    path = f"{into}/cases/{found['case']}.safetensors"
    assert line["reproduce"]["pytest"] == f"pytest conformance --implementation my.py:A --case {path}"
    assert line["reproduce"]["python"].endswith(f'check("my.py:A", "{path}")')
    assert line["reproduce"]["example"] == found["reproduce"]["example"]


def test_paths_with_spaces_are_moved_too(tmp_path: Path):
    case = "0000c0ffee00"
    old = f"/some where/runs/1/cases/{case}.safetensors"
    commands = {
        "pytest": f"pytest conformance --implementation 'my a.py:A' --case '{old}'",
        "python": f'check("my a.py:A", "{old}")',
        "example": "@example(recipe=Recipe())",
    }
    a = shard(
        tmp_path / "a",
        "my-assigner",
        extra=[("divergence", divergence(0, reproduce=commands))],
        exit_status=1,
    )
    (line,) = read_log(merge([a], tmp_path / "all to gether")).divergences
    new = f"{tmp_path}/all to gether/cases/{case}.safetensors"
    assert line["reproduce"] == {
        "pytest": f"pytest conformance --implementation 'my a.py:A' --case '{new}'",
        "python": f'check("my a.py:A", "{new}")',
        "example": "@example(recipe=Recipe())",
    }


def test_a_killed_shard_counts_with_its_logged_batches(tmp_path: Path):
    killed = shard(tmp_path / "killed", exit_status=None)
    with (killed / "log.jsonl").open("ab") as file:
        file.write(b'{"kind":"batch","ti')
    log = read_log(merge([killed, shard(tmp_path / "b")], tmp_path / "all"))
    assert log.batches.judged == 18
    assert log.end["exit"] == 1
    assert "the run killed did not finish" in log.not_tested[0]["reason"]


def test_shards_with_logs_of_workers(tmp_path: Path):
    a = shard(tmp_path / "a")
    line = factory.line("batch", batch(50))
    (a / "log-gw0.jsonl").write_bytes(factory.raw(line))
    assert read_log(merge([a], tmp_path / "all")).batches.judged == 10


def test_shards_of_one_name(tmp_path: Path):
    a, b = shard(tmp_path / "x" / "run"), shard(tmp_path / "y" / "run")
    into = merge([a, b], tmp_path / "all")
    assert len(list(into.glob("log-*.jsonl"))) == 2
    assert read_log(into).batches.judged == 18


def test_stages_of_all_shards_in_one_order(tmp_path: Path):
    def stages(*names: str) -> list[dict]:
        return [{"name": name, "clause": None} for name in names]

    a = shard(tmp_path / "a", stages=stages("decode", "top-k", "cls", "total"), terms=["cls"])
    b = shard(tmp_path / "b", stages=stages("angle", "decode", "cls", "pose", "total"), terms=["pose", "cls"])
    log = read_log(merge([a, b], tmp_path / "all"))
    assert log.stages == ["angle", "decode", "top-k", "cls", "pose", "total"]
    assert log.run["terms"] == ["pose", "cls"]


def test_a_shard_of_an_older_schema_can_be_merged(tmp_path: Path):
    a, b = shard(tmp_path / "a"), shard(tmp_path / "b")
    first, *rest = (b / "log.jsonl").read_text().splitlines()
    old = {key: value for key, value in json.loads(first).items() if key not in ("stages", "terms")}
    (b / "log.jsonl").write_text("\n".join([json.dumps(old | {"schema": 1}), *rest, ""]))
    log = read_log(merge([a, b], tmp_path / "all"))
    assert log.stages == read_log(a).stages
    assert log.problems.sentences() == []


def test_the_shards_are_not_changed(tmp_path: Path):
    a = shard(tmp_path / "a")
    before = (a / "log.jsonl").read_bytes()
    merge([a], tmp_path / "all")
    assert (a / "log.jsonl").read_bytes() == before


def test_invalid_merges(tmp_path: Path):
    a = shard(tmp_path / "a")
    with pytest.raises(LogError):
        merge([], tmp_path / "all")
    with pytest.raises(LogError):
        merge([a, tmp_path / "none"], tmp_path / "all")
    assert not (tmp_path / "all").exists()
    with pytest.raises(FileExistsError):
        merge([a], a)


def test_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    a, b = shard(tmp_path / "a"), shard(tmp_path / "b", "article", version="1")
    assert main(["merge", str(a), str(b), "--into", str(tmp_path / "all")]) == 0
    assert capsys.readouterr().out == f"{tmp_path / 'all' / 'report.html'}\n"
    summary = json.loads((tmp_path / "all" / "summary.json").read_text())
    assert [one["name"] for one in summary["implementations"]] == ["ultralytics", "article"]
    assert main(["merge", str(a), "--into", str(tmp_path / "all")]) == 2


def test_unusable_lines_are_left_out_and_counted(tmp_path: Path):
    cpu, other = shard(tmp_path / "cpu"), shard(tmp_path / "other")
    with (other / "log.jsonl").open("ab") as file:
        file.write(b'{"kind":"batch","verdict":"exact"}\n[1]\nnot JSON\n{"kind":"unheard"}\n')
        file.write(b'{"kind":"not_tested","reason":"' + b"x" * 2**25 + b'"}\n')
    merged = merge([cpu, other], tmp_path / "all")
    log = read_log(merged)
    assert log.batches.judged == 18
    assert log.problems.sentences() == []
    assert [line["reason"] for line in log.not_tested if "cannot be used" in str(line["reason"])] == [
        "5 lines of the run other cannot be used and were left out"
    ]


def test_links_are_not_copied(tmp_path: Path):
    cpu = shard(tmp_path / "cpu")
    secret = tmp_path / "secret"
    secret.write_text("secret", encoding="utf-8")
    (cpu / "cases").mkdir(exist_ok=True)
    for name in ("cases/0123456789ab.safetensors", "benchmark.json", "walkthrough.json"):
        (cpu / name).symlink_to(secret)
    merged = merge([cpu, shard(tmp_path / "other")], tmp_path / "all")
    assert [
        path.name for path in merged.rglob("*") if path.is_file() and path.read_bytes() == b"secret"
    ] == []


def test_two_cases_of_one_name_are_named(tmp_path: Path):
    folders = [shard(tmp_path / name) for name in ("first", "second")]
    for folder in folders:
        (folder / "cases").mkdir(exist_ok=True)
        (folder / "cases" / "0123456789ab.safetensors").write_text(folder.name, encoding="utf-8")
    merged = merge(folders, tmp_path / "all")
    assert (merged / "cases" / "0123456789ab.safetensors").read_text(encoding="utf-8") == "first"
    reasons = [line["reason"] for line in read_log(merged).not_tested]
    assert any(
        "cases/0123456789ab.safetensors of the run second was not copied" in str(reason) for reason in reasons
    )
