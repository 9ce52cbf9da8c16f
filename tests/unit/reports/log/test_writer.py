"""Writing of run logs."""

import errno
import json
import os
import subprocess
import sys
from enum import StrEnum
from pathlib import Path

import pytest
from tests.common import run_logs as factory

from tal_reports import RunLog, read_log
from tal_reports.log.batches import VERDICTS, batch_fault
from tal_reports.log.schemas import fault
from tal_reports.log.writer import SCHEMA, new_run_id


class Colour(StrEnum):
    RED = "red"


def lines_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_has_a_folder_with_a_log_and_cases(tmp_path: Path):
    with RunLog.create(tmp_path / "deep" / "runs", "one") as log:
        log.append("run", **factory.run_line())
    assert log.folder == tmp_path / "deep" / "runs" / "one"
    assert (log.folder / "cases").is_dir()
    (line,) = lines_of(log.folder / "log.jsonl")
    assert (line["kind"], line["schema"], line["run"], line["profile"]) == ("run", SCHEMA, "one", "ci")


def test_an_existing_run_is_not_overwritten(run_dir: Path):
    factory.write(run_dir, factory.passing(3))
    before = (run_dir / "log.jsonl").read_bytes()
    with pytest.raises(FileExistsError):
        RunLog.create(run_dir.parent, run_dir.name)
    assert (run_dir / "log.jsonl").read_bytes() == before


def test_run_ids_differ_and_sort_by_time():
    ids = [new_run_id() for _ in range(200)]
    assert len(set(ids)) == 200
    assert [identity[:15] for identity in ids] == sorted(identity[:15] for identity in ids)


def test_a_line_is_on_disk_when_append_returns(run_dir: Path):
    code = (
        "import os, sys; from tal_reports import RunLog; log = RunLog.create(*sys.argv[1:])\n"
        "log.append('not_tested', reason='none')\nos.kill(os.getpid(), 9)"
    )
    killed = subprocess.run([sys.executable, "-c", code, str(run_dir.parent), run_dir.name], check=False)
    assert killed.returncode == -9
    assert [line["reason"] for line in lines_of(run_dir / "log.jsonl")] == ["none"]


def test_processes_do_not_mix_their_lines(run_dir: Path):
    RunLog.create(run_dir.parent, run_dir.name).close()
    code = (
        "import sys; from tal_reports import RunLog; log = RunLog(sys.argv[1])\n"
        "for n in range(300): log.append('not_tested', reason=sys.argv[2] * 5000)"
    )
    command = [sys.executable, "-c", code, str(run_dir)]
    running = [subprocess.Popen([*command, letter]) for letter in "abc"]
    assert [process.wait() for process in running] == [0, 0, 0]
    reasons = [line["reason"] for line in lines_of(run_dir / "log.jsonl")]
    assert sorted(reasons) == sorted(letter * 5000 for letter in "abc" for _ in range(300))


def test_a_worker_has_a_file_of_its_own(run_dir: Path):
    factory.write(run_dir, [("run", factory.run_line())])
    with RunLog(run_dir, worker="gw0") as log:
        log.append("batch", **factory.batch())
    assert [line["kind"] for line in lines_of(run_dir / "log-gw0.jsonl")] == ["batch"]
    assert read_log(run_dir).batches.judged == 1


@pytest.mark.parametrize("name", ["", "../up", "a/b", "a b", "é"])
def test_a_worker_name_with_a_path_is_rejected(run_dir: Path, name: str):
    RunLog.create(run_dir.parent, run_dir.name).close()
    with pytest.raises(ValueError, match="invalid worker name"):
        RunLog(run_dir, worker=name)


def test_values_become_json(run_dir: Path):
    with RunLog.create(run_dir.parent, run_dir.name) as log:
        fields = {
            "reason": Colour.RED,
            "path": Path("a/b"),
            "set": {"b", "a"},
            "tuple": (1, 2.5, None, True),
            "reals": [float("inf"), float("-inf"), float("nan")],
            "nested": {1: {"x": frozenset()}},
        }
        log.append("not_tested", **fields)
    (line,) = lines_of(log.path)
    assert line["reason"] == "red"
    assert line["path"] == "a/b"
    assert line["set"] == ["a", "b"]
    assert line["tuple"] == [1, 2.5, None, True]
    assert line["reals"] == ["inf", "-inf", "nan"]
    assert line["nested"] == {"1": {"x": []}}


def test_a_value_that_json_cannot_represent_is_rejected_before_writing(run_dir: Path):
    with RunLog.create(run_dir.parent, run_dir.name) as log:
        with pytest.raises(TypeError, match="cannot contain a object"):
            log.append("not_tested", reason="x", thing=object())
        assert log.path.read_bytes() == b""


@pytest.mark.parametrize(
    ("kind", "fields", "message"),
    [
        ("batch", {"verdict": "purple"}, "purple"),
        ("batch", {"case": 7}, "case"),
        ("divergence", {"verdict": "exact"}, "verdict"),
        ("end", {"exit": "zero"}, "exit"),
        ("surprise", {}, "surprise"),
    ],
)
def test_a_line_that_violates_the_schema_is_rejected(run_dir: Path, kind: str, fields: dict, message: str):
    whole = {"batch": factory.batch(), "divergence": factory.divergence()}.get(kind, {})
    with RunLog.create(run_dir.parent, run_dir.name) as log:
        with pytest.raises(ValueError, match=message):
            log.append(kind, **(whole | fields))
        assert log.path.read_bytes() == b""


@pytest.mark.parametrize(
    "change",
    [
        {},
        *(
            {name: 1}
            for name in ("implementation", "test", "clause_group", "case", "device", "dtype", "time")
        ),
        *({name: None} for name in ("implementation", "verdict", "uniqueness", "stages", "hazards", "phase")),
        *({"verdict": verdict} for verdict in (*VERDICTS, "EXACT", ["exact"], "")),
        *({"uniqueness": value} for value in ("unique", "tie", "near_tie", "twin", 0)),
        *({"milliseconds": value} for value in (0, -1.5, True, "3", "inf", "nan", None, 1e301, [])),
        *({"stages": {"a": value}} for value in (0.5, 3, None, "-inf", "big", True, {}, 10**400)),
        *({"hazards": value} for value in ([], ["a"], ["a", 1], "a", {})),
        {"stage": "conflict", "clause": "TAL-CONF-1"},
        {"stage": 1},
        {"clause": []},
        {"phase": 1},
        {"unknown": object},
    ],
    ids=str,
)
def test_the_quick_check_of_batches_rejects_what_the_schema_rejects(change: dict):
    line = {"kind": "batch", "time": "2025-11-24T00:00:00+00:00"} | factory.batch() | change
    by_schema, quickly = fault(line, "log", "batch"), batch_fault(line)
    assert (by_schema is None) == (quickly is None), (by_schema, quickly)


@pytest.mark.parametrize("name", ["time", *factory.batch()])
def test_the_quick_check_of_batches_accepts_what_the_schema_accepts(name: str):
    line = {"kind": "batch", "time": ""} | factory.batch()
    del line[name]
    by_schema, quickly = fault(line, "log", "batch"), batch_fault(line)
    assert (by_schema is None) == (quickly is None), (by_schema, quickly)


def test_a_full_disk_damages_one_line_only(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    log = RunLog.create(run_dir.parent, run_dir.name)
    log.append("run", **factory.run_line())
    write = os.write

    def full(file: int, content: bytes) -> int:
        monkeypatch.setattr(os, "write", refusing)
        return write(file, content[:40])

    def refusing(file: int, content: bytes) -> int:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(OSError, match="No space left"):
        log.append("batch", **factory.batch(0))
    monkeypatch.setattr(os, "write", write)
    log.append("batch", **factory.batch(1))
    log.finish(0)
    read = read_log(run_dir)
    assert read.batches.judged == 1
    assert sum(read.problems.unusable.values()) == 1


def test_a_truncated_log_can_be_continued(run_dir: Path):
    factory.write_raw(run_dir, factory.raw(factory.line("run", factory.run_line())) + b'{"kind":"batch","ti')
    with RunLog(run_dir) as log:
        log.append("batch", **factory.batch())
        log.finish(0)
    read = read_log(run_dir)
    assert read.batches.judged == 1
    assert read.end is not None
    assert sum(read.problems.unusable.values()) == 1


def test_finish_ends_and_closes(run_dir: Path):
    log = RunLog.create(run_dir.parent, run_dir.name)
    log.finish(1)
    log.close()
    (line,) = lines_of(log.path)
    assert line["exit"] == 1
    assert line["finished"] <= line["time"]
    with pytest.raises(OSError, match="Bad file descriptor"):
        log.append("not_tested", reason="late")


def test_latest_moves_from_run_to_run(tmp_path: Path):
    for name in ("a", "b"):
        with RunLog.create(tmp_path, name) as log:
            log.set_latest()
        assert (tmp_path / "latest").is_symlink()
        assert (tmp_path / "latest").resolve() == tmp_path / name
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "b", "latest"]


def test_latest_is_relative_so_that_the_folder_can_move(tmp_path: Path):
    with RunLog.create(tmp_path / "here", "a") as log:
        log.set_latest()
    (tmp_path / "here").rename(tmp_path / "there")
    assert (tmp_path / "there" / "latest" / "log.jsonl").is_file()


def test_latest_never_replaces_a_folder(tmp_path: Path):
    (tmp_path / "latest").mkdir()
    with RunLog.create(tmp_path, "a") as log, pytest.raises(OSError, match="latest"):
        log.set_latest()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a", "latest"]
