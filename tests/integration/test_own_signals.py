"""A supervised process tells a Ctrl-C of the user from a signal that its own code sent."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.common.commands import accept_interrupts

ROOT = Path(__file__).parents[2]
PROGRAM = """
import os, signal, time
from tal_conformance.core.interrupts import Interrupts
from tal_conformance.core.supervision import supervise, supervised

assert supervise(lambda *_: None)
interrupts = Interrupts()
interrupts.record(during_call=True)
try:
    print("ready", flush=True)
    {action}
except KeyboardInterrupt:
    print("interrupted")
print(f"arrived {{interrupts.arrived}}, sent by code {{interrupts.sent_by_code}}", flush=True)
supervised.finish(0)
"""
OWN, USERS, NONE = (
    "arrived False, sent by code True",
    "interrupted\narrived True, sent by code False",
    "arrived False, sent by code False",
)
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="only Linux is supervised")


def started(action: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM.format(action=action)],
        env=os.environ | {"PYTHONPATH": str(ROOT / "src")},
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=accept_interrupts,  # noqa: PLW1509 - no threads here
    )


@pytest.mark.parametrize(
    ("action", "expected"),
    [
        ("signal.raise_signal(signal.SIGINT)", OWN),
        ("os.kill(os.getpid(), signal.SIGINT)", OWN),
        ("os.killpg(0, signal.SIGINT)", OWN),
        ("import _thread; _thread.interrupt_main(); time.sleep(0.01)", OWN),
        ("os.kill(os.getppid(), signal.SIGINT); time.sleep(0.2)", NONE),
        ("os.kill(os.getppid(), signal.SIGTERM); time.sleep(0.2)", NONE),
    ],
)
def test_a_signal_of_own_code_is_not_the_users(action: str, expected: str):
    run = started(action)
    printed, _ = run.communicate(timeout=60)
    assert printed.strip() == f"ready\n{expected}"
    assert run.returncode == 0


@pytest.mark.parametrize("to_all", [True, False], ids=["terminal", "supervisor only"])
def test_a_signal_from_outside_is_the_users(to_all: bool):
    run = started("time.sleep(30)")
    assert run.stdout is not None
    run.stdout.readline()
    (os.killpg if to_all else os.kill)(run.pid, signal.SIGINT)
    printed, _ = run.communicate(timeout=60)
    assert printed.strip() == USERS
