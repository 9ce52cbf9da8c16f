"""The commands of the Makefile and of CI, without running what they run."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="there is no make")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Runs make as from a shell, also where make itself runs this test and exports what it was given."""
    given = {"ARGS", "PROFILE", "PYTHON", "TORCH", "TORCHVISION", "VENV", "MAKEFLAGS", "MFLAGS", "MAKELEVEL"}
    return subprocess.run(
        ["make", "--no-print-directory", *arguments],
        check=False,
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if name not in given},
        capture_output=True,
        text=True,
        timeout=60,
    )


def printed(*arguments: str) -> list[str]:
    """The commands that make would run."""
    return make("-n", *arguments).stdout.splitlines()


def test_options_reach_pytest(tmp_path: Path):
    options = '--implementation "my own.py:obj"'
    last = printed("conformance", "PROFILE=ci", f"ARGS={options}", f"VENV={tmp_path}")[-1]
    assert last == f"{tmp_path}/bin/python -m pytest conformance --conformance-profile ci {options}"


def test_without_options_the_profile_is_dev(tmp_path: Path):
    last = printed("conformance", f"VENV={tmp_path}")[-1]
    assert last.rstrip() == f"{tmp_path}/bin/python -m pytest conformance --conformance-profile dev"


def test_it_sets_up_once_for_a_torch(tmp_path: Path):
    assert "pip install" in make("-n", "test", f"VENV={tmp_path}").stdout
    stamp = printed("setup", f"VENV={tmp_path}")[-1].removeprefix("touch ")
    Path(stamp).touch()
    assert "pip install" not in make("-n", "test", f"VENV={tmp_path}").stdout
    assert "'torch==0'" in make("-n", "test", f"VENV={tmp_path}", "TORCH=torch==0").stdout
    os.utime(stamp, (0, 0))  # older than pyproject.toml
    assert "pip install" in make("-n", "test", f"VENV={tmp_path}").stdout


def test_an_old_python_is_told_in_one_line(tmp_path: Path):
    old = tmp_path / "python3"
    old.write_text('#!/bin/sh\n[ "$1" = --version ] && echo "Python 3.9.2"\n')
    old.chmod(0o755)
    done = make("setup", f"PYTHON={old}", f"VENV={tmp_path / 'venv'}")
    assert done.returncode != 0
    assert done.stderr.splitlines()[0].startswith(
        f"Python 3.11 or newer is needed, and {old} is Python 3.9.2"
    )
    assert not (tmp_path / "venv").exists()


def test_help_lists_every_target():
    rules = re.findall(r"^([a-z]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"conformance", "test", "bench", "lint", "clean", "help"} <= set(rules)
    listed = make("help").stdout
    assert [rule for rule in rules if f"make {rule} " not in listed] == []


def test_ci_runs_lint_tests_and_the_main_job_and_needs_the_browser():
    script = ROOT / ".ci" / "run"
    text = script.read_text(encoding="utf-8")
    assert os.access(script, os.X_OK)
    assert "TAL_REQUIRE_BROWSER=1" in text
    commands = [line for line in text.splitlines() if line.startswith("make ")]
    assert commands == ["make setup", "make lint", "make test", "make conformance PROFILE=ci"]
    subprocess.run(["bash", "-n", script], check=True)
