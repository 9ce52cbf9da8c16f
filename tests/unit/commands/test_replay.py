"""Command `replay`: it prints verdict, stages and picture of a case file, or one line of error for any other file."""

import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tests.common.commands import ENVIRONMENT

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.commands import main
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import Content, write
from tal_conformance.core.circumstances import Circumstances
from tal_conformance.core.reference_inputs import reference_loss
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.outcome_file import StoredOutcome, outcome_path, store
from tal_conformance.implementations.registry import find
from tal_reference import NEWEST

ROOT = Path(__file__).parents[3]
SMALL = Recipe(((Truth("ordinary"), Truth("tiny")), ()), classes=2, predictions="near").build()
"""A ground truth below 16 px: the article's algorithm has no floor for it."""


@pytest.fixture
def case(tmp_path: Path) -> Path:
    path = tmp_path / "case.safetensors"
    SMALL.save(path)
    return path


Run = Callable[..., tuple[int, str, list[str]]]


@pytest.fixture
def replay(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `replay` and returns exit status, standard output and lines of standard error."""

    def run(*arguments: Any) -> tuple[int, str, list[str]]:
        status = main(["replay", *map(str, arguments), "--pictures", str(tmp_path / "pictures")])
        out, err = capsys.readouterr()
        return status, out, err.splitlines()

    return run


def pictures(out: str) -> list[Path]:
    return [Path(line.split("picture: ")[1]) for line in out.splitlines() if "picture: " in line]


def test_what_conforms(replay: Run, case: Path):
    status, out, errors = replay(case)
    assert (status, errors) == (0, [])
    assert "on cpu, dialect ultralytics-8.4.190: WITHIN BOUND" in out
    assert all(f"  {stage:14}agrees" in out for stage in DETECT.clauses)
    (path,) = pictures(out)
    assert "within bound: case" in path.read_text(encoding="utf-8")


def test_what_diverges_from_another_dialect(replay: Run, case: Path):
    status, out, _ = replay(case, "--implementation", "article", "--against", "ultralytics-8.4.190")
    assert status == 1
    assert "article 1 on cpu, dialect ultralytics-8.4.190: DIVERGENT" in out
    assert "at stage candidates (TAL-CAND-2)" in out
    assert "  candidates    diverges" in out
    page = pictures(out)[0].read_text(encoding="utf-8")
    assert "<svg" in page
    assert "at stage candidates" in page
    assert "script" not in page.lower().replace("description", "")


def test_each_implementation_has_its_picture(replay: Run, case: Path):
    _, out, _ = replay(case, "--implementation", "article", "--implementation", "reference")
    assert len({path for path in pictures(out) if path.is_file()}) == 2


def test_a_folder_and_a_runs_folder(replay: Run, tmp_path: Path, case: Path):
    (tmp_path / "run" / "cases").mkdir(parents=True)
    SMALL.save(tmp_path / "run" / "cases" / "other.safetensors")
    status, out, errors = replay(tmp_path, tmp_path / "run", "--implementation", "reference", "--details")
    assert (status, errors[:1]) == (0, ["Judging cases: 2 to do"])
    assert [line.split(":")[0] for line in out.splitlines() if " px, " in line] == [
        str(case),
        str(tmp_path / "run" / "cases" / "other.safetensors"),
    ]


def test_bad_files_cost_a_line_each_and_nothing_else(replay: Run, tmp_path: Path, case: Path):
    (tmp_path / "text.safetensors").write_text("no case\n", encoding="utf-8")
    (tmp_path / "cut.safetensors").write_bytes(case.read_bytes()[:-1])
    (tmp_path / "empty").mkdir()
    bad = [
        tmp_path / name for name in ("text.safetensors", "cut.safetensors", "empty", "nothing.safetensors")
    ]
    status, out, errors = replay(*bad, case, "--implementation", "reference")
    assert status == 2
    assert "reference 1 on cpu, dialect ultralytics-8.4.190: WITHIN BOUND" in out
    assert errors[0] == f"Judging cases: {len(bad) + 1} to do"
    assert len(errors[1:]) == len(bad)
    for path, line in zip(bad, errors[1:], strict=True):
        assert line.startswith("python -m conformance replay: ")
        assert str(path) in line


def test_a_divergence_counts_more_than_a_bad_file(replay: Run, case: Path):
    arguments = ("--implementation", "article", "--against", "ultralytics-8.4.190")
    assert replay("nothing.safetensors", case, *arguments)[0] == 1


def test_an_implementation_that_cannot_be_had_keeps_no_other_from_it(replay: Run, case: Path):
    status, out, errors = replay(case, "--implementation", "nobody", "--implementation", "reference")
    assert status == 2
    assert "reference" in out
    (line,) = errors
    assert "unknown implementation 'nobody'" in line


def test_an_unknown_dialect_is_one_line(replay: Run, case: Path):
    status, out, errors = replay(case, "--against", "mine")
    assert (status, out, len(errors)) == (2, "", 1)
    assert "--against: unknown dialect 'mine'. Known dialects: " in errors[0]


def test_a_picture_that_cannot_be_written_is_told(replay: Run, tmp_path: Path, case: Path):
    (tmp_path / "pictures").touch()
    status, out, errors = replay(case, "--implementation", "reference")
    assert status == 2
    assert "reference 1 on cpu, dialect ultralytics-8.4.190: WITHIN BOUND" in out
    assert "cannot write the picture: " in errors[0]


def test_predictions_that_are_no_numbers_have_their_own_clauses_and_no_picture(replay: Run, case: Path):
    batch = Batch.load(case)
    batch.feature_maps[0][0, 0, 0, 0] = torch.nan
    replace(batch).save(case)
    status, out, errors = replay(case)
    assert (status, errors) == (0, [])
    assert pictures(out) == []


def stored(case: Path, device: str = "cuda") -> Path:
    outcome = StoredOutcome(SMALL.id, "article", "1", "article", device, execute(find("article"), SMALL))
    path = outcome_path(case, "article", device)
    store(path, outcome)
    return path


def test_a_stored_outcome_is_judged_where_it_cannot_be_computed(replay: Run, case: Path):
    stored(case)
    status, out, errors = replay(case, "--offline")
    assert (status, errors) == (0, [])
    assert "article 1 on cuda (stored), dialect article: " in out
    assert len(pictures(out)) == 1
    status, out, _ = replay(case, "--offline", "--against", "ultralytics-8.4.190")
    assert status == 1
    assert "at stage candidates (TAL-CAND-2)" in out


def test_a_damaged_outcome_keeps_no_other_from_being_judged(replay: Run, case: Path):
    stored(case)
    stored(case, "cpu").write_bytes(b"nothing")
    status, out, errors = replay(case, "--offline")
    assert status == 2
    assert "article 1 on cuda (stored)" in out
    assert "cannot read outcome file" in errors[0]


def test_without_stored_outcomes_it_says_so(replay: Run, case: Path):
    status, _, errors = replay(case, "--offline", "--implementation", "ultralytics")
    assert status == 2
    assert errors == [
        (
            f"python -m conformance replay: no outcome of ultralytics is stored beside {case}: "
            "leave out --offline to compute one"
        ),
    ]


@pytest.mark.slow
def test_by_default_pictures_lie_where_reports_do(tmp_path: Path, case: Path):
    done = subprocess.run(
        [sys.executable, "-m", "conformance", "replay", case, "--implementation", "reference"],
        check=True,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]},
        capture_output=True,
        text=True,
        timeout=120,
    )
    (path,) = pictures(done.stdout)
    assert path.parent == tmp_path / "tal-conformance-reports" / "pictures"
    assert path.is_file()


@pytest.mark.slow
def test_what_comes_with_the_project_is_replayed(replay: Run):
    status, out, errors = replay(recorded_cases()[0].parent, "--implementation", "reference", "--details")
    assert (status, errors[0]) == (0, f"Judging cases: {len(recorded_cases())} to do")
    assert all(line.startswith("Judging cases: ") for line in errors)
    assert out.count("recorded: ultralytics") == len(recorded_cases())


def test_unusual_inputs_are_remarked_on(replay: Run, tmp_path: Path):
    """For annotations in pixels, `replay` prints a note that ground truths lie outside the image."""
    path = tmp_path / "pixels.safetensors"
    annotations = SMALL.annotations.clone()
    annotations[:, 2:] *= 64
    replace(SMALL, annotations=annotations).save(path)
    status, out, _ = replay(path)
    assert status == 0
    assert "  remark: all ground truths lie wholly outside the image, as rows in pixels would" in out


def test_a_loss_over_predictions_that_are_not_finite_says_that_it_passes_them_on(replay: Run, tmp_path: Path):
    path = tmp_path / "nan.safetensors"
    maps = tuple(torch.full_like(level, torch.nan) for level in SMALL.feature_maps)
    replace(SMALL, feature_maps=maps).save(path)
    status, out, _ = replay(path)
    assert status == 0
    assert f"  remark: predictions of {SMALL.images * SMALL.anchors} of " in out
    assert "the loss is not finite because predictions are not, as NONFINITE-2 prescribes" in out


def test_an_exception_is_explained_by_the_rows_and_by_its_traceback(replay: Run, tmp_path: Path):
    """If unsorted rows cause an IndexError, `replay` prints a note about the rows, and the traceback."""
    path = tmp_path / "unsorted.safetensors"
    both = Recipe(((Truth("ordinary"),), (Truth("ordinary", at=(8, 8)),)), predictions="near").build()
    replace(both, annotations=both.annotations.flip(0)).save(path)
    status, out, _ = replay(path)
    assert status == 1
    assert "  remark: rows 1 and 2 (counted from 1) are not sorted by image (ANN-1)" in out
    assert "raised IndexError" in out
    assert "in preprocess" in out
    assert "the report has" not in out


def test_a_batch_that_must_be_rejected_is_rejected(replay: Run, tmp_path: Path):
    path = tmp_path / "few.safetensors"
    Recipe(((Truth("ordinary"),),), cells=(2, 2)).build().save(path)
    status, out, _ = replay(path)
    assert status == 0
    assert ": REJECTED\n  raises, as TAL-TOPK-2 requires: raised RuntimeError" in out
    assert "the report has" not in out


def test_a_recorded_batch_that_raised_is_told_with_where_and_why(replay: Run, tmp_path: Path):
    """A label outside the head cannot be judged: no valid batch has it."""
    rows = SMALL.annotations.clone()
    rows[1, 1] = 7
    content = Content(*(getattr(SMALL, name) for name in Content._fields))
    known = Circumstances(step=31, exception="IndexError: index 7", raised_at="tal.py:9 in get")
    write(tmp_path / "case.safetensors", content._replace(annotations=rows), known)
    status, out, errors = replay(tmp_path / "case.safetensors", "--implementation", "reference")
    assert status == 2
    assert "names class 7, expected 0 to 1" in errors[0]
    assert "  recorded: the loss raised IndexError: index 7 at tal.py:9 in get (step 31)" in out.splitlines()
    assert "  inputs: raises, TAL-TGT-1: row 1 of the annotations names class 7" in out


def test_a_folder_ends_with_the_number_of_each_verdict(replay: Run, tmp_path: Path, case: Path):
    SMALL.save(tmp_path / "other.safetensors")
    _, out, _ = replay(tmp_path, "--implementation", "reference")
    assert out.splitlines()[-1] == "2 cases: 2 within bound"
    (tmp_path / "damaged.safetensors").write_bytes(b"nothing")
    _, out, _ = replay(tmp_path, "--implementation", "reference")
    assert out.splitlines()[-1] == "2 cases: 2 within bound; 1 could not be judged"
    _, out, _ = replay(case, "--implementation", "reference")
    assert " cases: " not in out


def test_a_folder_has_one_line_for_each_batch_that_conforms(replay: Run, tmp_path: Path, case: Path):
    """The line has the verdict, and losses and positives of implementation and reference."""
    SMALL.save(tmp_path / "other.safetensors")
    _, out, _ = replay(tmp_path, "--implementation", "reference")
    one, other, _ = [line for line in out.splitlines() if not line.startswith(" ")]
    assert one.startswith(f"{tmp_path}/case.safetensors: reference 1 on cpu, dialect ")
    assert other.startswith(f"{tmp_path}/other.safetensors: ")
    expected = reference_loss(SMALL, NEWEST)
    positives = sum(int(image.foreground.sum()) for image in expected.targets)
    assert f": box {expected.items[0]:.6g} (reference {expected.items[0]:.6g}), cls " in other
    assert other.endswith(f", positives {positives} (reference {positives})")
    _, out, _ = replay(tmp_path, "--implementation", "reference", "--details")
    assert out.count("  candidates    agrees") == 2


def test_the_reasons_of_a_failure_in_a_folder_are_printed(replay: Run, tmp_path: Path, case: Path):
    SMALL.save(tmp_path / "other.safetensors")
    status, out, _ = replay(tmp_path, "--implementation", "article", "--against", "ultralytics-8.4.190")
    assert status == 1
    assert "at stage candidates (TAL-CAND-2)" in out
    assert "picture: " in out
    assert "  candidates    diverges" not in out
