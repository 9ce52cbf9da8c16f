"""Runs and commands in the locale C, with standard output closed, and with a reader that ends early."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PLAIN = os.environ | {
    "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    "LC_ALL": "C",
    "PYTHONUTF8": "0",
    "PYTHONCOERCECLOCALE": "0",
    "PYTHONIOENCODING": "ascii",
    "OMP_NUM_THREADS": "1",
}
SAMPLE = str(next((ROOT / "tests" / "samples" / "fourth").glob("2*")))
RUN = (
    *(
        "-m",
        "pytest",
        "conformance",
        "-q",
        "--examples",
        "5",
        "--hypothesis-seed",
        "0",
        "-k",
        "test_metric",
        "-p",
        "no:cacheprovider",
    ),
    *("--implementation", "tests/fauxmplementations/awkward.py:ControlsTheTerminal"),
)
COMMANDS = {
    "clause": (("-m", "tal_conformance", "clause", "TAL"), 0),
    "unknown": (("-m", "tal_conformance", "clänse"), 2),
    "markdown": (("-m", "tal_reports", "markdown", SAMPLE), 0),
    "run": (RUN, 1),
}
"""Words of each command, and its exit status."""


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.long if name == "run" else ()) for name in COMMANDS]
)
@pytest.mark.parametrize(
    "redirection",
    ["", ">&-", *(pytest.param(word, marks=pytest.mark.long) for word in ("2>&-", "<&- >&- 2>&-"))],
)
def test_runs_and_commands_in_the_c_locale(name: str, redirection: str, tmp_path: Path):
    words, status = COMMANDS[name]
    options = [f"--report-dir={tmp_path}"] if name == "run" else []
    done = subprocess.run(
        ["bash", "-c", f'exec "$0" "$@" {redirection}', sys.executable, *words, *options],
        env=PLAIN,
        cwd=ROOT,
        capture_output=True,
        timeout=120,
        check=False,
    )
    printed = done.stdout + done.stderr
    assert printed.isascii()
    assert done.returncode == status, printed
    assert b"Traceback (most recent call last)" not in printed.replace(b"_traceback", b"")
    assert b"INTERNALERROR" not in printed
    assert b"UnicodeEncodeError" not in printed


def test_a_reader_that_ends_early():
    words = 'exec "$0" -m tal_conformance clause TAL LOSS DEC | head -1; exit ${PIPESTATUS[0]}'
    done = subprocess.run(
        ["bash", "-c", words, sys.executable],
        env=PLAIN,
        cwd=ROOT,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.startswith(b"TAL-")
