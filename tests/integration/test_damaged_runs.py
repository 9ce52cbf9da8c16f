"""Logs and reports of runs that are killed, interrupted or concurrent, or find the disk full."""

import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.common.commands import ENVIRONMENT, accept_interrupts

from tal_conformance.batches.recipe import Recipe
from tal_reports import read_log, render
from tal_reports.analysis.history import read_history

ROOT = Path(__file__).parents[2]
DOUBLES = Path(__file__).parents[1] / "fauxmplementations" / "misbehaving.py"


def start(
    folder: Path,
    *options: str,
    names: tuple[str, ...] = ("reference",),
    blocks: str = "unlimited",
    path: Path = ROOT,
) -> subprocess.Popen[str]:
    """Start a short run of the suite, which can import modules from the folder `path`.

    `blocks` limits each file that the run writes, in blocks of 512 bytes.
    """
    asked = ["--task", "detect", *(word for name in names for word in ("--implementation", name))]
    drawn = ("-k", "test_metric", "--device", "cpu", "--hypothesis-seed", "0", *options)
    modules = os.pathsep.join((ENVIRONMENT["PYTHONPATH"], str(path)))
    return subprocess.Popen(
        [
            *("sh", "-c", f'ulimit -S -f {blocks}; exec "$@"', "sh"),
            *(sys.executable, "-m", "pytest", "--pyargs", "tal_conformance", "-p", "no:cacheprovider", "-q"),
            *("--report-dir", str(folder), *asked, *drawn),
        ],
        cwd=folder.parent if folder.parent.is_dir() else "/",
        env=os.environ | {"PYTHONPATH": modules, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=accept_interrupts,  # noqa: PLW1509 - no threads here
    )


def the_run(folder: Path) -> Path:
    (run,) = folder.glob("2*")
    return run


def test_killed_runs():
    """Four runs are killed at random moments. The log of each run has all of its judged batches."""
    command = [sys.executable, "-m", "tests.integration.killed", "--kills", "4"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600, check=False
    )
    assert done.returncode == 0, done.stderr
    assert sum(map(int, re.findall(r": (\d+)", done.stdout))) == 4


@pytest.mark.parametrize(
    "names",
    [("reference", f"{DOUBLES}:Raises"), pytest.param((f"{DOUBLES}:Raises",), marks=pytest.mark.long)],
)
def test_a_disk_that_is_full(tmp_path: Path, names: tuple[str, ...]):
    """A run whose log reaches the allowed file size stops with a message, and the log remains readable."""

    run = start(tmp_path / "runs", "--examples", "200", names=names, blocks="20")
    said, _ = run.communicate(timeout=600)
    assert run.returncode not in (0, pytest.ExitCode.INTERNAL_ERROR), said
    assert "INTERNALERROR" not in said
    assert re.search(r"cannot write the run log: .*(File too large|os error 27)", said)
    assert re.search(r"the log ends where writing failed: python -m (tal_)?reports render ", said)
    folder = the_run(tmp_path / "runs")
    assert read_log(folder).end is None
    assert render(folder).is_file()
    assert not (tmp_path / "runs" / "latest").exists()
    again = start(tmp_path / "runs", "--examples", "5")
    assert again.wait(timeout=600) == 0
    assert read_log(tmp_path / "runs" / "latest").end


def test_a_folder_that_cannot_be_written():
    """A report folder in /proc, where even root cannot write, stops the run with exit status 4."""
    run = start(Path("/proc/self/runs"))
    said, _ = run.communicate(timeout=600)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert "cannot write a report into /proc/self/runs" in said
    assert "choose another folder with --report-dir" in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write into any folder")
def test_a_folder_that_is_read_only(tmp_path: Path):
    folder = tmp_path / "runs"
    folder.mkdir(mode=0o500)
    run = start(folder)
    said, _ = run.communicate(timeout=600)
    assert run.returncode == pytest.ExitCode.USAGE_ERROR
    assert f"cannot write a report into {folder}" in said
    assert list(folder.iterdir()) == []


@pytest.mark.long
def test_two_at_once(tmp_path: Path):
    """Two concurrent runs have separate folders. `latest` points to one of them, and the history has both."""
    folder = tmp_path / "runs"
    both = [start(folder, "--examples", "10") for _ in range(2)]
    said = [run.communicate(timeout=600)[0] for run in both]
    assert [run.returncode for run in both] == [0, 0], said
    runs = sorted(folder.glob("2*"))
    assert len(runs) == 2
    for run in runs:
        log = read_log(run)
        assert log.end is not None
        assert log.batches.judged == 10
        assert (run / "report.html").is_file()
    assert (folder / "latest").resolve() in runs
    assert {entry["run"] for entry in read_history(folder / "history.jsonl")} == {run.name for run in runs}


def test_interrupted_from_the_keyboard(tmp_path: Path):
    """A run that is interrupted with Ctrl-C writes a report of the batches judged until then."""
    run = start(tmp_path / "runs", "--examples", "100000")
    while not list(tmp_path.glob("runs/2*/log.jsonl")) or '"batch"' not in next(
        tmp_path.glob("runs/2*/log.jsonl")
    ).read_text(encoding="utf-8"):
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=600)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, said
    folder = the_run(tmp_path / "runs")
    assert read_log(folder).batches.judged > 0
    assert "not finished (0 of 1 test)" in said
    assert not (tmp_path / "runs" / "latest").exists()
    assert (folder / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")
    assert f"report: {folder}/report.html" in said


DISCARDED = """
import gc
import time
from pathlib import Path

import pytest

calls = []

def wait(phase, info):
    calls.append(phase)
    if len(calls) == 50:
        Path(__file__).with_name("collecting").touch()
        time.sleep(60)

@pytest.hookimpl(tryfirst=True)
def pytest_runtest_call():
    gc.callbacks.append(wait)
"""
"""A pytest plugin: the garbage collector's 50th callback waits for a Ctrl-C, whose exception Python discards."""


def test_an_interrupt_that_python_discards_ends_the_run(tmp_path: Path):
    (tmp_path / "discarded.py").write_text(DISCARDED)
    run = start(tmp_path / "runs", "--examples", "3000", "-p", "discarded", path=tmp_path)
    while not (tmp_path / "collecting").exists():
        assert run.poll() is None
        time.sleep(0.05)
    run.send_signal(signal.SIGINT)
    said, _ = run.communicate(timeout=600)
    assert run.returncode == pytest.ExitCode.INTERRUPTED, said
    assert "not finished (0 of 1 test)" in said


def test_a_case_file_that_does_not_fit_leaves_nothing(tmp_path: Path):
    """`Batch.save` raises OSError and leaves no file if the file exceeds the allowed size."""
    path = tmp_path / "case.safetensors"
    batch = Recipe().build()
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, kept[1]))
    try:
        with pytest.raises(OSError, match="too large"):
            batch.save(path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert list(tmp_path.iterdir()) == []
