"""The three commands that a run prints to reproduce a divergence are executed, and each reproduces it."""

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.common.commands import ROOT, run

SWAPPED = """
from tal_conformance.implementations import Assignment
from ultralytics.utils.tal import TaskAlignedAssigner


class Swapped:
    name = "swapped"
    version = "1.0"
    dialect = "ultralytics-8.4.190"

    def assign(self, inputs):
        numbers = inputs.hyperparameters
        assigner = TaskAlignedAssigner(
            topk=numbers.topk, topk2=numbers.topk2, num_classes=inputs.head.classes, stride=list(inputs.head.strides),
            alpha=numbers.beta, beta=numbers.alpha,
        )
        return Assignment(*assigner(
            inputs.scores, inputs.boxes, inputs.anchors, inputs.labels, inputs.truth_boxes, inputs.truth_mask
        ))
"""


@pytest.fixture(
    scope="module",
    params=["from this repository", pytest.param("from another folder", marks=pytest.mark.long)],
)
def failed(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, Any]]:
    """Run the suite on a faulty adapter, and return its working directory and a divergence's log line."""
    folder = tmp_path_factory.mktemp("elsewhere with space")
    adapter = folder / "swapped.py"
    adapter.write_text(SWAPPED)
    ours = request.param == "from this repository"
    target = ["conformance"] if ours else ["--pyargs", "tal_conformance"]
    done = run(
        *(sys.executable, "-m", "pytest", *target, "-p", "no:cacheprovider", "-k", "test_metric"),
        *("--implementation", f"{adapter}:Swapped", "--examples", "20", "--hypothesis-seed", "0"),
        *("--report-dir", str(folder / "runs")),
        cwd=ROOT if ours else folder,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    (log,) = folder.glob("runs/2*/log.jsonl")
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    line = next(line for line in lines if line["kind"] == "divergence")
    return (ROOT if ours else folder), line


def named(line: dict[str, Any]) -> tuple[str, str]:
    """Return implementation and case file that the Python command in a divergence's log line names."""
    _, implementation, _, path, _ = line["reproduce"]["python"].split('"')
    return implementation, path


def test_the_pytest_line(failed: Any, tmp_path: Path):
    where, line = failed
    command = shlex.split(line["reproduce"]["pytest"])
    assert command[0] == "pytest"
    done = run(
        sys.executable, "-m", *command, "-p", "no:cacheprovider", "--report-dir", str(tmp_path), cwd=where
    )
    assert done.returncode == 1, done.stdout + done.stderr
    assert f"swapped: divergent at {line['stage']} ({line['clause']}), case {line['case']}" in done.stdout


def test_the_python_lines(failed: Any):
    where, line = failed
    done = run(sys.executable, "-c", line["reproduce"]["python"], cwd=where)
    assert done.returncode == 1
    assert f"swapped-cpu is DIVERGENT at stage {line['stage']} ({line['clause']})" in done.stderr


def test_the_example_line(failed: Any):
    where, line = failed
    printed = line["reproduce"]["example"]
    needs = printed.splitlines()[0].partition("needs: ")[2]
    source = f"""
from hypothesis import Phase, given, settings, strategies
from tal_conformance import check
{needs}

@settings(phases=[Phase.explicit])
@given(recipe=strategies.none())
{printed}
def test(recipe):
    assert recipe.build().id == {line["case"]!r}
    check({named(line)[0]!r}, recipe)

test()
"""
    done = run(sys.executable, "-c", source, cwd=where)
    assert done.returncode == 1
    assert f"swapped-cpu is DIVERGENT at stage {line['stage']} ({line['clause']})" in done.stderr


def test_in_words(failed: Any):
    where, line = failed
    picture = line["picture"]
    anchor = picture["focus"][0]
    path = named(line)[1]
    done = run(sys.executable, "-m", "tal_conformance", "explain", path, "--anchor", str(anchor), cwd=where)
    assert done.returncode == 0, done.stderr
    assert f"Anchor {anchor} of image 0" in done.stdout
