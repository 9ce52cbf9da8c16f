"""Run logs that are complete, truncated, damaged or written by other programs are read."""

import json
from pathlib import Path

import pytest
from tests.common import run_logs as factory
from tests.common.run_logs import line, raw

from tal_reports import Log, LogError, read_log
from tal_reports.log.reader import MAX_FAULTS
from tal_reports.log.writer import SCHEMA

RUN = line("run", factory.run_line())


def read(folder: Path, *lines: dict | bytes) -> Log:
    content = b"".join(part if isinstance(part, bytes) else raw(part) for part in (RUN, *lines))
    return read_log(factory.write_raw(folder, content))


def test_a_complete_log(run_dir: Path):
    log = read_log(factory.write(run_dir, factory.failing(3, batches=40)))
    assert log.run["run"] == run_dir.name
    assert log.folder == run_dir
    assert log.batches.judged == 40 + 40 // 3 + 3
    assert [len(part) for part in (log.divergences, log.differences, log.benchmarks)] == [3, 2, 6]
    assert [len(part) for part in (log.training, log.not_tested)] == [1, 0]
    assert log.end is not None
    assert log.end["exit"] == 1
    assert log.problems.sentences() == []


def test_by_folder_by_file_and_by_link(run_dir: Path):
    factory.write(run_dir, factory.passing(5))
    (run_dir.parent / "latest").symlink_to(run_dir.name)
    paths = (run_dir, str(run_dir), run_dir / "log.jsonl", run_dir.parent / "latest")
    logs = [read_log(path) for path in paths]
    assert {log.folder for log in logs} == {run_dir}
    assert {log.batches.judged for log in logs} == {5}


def test_the_logs_of_workers_are_merged(run_dir: Path):
    factory.write_raw(run_dir, raw(RUN, line("batch", factory.batch(0)), line("end", {"exit": 0})))
    for worker in range(3):
        cut = b'{"kind":"batch",' if worker == 1 else b""
        content = (
            raw(line("batch", factory.batch(worker + 1)), line("divergence", factory.divergence(worker)))
            + cut
        )
        (run_dir / f"log-gw{worker}.jsonl").write_bytes(content)
    (run_dir / "notes.jsonl").write_text("not ours\n")
    log = read_log(run_dir)
    assert log.batches.judged == 4
    assert [one["case"][-1] for one in log.divergences] == ["0", "1", "2"]
    assert log.problems.cut == ["log-gw1.jsonl"]
    assert log.end is not None


@pytest.mark.slow
def test_a_log_truncated_at_any_byte_of_its_last_lines_is_read_up_to_there(run_dir: Path):
    lines = [
        RUN,
        line("batch", factory.batch(0)),
        line("divergence", factory.divergence()),
        line("end", {"exit": 1}),
    ]
    whole = raw(*lines)
    ends = [len(raw(*lines[:count])) for count in range(5)]
    run_dir.mkdir(parents=True)
    for size in range(ends[1], len(whole) + 1):
        (run_dir / "log.jsonl").write_bytes(whole[:size])
        log = read_log(run_dir)
        # A last line without a newline is complete.
        complete = sum(size >= end - 1 for end in ends[1:])
        assert log.batches.judged == (complete >= 2)
        assert len(log.divergences) == (complete >= 3)
        assert (log.end is not None) == (complete >= 4)
        in_line = not any(size in (end, end - 1) for end in ends)
        assert log.problems.cut == ["log.jsonl"] * in_line
        assert log.problems.unfinished == (complete < 4)
        assert not log.problems.unusable


def test_a_log_truncated_in_its_first_line_is_an_unfinished_run(run_dir: Path):
    run_dir.mkdir(parents=True)
    for size in range(len(raw(RUN)) - 1):
        (run_dir / "log.jsonl").write_bytes(raw(RUN)[:size])
        log = read_log(run_dir)
        assert log.run["run"] == run_dir.name
        assert log.run["implementations"] == []
        assert log.problems.cut == ["log.jsonl"]
        assert log.problems.unfinished


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{}\n", "the kind of its first line is not 'run'"),
        (b'{"name": "package"}', "the kind of its first line is not 'run'"),
        (b"[1, 2]\n", "not a JSON object"),
        (b"hello\n", "not a JSON object"),
        (b"hello", "not a JSON object"),
        (b"\x89PNG\r\n\x1a\n", "not a JSON object"),
        (b"\n", "not a JSON object"),
        (b"[" * 100_000 + b"\n", "not a JSON object"),
        (raw(line("batch", factory.batch())), "the kind of its first line is not 'run'"),
        (raw(RUN | {"schema": 5}), "has schema 5; this version reads schemas 1 to 4.* newer version"),
        (raw(RUN | {"schema": None}), "has schema None"),
        (raw(RUN | {"schema": True}), "has schema True"),
        (raw(RUN | {"schema": 0}), "has schema 0"),
        (raw(RUN | {"implementations": "all"}), "implementations"),
        (raw(RUN | {"stages": [{"name": "decode"}]}), "stages"),
        (raw({key: value for key, value in RUN.items() if key != "devices"}), "devices"),
    ],
    ids=lambda value: str(value)[:30],
)
def test_files_that_are_not_logs_are_rejected(run_dir: Path, content: bytes, message: str):
    factory.write_raw(run_dir, content)
    with pytest.raises(LogError, match=message) as refused:
        read_log(run_dir)
    assert str(run_dir / "log.jsonl") in str(refused.value)


def test_a_log_of_schema_1_gets_the_stages_and_terms_of_that_schema(run_dir: Path):
    fields = {key: value for key, value in RUN.items() if key not in ("stages", "terms")}
    factory.write_raw(run_dir, raw(fields | {"schema": 1}, line("batch", factory.batch())))
    log = read_log(run_dir)
    assert log.run["schema"] == SCHEMA
    assert log.stages == [*factory.CLAUSES]
    assert {stage["name"]: stage["clause"] for stage in log.run["stages"]} == factory.CLAUSES
    assert log.run["terms"] == ["box", "cls", "dfl"]
    assert log.batches.judged == 1


def test_stages_and_terms_are_those_of_the_run_line(run_dir: Path):
    stages = [{"name": name, "clause": None} for name in ("angle", "decode", "kobj", "pose", "total")]
    factory.write_raw(run_dir, raw(RUN | {"stages": stages, "terms": ["pose", "kobj"]}))
    log = read_log(run_dir)
    assert log.stages == ["angle", "decode", "kobj", "pose", "total"]
    assert log.loss_stages == ["kobj", "pose", "total"]


def test_a_run_without_loss_terms_has_no_loss_stages(run_dir: Path):
    factory.write_raw(run_dir, raw(RUN | {"terms": []}))
    assert read_log(run_dir).loss_stages == []


def test_a_missing_log(tmp_path: Path):
    with pytest.raises(LogError, match=r"no such run: .*nowhere"):
        read_log(tmp_path / "nowhere")
    with pytest.raises(LogError, match=r"no log\.jsonl in"):
        read_log(tmp_path)


def test_unknown_kinds_and_fields_are_ignored_and_counted(run_dir: Path):
    new = line("batch", factory.batch() | {"colour": "green"})
    log = read(
        run_dir, new, line("weather", {"rain": 9}), line("weather", {}), line(["list"], {}), {"time": "now"}
    )
    assert log.batches.judged == 1
    assert dict(log.problems.unknown) == {"weather": 2, "['list']": 1, "None": 1}
    assert "2 lines of a kind that this version does not know: weather." in log.problems.sentences()


@pytest.mark.parametrize(
    "damaged",
    [
        b"\n",
        b"\xff\xfe\n",
        b'{"kind":"batch"}\n',
        b'{"kind":"batch","time":NaN}\n',
        b'"batch"\n',
        b"null\n",
        b"{" * 50_000 + b"\n",
        b'{"kind":"batch","milliseconds":' + b"9" * 5000 + b"}\n",
        raw(line("batch", factory.batch(verdict="purple"))),
        raw(line("divergence", factory.divergence(verdict="exact"))),
        raw(line("divergence", factory.divergence(values=[{"where": "x"}]))),
        raw(line("end", {"exit": "0"})),
        raw(line("training", {"implementation": "x"})),
        raw(line("not_tested", {"reason": ["a"]})),
    ],
    ids=lambda value: str(value)[:40],
)
def test_only_a_damaged_line_is_left_out_and_reported(run_dir: Path, damaged: bytes):
    log = read(run_dir, line("batch", factory.batch(0)), damaged, line("batch", factory.batch(1)))
    assert log.batches.judged == 2
    assert (log.divergences, log.training, log.not_tested, log.end) == ([], [], [], None)
    facts = [sentence for sentence in log.problems.sentences() if "left out" in sentence]
    assert len(facts) == (damaged != b"\n")
    assert all("the first at log.jsonl line 3" in sentence for sentence in facts)


def test_a_divergence_survives_a_picture_that_cannot_be_drawn(run_dir: Path):
    wrong = [factory.picture(width=-3), factory.picture(truths=[{"box": [1, 2]}]), "a picture", [1]]
    log = read(run_dir, *(line("divergence", factory.divergence(picture=picture)) for picture in wrong))
    assert [divergence["picture"] for divergence in log.divergences] == [None] * 4
    assert sum(log.problems.unusable.values()) == 4


def test_a_line_that_is_too_long_is_left_out(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tal_reports.log.reader.MAX_LINE_BYTES", 2000)
    long = line("divergence", factory.divergence(traceback="x" * 5000))
    log = read(run_dir, line("batch", factory.batch(0)), long, line("batch", factory.batch(1)))
    assert log.batches.judged == 2
    assert log.divergences == []
    assert sum(log.problems.unusable.values()) == 1


def test_lines_beyond_the_limit_are_counted_and_not_stored(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("tal_reports.log.reader.MAX_LINES", 3)
    log = read(run_dir, *(line("not_tested", {"reason": str(number)}) for number in range(5)))
    assert [one["reason"] for one in log.not_tested] == ["0", "1", "2"]
    assert dict(log.problems.unusable) == {"not_tested: more than 3 lines": 2}


def test_many_different_faults_do_not_fill_the_report(run_dir: Path):
    log = read(run_dir, *(line("batch", factory.batch(verdict=f"purple{n}")) for n in range(100)))
    assert sum(log.problems.unusable.values()) == 100
    assert len(log.problems.sentences()) <= MAX_FAULTS + 2


def test_a_deeply_nested_environment_is_truncated(run_dir: Path):
    pit: dict = {}
    for _ in range(200):
        pit = {"down": pit}
    log = read_log(factory.write_raw(run_dir, raw(RUN | {"environment": pit})))
    assert json.dumps(log.run["environment"]).count("down") == 20


def test_only_the_first_run_line_counts(run_dir: Path):
    log = read(run_dir, RUN | {"run": "another"})
    assert log.run["run"] == "synthetic"
    assert dict(log.problems.unknown) == {"run": 1}


def test_the_last_time_is_the_latest_of_all_files(run_dir: Path):
    early, late = "2025-11-24T02:00:00.000+00:00", "2025-11-24T03:00:00.000+00:00"
    factory.write_raw(
        run_dir, raw(RUN, line("batch", factory.batch(), late), line("batch", factory.batch(), "zzz"))
    )
    (run_dir / "log-gw0.jsonl").write_bytes(raw(line("batch", factory.batch(), early)))
    assert read_log(run_dir).last_time == late
