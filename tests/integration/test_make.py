"""The Makefile and .ci/run give the right commands, which the tests print or record, but do not execute."""

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.skipif(shutil.which("make") is None, reason="make is not installed")


def make(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run make without the variables that it exports, because make itself may run this test."""
    given = {
        "ARGS",
        "PROFILE",
        "IMPLEMENTATIONS",
        "ROUNDS",
        "PYTHON",
        "TORCH",
        "TORCHVISION",
        "VENV",
        "MAKEFLAGS",
        "MFLAGS",
        "MAKELEVEL",
    }
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
    """Return the commands that `make -n` prints, which are the commands that make would run."""
    return make("-n", *arguments).stdout.splitlines()


def test_options_reach_pytest(tmp_path: Path):
    options = '--implementation "my own.py:obj"'
    given = ("PROFILE=dev", "IMPLEMENTATIONS=reference", f"ARGS={options}", f"VENV={tmp_path}")
    last = printed("conformance", *given)[-1]
    profile = "--conformance-profile dev --implementation reference"
    assert last == f"{tmp_path}/bin/python -m pytest conformance {profile} {options}"


def test_without_options_official_and_article_are_tested_by_the_gating_profile(tmp_path: Path):
    last = printed("conformance", f"VENV={tmp_path}")[-1]
    asked = "--conformance-profile ci --implementation ultralytics --implementation article"
    assert last.rstrip() == f"{tmp_path}/bin/python -m pytest conformance {asked}"


def test_the_projects_tests_run_over_all_cores_or_as_many_as_are_asked_for(tmp_path: Path):
    spread = "--dist worksteal --maxprocesses 8"
    for given, number in (((), "auto"), (("WORKERS=0",), "0")):
        for target, chosen in (("test", "'not slow'"), ("test-slow", "'slow and not long'")):
            last = printed(target, *given, f"VENV={tmp_path}")[-1]
            options = f"-n {number} {spread} tests --ignore tests/reference -m {chosen}"
            assert last.rstrip() == f"{tmp_path}/bin/python -m pytest {options}"


def test_the_references_own_tests_check_shapes(tmp_path: Path):
    commands = "\n".join(printed("test", f"VENV={tmp_path}"))
    assert "maxprocesses 8 tests/reference --jaxtyping-packages=tal_reference,beartype.beartype" in commands


def test_the_main_job_installs_no_tools_of_developers(tmp_path: Path):
    commands = "\n".join(printed("conformance", f"VENV={tmp_path}"))
    assert "-e ." in commands
    assert "[dev" not in commands
    assert "-e '.[dev,docs]'" in "\n".join(printed("test", f"VENV={tmp_path}"))


def test_benchmarks_are_of_all_sizes(tmp_path: Path):
    last = printed("bench", "ROUNDS=3", f"VENV={tmp_path}")[-1]
    assert last.rstrip() == f"{tmp_path}/bin/python -m pytest conformance/suite/test_benchmark.py --rounds 3"


def test_it_sets_up_once_for_a_torch(tmp_path: Path):
    assert "pip install" in make("-n", "test", f"VENV={tmp_path}").stdout
    stamps = [
        line.removeprefix("touch ")
        for line in printed("setup", f"VENV={tmp_path}")
        if line.startswith("touch ")
    ]
    for stamp in stamps:  # the environment of users, then the environment of developers
        Path(stamp).touch()
    assert "pip install" not in make("-n", "test", f"VENV={tmp_path}").stdout
    assert "'torch==0'" in make("-n", "test", f"VENV={tmp_path}", "TORCH=torch==0").stdout
    os.utime(stamps[0], (0, 0))  # the stamp becomes older than pyproject.toml
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
    rules = re.findall(r"^([a-z-]+):.*##", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE)
    assert {"conformance", "test", "bench", "lint", "clean", "help"} <= set(rules)
    listed = make("help").stdout
    assert [rule for rule in rules if f"make {rule} " not in listed] == []


@pytest.fixture
def ci(tmp_path: Path) -> Callable[..., tuple[int, list[str]]]:
    """Return a function that runs .ci/run with stubs of make and apt-get; it returns status and calls."""
    calls = tmp_path / "calls"
    for name in ("dirname", "id"):
        (tmp_path / name).symlink_to(str(shutil.which(name)))

    def run(*present: str, failing: str = "nothing") -> tuple[int, list[str]]:
        for name in ("make", "apt-get", *present):
            stub = tmp_path / name
            said = f'{name} "$@" $TAL_REQUIRE_BROWSER' if name == "make" else f'{name} "$@"'
            stub.write_text(f'#!/bin/sh\necho {said} >> {calls}\n[ "$1" != "{failing}" ]\n')
            stub.chmod(0o755)
        done = subprocess.run(
            [str(shutil.which("bash")), ROOT / ".ci" / "run"],
            check=False,
            cwd=tmp_path,
            env={"PATH": str(tmp_path), "CI": "true"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=60,
        )
        return done.returncode, calls.read_text(encoding="utf-8").splitlines()

    return run


STEPS = [
    *("make setup 1", "make lint 1", "make test 1", "make test-slow 1", "make docs 1"),
    "make conformance PROFILE=ci ARGS=-n 2 1",
]
"""Calls of make in .ci/run. With TAL_REQUIRE_BROWSER=1, tests that need a browser fail without a browser."""


def test_ci_runs_lint_tests_and_the_main_job(ci: Callable[..., tuple[int, list[str]]]):
    assert ci("chromium") == (0, STEPS)


@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="as an ordinary user, .ci/run calls sudo")
def test_ci_installs_a_browser_where_there_is_none(ci: Callable[..., tuple[int, list[str]]]):
    status, calls = ci()
    assert status == 0
    assert calls[0].startswith("apt-get update")
    assert calls[1].startswith("apt-get install")
    assert calls[1].endswith("chromium")
    assert calls[2:] == STEPS


@pytest.mark.parametrize(
    ("failing", "step"), [("lint", 1), ("test", 2), ("test-slow", 3), ("docs", 4), ("conformance", 5)]
)
def test_ci_fails_with_the_step_that_fails(ci: Callable[..., tuple[int, list[str]]], failing: str, step: int):
    status, calls = ci("chromium", failing=failing)
    assert status != 0
    assert calls == STEPS[: step + 1]


def test_the_workflow_runs_what_ci_runs_and_keeps_the_report():
    workflow = yaml.safe_load((ROOT / ".github" / "workflows" / "ci.yml").read_text(encoding="utf-8"))
    steps = workflow["jobs"]["cpu"]["steps"]
    assert any(step.get("run") == "bash .ci/run" for step in steps)
    assert any(step.get("with", {}).get("path") == "reports/runs" for step in steps)
