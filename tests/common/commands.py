"""Run commands of the project in a separate process, as a user does, for tests."""

import os
import signal
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[2]
ENVIRONMENT = os.environ | {
    "PYTHONPATH": os.pathsep.join((str(ROOT / "src"), str(ROOT))),
    "OMP_NUM_THREADS": "1",
}


def run(*command: str, cwd: Path = ROOT) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, timeout=300, check=False
    )


def accept_interrupts() -> None:
    """Restore the default action of SIGINT: background processes of a shell ignore it, and so do their children.

    For `preexec_fn` of `subprocess.Popen`.
    """
    signal.signal(signal.SIGINT, signal.SIG_DFL)
