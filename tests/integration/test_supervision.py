"""If an implementation ends the run's process, the run fails and prints the implementation's name."""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from tests.common.commands import accept_interrupts
from tests.common.tiers import mostly_nightly

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.processes import lives

ROOT = Path(__file__).parents[2]
DOUBLES = ROOT / "tests" / "fauxmplementations"
RAN = "while code of this implementation ran, its process "
ENDINGS = {
    "ending.py:EndsQuietly": (1, RAN + "ended with exit status 0"),
    "ending.py:EndsInC": (1, RAN + "ended with exit status 0"),
    "ending.py:EndsWithAStatus": (5, RAN + "ended with exit status 5"),
    "ending.py:KillsItself": (-signal.SIGKILL, RAN + r"was ended by signal 9 \(SIGKILL\)"),
    "ending.py:EndsAtExit": (1, "assign returned None"),
    "ending.py:HidesFailures": (1, r"HidesFailures +1 .* divergent"),
    "ending.py:LeavesAThread": (1, "left a thread running: 'Thread-"),
    "process_state.py:ClosesPythonsOutput": (
        1,
        "while code of this implementation ran, it changed the streams of sys",
    ),
    "process_state.py:ClosesAllFiles": (1, r"changed the state of the process: the open files \(descriptor"),
    "process_state.py:SilencesOutput": (
        1,
        "changed the state of the process: standard output, standard error",
    ),
    "process_state.py:ReplacesAny": (1, r"changed the state of the process: the built-in functions \(any\)"),
    "process_state.py:ReplacesNumpy": (1, "changed numpy.argsort, numpy.array"),
    "ending_at_import.py:anything": (1, RAN + "ended with exit status 0"),
}
DAILY = (
    "ending.py:EndsQuietly",
    "ending.py:KillsItself",
    "ending.py:EndsAtExit",
    "process_state.py:ReplacesNumpy",
    "ending_at_import.py:anything",
)
"""Adapters that CI runs."""
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supervised"),
]


def started(folder: Path, *words: str) -> subprocess.Popen[str]:
    """Start the suite on the reference with the additional options `words`; return the running process."""
    command = [sys.executable, "-m", "pytest", "--pyargs", "tal_conformance", "-p", "no:cacheprovider", "-q"]
    options = ["--report-dir", str(folder / "runs"), "--device", "cpu", "--implementation", "reference"]
    return subprocess.Popen(
        [*command, *options, *words],
        cwd=folder,
        env=os.environ | {"PYTHONPATH": str(ROOT / "src"), "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=accept_interrupts,  # noqa: PLW1509 - no threads here
    )


@pytest.mark.parametrize("name", mostly_nightly(ENDINGS, DAILY))
def test_the_end_of_the_process_is_told_and_counted(name: str, tmp_path: Path):
    status, reason = ENDINGS[name]
    one_test = ("-k", "test_metric", "--examples", "5", "--hypothesis-seed", "0")
    run = started(tmp_path, "--implementation", f"{DOUBLES / name}", *one_test)
    printed, _ = run.communicate(timeout=120)
    assert run.returncode == status, printed
    assert re.search(reason, printed), printed
    double = name.partition(":")[2]
    assert not re.search(rf"^{double} .*conforms\b", printed, re.MULTILINE), printed
    if "import" not in name:
        assert re.search(r"^reference +\d", printed, re.MULTILINE), printed


def waits_until_it_judges(run: subprocess.Popen[str], folder: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and run.poll() is None:
        logs = list((folder / "runs").glob("2*/log.jsonl"))
        if logs and '"kind":"batch"' in logs[0].read_text(encoding="utf-8"):
            return
        time.sleep(0.05)
    raise AssertionError("no batch was judged")


def descendants_of(pid: int) -> list[int]:
    return [
        int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    ]


@pytest.mark.parametrize(
    "number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL], ids=lambda number: number.name
)
def test_signals_reach_the_run_and_nothing_is_left(number: signal.Signals, tmp_path: Path):
    run = started(tmp_path, "--examples", "100000", "-k", "test_metric")
    waits_until_it_judges(run, tmp_path)
    (work,) = descendants_of(run.pid)
    run.send_signal(number)
    printed, _ = run.communicate(timeout=60)
    assert run.returncode == (2 if number == signal.SIGINT else -number), printed
    assert ("! interrupted !" in printed) == (number == signal.SIGINT)
    assert "KeyboardInterrupt" not in printed
    assert "code of this implementation" not in printed
    time.sleep(0.2)
    assert not lives(work)


def test_a_command_is_supervised(tmp_path: Path):
    case = tmp_path / "case.safetensors"
    Recipe(images=((Truth("ordinary"),),), classes=2).build().save(case)
    words = ["replay", str(case), "--implementation", f"{DOUBLES / 'ending.py'}:EndsQuietly"]
    done = subprocess.run(
        [sys.executable, "-m", "tal_conformance", *words],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "EndsQuietly: its process ended with exit status 0 before the work had ended" in done.stderr
