"""A failing run names the cause in its first line, has one card for the cause, and fits on one screen."""

import json
import sys
from pathlib import Path

import pytest
from tests.common.commands import run

from tal_reports import read_log
from tal_reports.analysis.folding import causes_of
from tal_reports.text import wrapped_rows

ADAPTERS = """
from tests.fauxmplementations.dense_port import DensePort
from tal_reference import NEWEST


class PlainIou(DensePort):
    def __init__(self):
        super().__init__(NEWEST, "all", overlap="iou")


class AssignerAlone:
    \"\"\"An assigner without a loss, which settles contested anchors by t among those that take them.\"\"\"

    name, version, dialect = "assigner-alone", "1", NEWEST

    def __init__(self):
        self.assign = DensePort(NEWEST, contested="metric").assign


class HiddenLoss:
    \"\"\"A loss without the factor B, which shows nothing but its numbers.\"\"\"

    name, version, dialect = "hidden-loss", "1", NEWEST

    def __init__(self):
        self.loss = DensePort(NEWEST, "nothing", total_times_images=False).loss


class OneTerm(DensePort):
    def __init__(self):
        super().__init__(NEWEST, "all", dfl_shares_exchanged=True)


class OneLess(DensePort):
    def __init__(self):
        super().__init__(NEWEST, "all", k_offset=-1)


class Raises(DensePort):
    \"\"\"Raises on several images with ground truths, which no choice explains.\"\"\"

    def __init__(self):
        super().__init__(NEWEST, "all")

    def loss(self, feature_maps, annotations, head, hyperparameters):
        if feature_maps[0].shape[0] > 1 and len(annotations):
            raise IndexError("index 1 is out of bounds for dimension 0 with size 1")
        return super().loss(feature_maps, annotations, head, hyperparameters)


class OnlyOneImage(DensePort):
    \"\"\"Fails where there are several images, which no choice explains.\"\"\"

    def __init__(self):
        super().__init__(NEWEST, "all")

    def loss(self, feature_maps, annotations, head, hyperparameters):
        result = super().loss(feature_maps, annotations, head, hyperparameters)
        if feature_maps[0].shape[0] > 1:
            result.items[1] *= 1.5
        return result
"""
LINES = 40
"""Number of lines on one screen."""
COLUMNS = 100
"""Number of characters of a line of the screen, which wraps longer lines."""


def first_line(lines: list[str]) -> str:
    """Return the first line of the summary that a run prints."""
    return lines[next(number for number, line in enumerate(lines) if "= conformance =" in line) + 1]


def rows_on_screen(lines: list[str]) -> int:
    """Return the number of rows that the output of a run fills."""
    return wrapped_rows("\n".join(lines), COLUMNS)


def failing_run(folder: Path, name: str, *options: str) -> tuple[list[str], Path]:
    """Return the lines that a run prints, and its folder."""
    adapters = folder / "adapters.py"
    adapters.write_text(ADAPTERS)
    done = run(
        sys.executable, "-m", "pytest", "conformance", "--implementation", f"{adapters}:{name}", "--examples", "6",
        "-p", "no:cacheprovider", "--report-dir", str(folder / "runs"), "--hypothesis-seed", "1", *options,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout[-3000:] + done.stderr[-3000:]
    (log,) = (folder / "runs").glob("2*/log.jsonl")
    return (done.stdout + done.stderr).splitlines(), log.parent


@pytest.mark.slow
def test_the_first_line_names_the_cause_and_the_output_fits_on_one_screen(tmp_path: Path):
    chosen = "test_metric or test_conflict or test_topk or test_targets or test_loss or META-MIRROR"
    lines, folder = failing_run(tmp_path, "PlainIou", "-k", chosen, "--identification-seconds", "20")
    assert rows_on_screen(lines) <= LINES
    first = first_line(lines)
    assert first.startswith(
        "dense-port: It computes ultralytics-8.4.190 with plain IoU in place of CIoU in the assignment. That explains "
    )
    assert first.endswith("nothing is left.")
    log = read_log(folder)
    (cause,) = causes_of(log, log.divergences)
    assert cause.choice == "plain IoU in place of CIoU in the assignment"
    assert len(cause.lines) > 3
    (found,) = json.loads((folder / "summary.json").read_text())["implementations"]
    assert found["identification"]["sentence"] in first
    assert found["identification"]["sentence"] in (folder / "report.html").read_text()


CAUSES = {
    "AssignerAlone": ("test_conflict or test_targets or test_assigner", "contested anchors settled by t"),
    "HiddenLoss": ("test_loss", "a total without the number of images as factor"),
    "OneTerm": (
        "test_loss or test_metric or test_heads",
        "the shares of the two bins of a distance exchanged",
    ),
    "OneLess": ("test_topk or test_metric or META-MIRROR", "k lowered by one"),
}
"""For adapters of several kinds the tests that run, and the choice that is the cause."""


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("name", CAUSES)
def test_causes_of_all_kinds_are_named_on_one_screen(tmp_path: Path, name: str):
    chosen, words = CAUSES[name]
    lines, folder = failing_run(tmp_path, name, "-k", chosen, "--identification-seconds", "40")
    assert rows_on_screen(lines) <= LINES
    first = first_line(lines)
    assert f": It computes ultralytics-8.4.190 with {words}" in first
    assert first.endswith("nothing is left.")
    log = read_log(folder)
    assert [cause.choice.startswith(words) for cause in causes_of(log, log.divergences)] == [True]


@pytest.mark.slow
def test_an_adapter_that_raises_is_not_given_a_choice_as_cause(tmp_path: Path):
    lines, folder = failing_run(
        tmp_path, "Raises", "-k", "test_loss or test_targets", "--identification-seconds", "8"
    )
    assert rows_on_screen(lines) <= LINES
    assert not any("It computes" in line for line in lines)
    assert any("index 1 is out of bounds" in line for line in lines)
    log = read_log(folder)
    assert [cause.choice for cause in causes_of(log, log.divergences)] == [""]


@pytest.mark.slow
@pytest.mark.long
def test_where_no_choice_explains_a_failure_the_run_says_what_failing_batches_share(tmp_path: Path):
    lines, folder = failing_run(
        tmp_path,
        "OnlyOneImage",
        "-k",
        "test_loss or test_targets or test_heads",
        "--identification-seconds",
        "12",
    )
    (first, *_) = [line.strip() for line in lines if line.strip().startswith("It fails on ")]
    assert "batches drawn to test this, it fails on" in first
    log = read_log(folder)
    assert [cause.choice for cause in causes_of(log, log.divergences)] == [""]


@pytest.mark.slow
@pytest.mark.long
def test_verbose_runs_list_every_failing_test(tmp_path: Path):
    lines, _ = failing_run(tmp_path, "PlainIou", "-k", "test_metric", "-v", "--identification-seconds", "0")
    assert any(line.startswith("FAILED ") and "test_metric" in line for line in lines)
    assert any("is DIVERGENT at stage" in line for line in lines)
    assert not any("It computes" in line for line in lines)
