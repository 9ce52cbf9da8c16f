"""The GitHub Action passes its inputs to the suite; its steps produce status, report, summary and badge."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.common.commands import ENVIRONMENT

ROOT = Path(__file__).parents[2]
ACTION: dict[str, Any] = yaml.safe_load((ROOT / "action.yml").read_text(encoding="utf-8"))
STEPS = {step["name"]: step for step in ACTION["runs"]["steps"]}


def test_it_follows_the_schema_of_actions():
    assert set(ACTION) <= {"name", "description", "author", "branding", "inputs", "outputs", "runs"}
    assert ACTION["runs"]["using"] == "composite"
    for given in ACTION["inputs"].values():
        assert set(given) <= {"description", "required", "default"}
        assert given.get("required") or isinstance(given["default"], str)
    for step in ACTION["runs"]["steps"]:
        assert ("run" in step) != ("uses" in step)
        assert "uses" in step or step["shell"] == "bash"


def test_every_expression_names_what_exists():
    text = (ROOT / "action.yml").read_text(encoding="utf-8")
    inputs = set(re.findall(r"inputs\.(\w+)", text))
    assert inputs == set(ACTION["inputs"])
    outputs = set(re.findall(r"steps\.run\.outputs\.(\w+)", text))
    assert (
        outputs == set(re.findall(r'echo "(\w+)=', STEPS["Run the suite"]["run"])) == set(ACTION["outputs"])
    )


def test_no_input_is_pasted_into_a_script():
    assert not [step["name"] for step in STEPS.values() if "${{" in step.get("run", "")]


@pytest.mark.parametrize(("expression", "status"), [("topk", 0), ("nothing_has_this_name", 5)])
def test_the_run_leaves_status_summary_and_badge(expression: str, status: int, tmp_path: Path):
    step = STEPS["Run the suite"]
    tools = tmp_path / "tools"
    tools.mkdir()
    (tools / "python").write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    (tools / "python").chmod(0o755)
    output, page = tmp_path / "output", tmp_path / "page.md"
    given = {
        "IMPLEMENTATION": "reference\n\n", "TASK": "detect", "PROFILE": "dev", "DEVICE": "cpu",
        "OPTIONS": f"-k {expression} --examples 2 --benchmark-skip", "GITHUB_OUTPUT": str(output),
        "GITHUB_STEP_SUMMARY": str(page), "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
    }  # fmt: skip
    done = subprocess.run(
        ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", step["run"]],
        cwd=tmp_path, env=ENVIRONMENT | given, capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    outputs = dict(line.split("=", 1) for line in output.read_text().splitlines())
    assert outputs["status"] == str(status)
    folder = tmp_path / outputs["folder"]
    assert "reference" in page.read_text()
    assert (folder / "badge.svg").is_file()
    ended = subprocess.run(
        ["bash", "-c", STEPS["Fail if the run failed"]["run"]], env={"STATUS": outputs["status"]}, check=False
    )
    assert ended.returncode == status
