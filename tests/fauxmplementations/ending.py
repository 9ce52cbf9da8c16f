"""Adapters that end the process of the test run, or prevent its end."""

import atexit
import ctypes
import os
import signal
import threading
import time
from dataclasses import replace
from typing import Any

import pytest
from misbehaving import Double

from tal_conformance.core.outcome import AssignerInputs, Assignment


class EndsQuietly(Double):
    """Ends the process with exit status 0."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os._exit(0)


class EndsInC(Double):
    """Ends the process with exit status 0 through the C library, without Python's clean-up."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        ctypes.CDLL(None)._exit(0)


class EndsWithAStatus(Double):
    """Ends the process with exit status 5, as if no test had been collected."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os._exit(5)


class KillsItself(Double):
    """Kills its process with SIGKILL."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        os.kill(os.getpid(), signal.SIGKILL)


class EndsAtExit(Double):
    """Returns wrong results, and turns the exit status of the run into 0 when Python ends."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        atexit.register(os._exit, 0)
        return None


class HidesFailures(Double):
    """Returns wrong results, and lets pytest report every test as passed."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        make_report: Any = vars(pytest.TestReport)["from_item_and_call"]

        def passed(cls: Any, item: Any, call: Any) -> Any:
            report = make_report.__func__(cls, item, call)
            report.outcome, report.longrepr = "passed", None
            return report

        pytest.TestReport.from_item_and_call = classmethod(passed)  # type: ignore[assignment]
        return replace(right, scores=right.scores * 0.5)


class LeavesAThread(Double):
    """Leaves a thread running that never ends, for which Python would wait."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        threading.Thread(target=time.sleep, args=(600,)).start()
        return right
