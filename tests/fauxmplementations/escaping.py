"""Adapters whose processes try to outlive the run, or to reach the network."""

import ctypes
import os
import subprocess
import sys
from typing import Any

from misbehaving import Double

from tal_conformance.core.outcome import AssignerInputs, Assignment


class DaemonisesTwice(Double):
    """Starts a daemon with its own session and environment, whose parent process has ended."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                os.execve(sys.executable, [sys.executable, "-c", "import time; time.sleep(600)"], {})
            os._exit(0)
        os.wait()
        return right


class ConnectsInC(Double):
    """Opens a network connection through the C library, and raises an error with the system's message."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        libc = ctypes.CDLL(None, use_errno=True)
        descriptor = libc.socket(2, 1, 0)
        address = (2).to_bytes(2, "little") + (9).to_bytes(2, "big") + bytes([192, 0, 2, 1]) + bytes(8)
        libc.connect(descriptor, address, 16)
        raise RuntimeError(os.strerror(ctypes.get_errno()))


class RunsAnotherProgram(Double):
    """Starts a program that lists network interfaces, and raises an error with its output."""

    def misbehave(self, inputs: AssignerInputs, right: Assignment) -> Any:
        code = "import socket; print(socket.if_nameindex())"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        raise RuntimeError(done.stdout.strip())
