"""Writing the HTML report: where it goes, and what the commands `render` and `summary` say if that fails."""

from pathlib import Path

import pytest
from tests.common import run_logs as factory

from tal_reports import render
from tal_reports.__main__ import main


def test_writing_elsewhere_leaves_the_run_alone(run_dir: Path, tmp_path: Path):
    factory.write(run_dir, factory.passing(5))
    (tmp_path / "out").mkdir()
    assert render(run_dir, into=tmp_path / "out") == tmp_path / "out" / "report.html"
    assert sorted(path.name for path in run_dir.iterdir()) == ["cases", "log.jsonl"]
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.html", "summary.json"]


def test_a_report_that_cannot_be_written_leaves_the_old_one(run_dir: Path, monkeypatch: pytest.MonkeyPatch):
    path = render(factory.write(run_dir, factory.passing(5)))
    before = path.read_bytes()

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_text", full)
    with pytest.raises(OSError, match="No space left"):
        render(run_dir)
    assert path.read_bytes() == before
    assert not list(run_dir.glob(".*"))


def test_the_same_log_gives_the_same_page(run_dir: Path, tmp_path: Path):
    factory.write(run_dir, factory.failing(20, 40))
    first, second = (render(run_dir, into=tmp_path).read_bytes() for _ in range(2))
    assert first == second


def test_render_command(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    factory.write(run_dir, factory.failing(1))
    assert main(["render", str(run_dir)]) == 0
    assert capsys.readouterr() == (f"{run_dir / 'report.html'}\n", "")
    assert (run_dir / "report.html").is_file()
    assert (run_dir / "summary.json").is_file()


def test_summary_command(run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    factory.write(run_dir, factory.failing(1))
    assert main(["summary", str(run_dir / "log.jsonl"), "--into", str(tmp_path)]) == 0
    assert capsys.readouterr() == (f"{tmp_path / 'summary.json'}\n", "")
    assert not (run_dir / "summary.json").exists()


@pytest.mark.parametrize("command", ["render", "summary"])
def test_a_missing_or_foreign_run_is_one_clear_line_and_status_2(
    command: str, run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    factory.write_raw(run_dir, b"hello\n")
    for path, words in (
        (tmp_path / "nowhere", "no such run"),
        (tmp_path, "no log.jsonl"),
        (run_dir, "not a run log"),
    ):
        assert main([command, str(path)]) == 2
        out, err = capsys.readouterr()
        assert out == ""
        assert err.startswith("reports: ")
        assert str(path) in err
        assert words in err
        assert err.count("\n") == 1


def test_a_folder_of_runs_names_the_last_one(run_dir: Path, capsys: pytest.CaptureFixture[str]):
    factory.write(run_dir, factory.passing(2))
    (run_dir.parent / "latest").symlink_to(run_dir.name)
    assert main(["summary", str(run_dir.parent)]) == 2
    assert f"name one of its runs, such as {run_dir.parent / 'latest'}" in capsys.readouterr().err


def test_a_folder_that_cannot_be_written_is_one_clear_line_and_status_2(
    run_dir: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    factory.write(run_dir, factory.passing(2))
    assert main(["render", str(run_dir), "--into", str(tmp_path / "absent")]) == 2
    assert "absent" in capsys.readouterr().err


def test_a_wrong_command_is_status_2(capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as stopped:
        main(["explode", "x"])
    assert stopped.value.code == 2
    assert "explode" in capsys.readouterr().err
