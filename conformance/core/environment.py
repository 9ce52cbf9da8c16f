"""Description of this process for the report: versions, machine, commit and command line."""

import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from tal_conformance.core.determinism import arithmetic
from tal_conformance.core.files import REPOSITORY


def environment() -> dict[str, Any]:
    """Return versions, machine and commit by name: a reader needs them in order to compare two runs."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ultralytics": _version("ultralytics"),
        "hypothesis": _version("hypothesis"),
        "platform": platform.platform(),
        "cpu": processor_name(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "git": _commit(),
        "flags": arithmetic(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def processor_name() -> str:
    """Return the name of the processor and the number of its cores."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({os.cpu_count()} cores)" if names else platform.processor()


def _commit() -> str | None:
    """Return the commit of this repository, marked if files are changed, or None if this is not a checkout."""
    repository = REPOSITORY
    if not (repository / ".git").exists():
        return None
    git = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(  # noqa: S603 - our own words
            git, capture_output=True, encoding="utf-8", errors="replace", check=True, timeout=10
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def command_line() -> list[str]:
    """Return the command line of this process, without the folder of the program."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
