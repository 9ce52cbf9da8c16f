"""Run pip in a process with a clean environment and an empty working directory."""

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from tal_conformance.core.processes import descendants, kill

INSTALL_TIMEOUT = 600
"""Time limit in seconds for pip to install one package."""
PIP_KEEPS = (
    "PATH",
    "HOME",
    "LANG",
    "LC_ALL",
    "TMPDIR",
    "SYSTEMROOT",
    "NETRC",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
)
"""Environment variables that pip inherits, besides pip's own variables and the names of proxies and certificates."""
QUIET = ("--disable-pip-version-check", "--no-input", "--quiet")
"""Options of every run of pip."""


class PipFailed(Exception):
    """Error: pip ended with an exit status other than 0, or did not end in time. The text is pip's last error."""


def pip_environment() -> dict[str, str]:
    """Return the environment variables for pip: only the user's settings of pip, proxies and certificates."""
    return {
        name: value
        for name, value in os.environ.items()
        if name in PIP_KEEPS
        or name.startswith(("PIP_", "XDG_"))
        or name.lower().endswith("_proxy")
        or name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE")
    }


def run_pip(
    arguments: Sequence[str],
    environment: Mapping[str, str] | None = None,
    script: Path | None = None,
    expected: int = 0,
) -> None:
    """Run pip, isolated from the working directory, and end all processes that pip started.

    Args:
        arguments: arguments of pip.
        environment: environment variables of pip; None for `pip_environment()`.
        script: a script that runs pip with these arguments; None to run pip itself.
        expected: exit status on success.

    Raises:
        PipFailed: pip ended with another status, or not within `INSTALL_TIMEOUT`.
    """
    program = ("-m", "pip") if script is None else (str(script),)
    with tempfile.TemporaryDirectory(prefix="tal-conformance-pip-") as empty:
        process = subprocess.Popen(  # noqa: S603 - constant options and checked names
            [sys.executable, "-I", *program, *arguments],
            cwd=empty,
            env=pip_environment() if environment is None else dict(environment),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            encoding="utf-8",
            errors="replace",
            start_new_session=True,
        )
        try:
            _, errors = process.communicate(timeout=INSTALL_TIMEOUT)
        except subprocess.TimeoutExpired as error:
            raise PipFailed(f"pip did not end within {INSTALL_TIMEOUT} s and was killed") from error
        finally:
            end(process)
    if process.returncode != expected:
        lines = [line for line in errors.splitlines() if line.strip()]
        lines = [line for line in lines if line.startswith("ERROR")] or lines
        raise PipFailed(lines[-1] if lines else f"exit status {process.returncode}")


def end(process: subprocess.Popen[str]) -> None:
    """Kill a process, if it still runs, with its process group and all processes that it started."""
    started = descendants(process.pid)
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except (ProcessLookupError, PermissionError, AttributeError):
        process.kill()
    kill(started)
    process.wait()
