"""The synthetic data set of rectangles, and the batches recorded in a training on it."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.core.batch import Batch
from tal_conformance.training.rectangles import COLOURS, SIDE, draw_image

ROOT = Path(__file__).parents[2]


def by_step(paths: list[Path]) -> dict[tuple[bool, str], Batch]:
    """Return recorded batches by (autocast, step); the step is part of the file name."""
    batches = [(path, Batch.load(path)) for path in paths]
    return {(batch.autocast, path.stem.rpartition("-")[0]): batch for path, batch in batches}


def test_an_image_is_the_same_each_time_and_another_than_the_next():
    pixels, rows = draw_image(3)
    again, rows_again = draw_image(3)
    assert torch.equal(pixels, again)
    assert rows == rows_again
    assert not torch.equal(pixels, draw_image(4)[0])


@pytest.mark.parametrize("number", range(10))
def test_labels_are_where_the_rectangles_are(number: int):
    pixels, rows = draw_image(number)
    assert pixels.shape == (3, SIDE, SIDE)
    assert len(rows) == number % 5
    if rows:
        label, cx, cy, width, height = rows[-1]  # drawn last, so that no other rectangle covers it
        left, top = round((cx - width / 2) * SIDE), round((cy - height / 2) * SIDE)
        inside = pixels[:, top : top + round(height * SIDE), left : left + round(width * SIDE)]
        assert {tuple(pixel) for pixel in inside.flatten(1).T.tolist()} == {COLOURS[label]}


@pytest.mark.slow
def test_the_command_makes_the_shipped_batches_again(tmp_path: Path):
    """`training.rectangles` records batches with the same annotations, head and dtype as the stored batches."""
    ultralytics = pytest.importorskip("ultralytics")
    said = {batch.origin.split(",")[0] for batch in by_step(recorded_cases()).values()}
    if said != {f"recorded: ultralytics {ultralytics.__version__}"}:
        pytest.skip(f"the stored batches are of {said}; the installed release augments images differently")
    done = subprocess.run(
        [sys.executable, "-m", "tal_conformance.training.rectangles", tmp_path / "made"],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=500,
    )
    assert done.returncode == 0, done.stderr[-5000:]
    made, ours = by_step(sorted((tmp_path / "made").glob("recorded*/*"))), by_step(recorded_cases())
    both = made.keys() & ours.keys()
    assert {(False, "step-000000"), (True, "step-000000")} <= both
    for step in both:
        assert torch.equal(made[step].annotations, ours[step].annotations)
        assert made[step].head == ours[step].head
        assert made[step].hyperparameters == ours[step].hyperparameters
        assert made[step].dtype == ours[step].dtype


@pytest.mark.parametrize(
    ("arguments", "says"), [([], "required: FOLDER"), (["."], ". already exists: name another folder")]
)
def test_bad_usage_is_told(arguments: list[str], says: str):
    done = subprocess.run(
        [sys.executable, "-m", "tal_conformance.training.rectangles", *arguments],
        check=False,
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=100,
    )
    assert done.returncode == 2
    assert says in done.stderr.splitlines()[-1]
