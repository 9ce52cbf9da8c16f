"""`python -m tests.integration.killed --kills N`: runs of the suite, each killed at a random moment (signal 9).

After each kill, every judged batch must be in the log, the log must be renderable, and `latest` must point at a
complete report.
"""

import argparse
import json
import os
import random
import select
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch

from tal_conformance.core.batch import Batch
from tal_conformance.implementations.registry import find
from tal_conformance.suite.run_log import RunLogWriter
from tal_reports import read_log, render
from tal_reports.log.reader import LogError

DOUBLES = Path(__file__).parents[1] / "fauxmplementations" / "misbehaving.py"
DRAWN = ("-k", "test_metric", "--examples", "10", "--device", "cpu")


def start(folder: Path, judged: int) -> int:
    """Fork a run of the suite that writes its report into `folder`, and return its process id.

    The run writes one byte into the pipe `judged` after each batch. The process is forked, because a
    new process would mostly be killed while it imports torch.
    """
    pid = os.fork()
    if pid:
        return pid
    os.setsid()
    nothing = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nothing, 1)
    os.dup2(nothing, 2)
    plain = RunLogWriter.batch

    def batch(recorder: RunLogWriter, *arguments: Any, **options: Any) -> None:
        plain(recorder, *arguments, **options)
        os.write(judged, b".")

    RunLogWriter.batch = batch  # type: ignore[method-assign]
    asked = ("--implementation", "reference", "--implementation", f"{DOUBLES}:Raises")
    options = ("--pyargs", "tal_conformance", "-q", "-p", "no:cacheprovider", "--report-dir", str(folder))
    os._exit(int(pytest.main([*options, *asked, *DRAWN])))


def read_all(pipe: int) -> int:
    """Read a pipe until it is empty, and return the number of bytes."""
    count = 0
    while select.select([pipe], [], [], 0)[0] and (part := os.read(pipe, 2**16)):
        count += len(part)
    return count


def run_once(folder: Path, seconds: float | None) -> tuple[int, int, Path | None]:
    """Start the suite and kill its process after `seconds`; if `seconds` is None, wait for the end.

    Returns:
        The wait status of the process, the number of judged batches, and the run's folder, if it exists.
    """
    before = set(folder.glob("2*"))
    reading, writing = os.pipe()
    pid = start(folder, writing)
    os.close(writing)
    ended = time.monotonic() + (seconds if seconds is not None else 600)
    done, status = 0, 0
    while not done and time.monotonic() < ended:
        done, status = os.waitpid(pid, os.WNOHANG)
        time.sleep(0.002)
    if not done:
        os.killpg(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
    judged = read_all(reading)
    os.close(reading)
    made = set(folder.glob("2*")) - before
    return status, judged, made.pop() if made else None


def state_of(run: Path | None, judged: int) -> str:
    """Return a description of a killed run's log.

    `judged` is the number of batches that the run had judged.

    Raises:
        AssertionError: a judged batch is missing, or the log cannot be rendered.
    """
    if run is None:
        assert judged == 0
        return "no folder yet"
    try:
        log = read_log(run)
    except LogError:
        assert judged == 0
        return "no first line yet"
    whole = [
        line for line in (run / "log.jsonl").read_bytes().splitlines(keepends=True) if line.endswith(b"\n")
    ]
    # batches of the shrinking phase included
    logged = sum(json.loads(line)["kind"] == "batch" for line in whole)
    assert judged <= logged <= judged + 1, f"{judged} batches were judged, {logged} are in the log of {run}"
    for line in log.divergences:
        Batch.load(run / "cases" / f"{line['case']}.safetensors")
    html = render(run).read_text(encoding="utf-8")
    assert html.rstrip().endswith("</html>")
    return "judging" if log.end is None else "at its end"


def check_latest(folder: Path) -> None:
    """Check that the link `latest`, if it exists, points at a finished run with its report."""
    latest = folder / "latest"
    if latest.is_symlink():
        assert read_log(latest).end is not None
        assert (latest / "report.html").read_text(encoding="utf-8").rstrip().endswith("</html>")


def kill_runs(folder: Path, kills: int, seed: int) -> Counter[str]:
    """Kill `kills` runs of the suite at random times; return the number of runs by `state_of`."""
    torch.set_num_threads(1)
    find("reference")
    began = time.monotonic()
    status, judged, first = run_once(folder, None)
    whole = time.monotonic() - began
    assert (os.waitstatus_to_exitcode(status), state_of(first, judged)) == (1, "at its end")
    chance, states = random.Random(seed), Counter[str]()
    for number in range(kills):
        status, judged, run = run_once(folder, chance.uniform(0, 1.05 * whole))
        states[state_of(run, judged)] += 1
        check_latest(folder)
        if number % 20 == 19:
            print(f"{number + 1} runs: {dict(states)}", flush=True)
    status, judged, last = run_once(folder, None)
    assert (os.waitstatus_to_exitcode(status), state_of(last, judged)) == (1, "at its end")
    assert (folder / "latest").resolve() == last
    return states


def main() -> None:
    """Parse options, kill runs, and print the number of runs by `state_of`."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.killed", description=__doc__)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="tal-conformance-killed-") as folder:
        print(dict(kill_runs(Path(folder).resolve(), options.kills, options.seed)))


if __name__ == "__main__":
    sys.exit(main())
