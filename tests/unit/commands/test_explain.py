"""Command `explain`: it explains a case file in words, or prints one line of error if that is impossible."""

from pathlib import Path

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import main
from tal_conformance.commands.cases import case_file

CROWDED = Recipe(
    images=((Truth("huge"), Truth("ordinary", at=(6, 6)), Truth("nested", 1), Truth("tiny", at=(2, 9))), ()),
    cells=(16, 16),
    strides=(8, 16, 32),
    classes=3,
    predictions="near",
)


@pytest.fixture
def case(tmp_path: Path) -> Path:
    path = tmp_path / "case.safetensors"
    CROWDED.build().save(path)
    return path


def test_an_anchor_a_ground_truth_and_an_image(case: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", str(case), "--image", "0", "--anchor", "69"]) == 0
    said = capsys.readouterr().out
    assert "Anchor 69 of image 0: stride 8, column 5, row 4, centre (44, 36)" in said
    assert "Assigned to GT 2" in said
    assert main(["explain", str(case), "--gt", "0"]) == 0
    assert "10 positives in the end" in capsys.readouterr().out
    assert main(["explain", str(case)]) == 0
    assert [f"GT {truth}" in capsys.readouterr().out for truth in range(1)] == [True]
    assert main(["explain", str(case), "--image", "1"]) == 0
    assert "no ground truth: every anchor is background" in capsys.readouterr().out


def test_beside_an_implementation(case: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["explain", str(case), "--anchor", "60", "--implementation", "article"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "By the reference, dialect article:" in lines[:3]
    assert lines[-1].startswith("The implementation: GT 0 with weight")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--image", "2"], "--image 2: expected an index from 0 to 1"),
        (["--anchor", "336"], "no anchor 336: the image has 336"),
        (["--anchor", "-1"], "no anchor -1"),
        (["--gt", "4"], "no ground truth 4: image 0 has 4"),
        (["--image", "1", "--gt", "0"], "image 1 has 0"),
        (
            ["--dialect", "ultralytics-8.4.19"],
            "unknown dialect 'ultralytics-8.4.19'; did you mean 'ultralytics-8.4.190'",
        ),
        (["--implementation", "nobody"], "'nobody'"),
    ],
)
def test_one_line_about_a_wrong_argument(
    case: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], message: str
):
    assert main(["explain", str(case), *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("python -m conformance explain: ")
    assert message in line


def test_a_case_that_cannot_be_read_or_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "no.safetensors").write_bytes(b"nonsense")
    for name in (str(tmp_path / "no.safetensors"), str(tmp_path / "absent.safetensors"), "0123456789ab"):
        assert main(["explain", name]) == 2
        assert capsys.readouterr().err.startswith("python -m conformance explain: ")


def test_fewer_anchors_than_k(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = tmp_path / "few.safetensors"
    Recipe(images=((Truth("ordinary"),),), cells=(2, 2)).build().save(path)
    assert main(["explain", str(path)]) == 2
    assert "TAL-TOPK-2" in capsys.readouterr().err


def test_a_case_is_found_by_its_name_in_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Path
):
    monkeypatch.chdir(tmp_path)
    for run in ("20250101-000000-aaaaaa", "20260101-000000-bbbbbb"):
        folder = tmp_path / "tal-conformance-reports" / run / "cases"
        folder.mkdir(parents=True)
        (folder / "feedfacecafe.safetensors").write_bytes(case.read_bytes())
    assert case_file("feedfacecafe").parts[-3] == "20260101-000000-bbbbbb"
    assert case_file(str(case)) == case
