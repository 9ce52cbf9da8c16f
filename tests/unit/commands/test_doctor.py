"""The command `doctor`: findings on files and folders, worst first, with an exit status."""

import json
from pathlib import Path

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import main
from tal_conformance.core.case_file import Content, write
from tal_conformance.core.circumstances import Circumstances

BATCH = Recipe(((Truth("ordinary"),), (Truth("ordinary"),)), strides=(8, 16), cells=(8, 8), classes=3).build()
Capture = pytest.CaptureFixture[str]


def recorded(path: Path, circumstances: Circumstances | None = None, **changed: object) -> Path:
    path.parent.mkdir(exist_ok=True)
    fields = {name: getattr(BATCH, name) for name in Content._fields}
    write(path, Content(**(fields | changed)), circumstances)
    return path


def labelled(label: float) -> torch.Tensor:
    rows = BATCH.annotations.clone()
    rows[1, 1] = label
    return rows


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder of two ordinary batches, one with a wrong label, and one with that and unsorted rows."""
    recorded(tmp_path / "step-000000-a.safetensors", Circumstances(step=0))
    recorded(tmp_path / "step-000001-b.safetensors", Circumstances(step=1), annotations=labelled(7).flip(0))
    recorded(
        tmp_path / "step-000000-c.safetensors",
        Circumstances(step=0, epoch=4, exception="IndexError: index 7", raised_at="tal.py:9 in get"),
        annotations=labelled(7),
    )
    recorded(tmp_path / "step-000002-d.safetensors")
    return tmp_path


def test_findings_of_a_folder_are_counted_worst_first(folder: Path, capsys: Capture):
    assert main(["doctor", str(folder)]) == 1
    printed = capsys.readouterr().out.splitlines()
    assert printed[0] == "4 case files examined, 2 with findings"
    assert printed[1] == (
        "step-000000-c.safetensors: the loss raised IndexError: index 7 at tal.py:9 in get (step 0, epoch 4)"
    )
    numbered = [line for line in printed if line[:1].isdigit() and line[1] == "."]
    assert numbered == [
        "1. RAISES TAL-TGT-1: label outside the head, in 2 of 4 files: 2 of 4 rows there",
        "2. RAISES ANN-1: rows not sorted, in 1 of 4 files: 1 of 2 rows there",
    ]
    assert f"   first in {folder / 'step-000000-c.safetensors'} (step 0, epoch 4)" in printed


def test_an_ordinary_batch_has_status_0(folder: Path, capsys: Capture):
    assert main(["doctor", str(folder / "step-000002-d.safetensors")]) == 0
    assert capsys.readouterr().out == "1 case file examined, none with findings\n"


def test_a_remark_has_status_0(tmp_path: Path, capsys: Capture):
    rows = BATCH.annotations.clone()
    rows[0, 2] = 0.0
    assert main(["doctor", str(recorded(tmp_path / "case.safetensors", annotations=rows))]) == 0
    assert "1. REMARK ANN-1: box partly outside the image" in capsys.readouterr().out


def test_what_cannot_be_read_is_named_and_the_rest_examined(folder: Path, capsys: Capture):
    (folder / "step-000003-e.safetensors").write_bytes(b"damaged")
    assert main(["doctor", str(folder), "absent.safetensors"]) == 1
    printed = capsys.readouterr()
    assert "4 case files examined" in printed.out
    assert "cannot read case file" in printed.err
    assert "case file not found: absent.safetensors" in printed.err
    assert main(["doctor", "absent.safetensors"]) == 2


def test_the_dialect_decides(folder: Path, capsys: Capture):
    path = str(recorded(folder / "unsorted.safetensors", annotations=BATCH.annotations.flip(0)))
    assert main(["doctor", path]) == 1
    assert main(["doctor", path, "--dialect", "article"]) == 0
    recorded(Path(path), Circumstances(source="ultralytics 8.3.100"), annotations=BATCH.annotations.flip(0))
    assert main(["doctor", path]) == 0
    assert "ultralytics-8.3.253 accepts that" in capsys.readouterr().out


def test_the_machine_readable_result_has_every_finding(folder: Path, capsys: Capture):
    assert main(["doctor", str(folder), "--json"]) == 1
    result = json.loads(capsys.readouterr().out)["result"]
    assert result["files"] == 4
    assert [(finding["name"], finding["files"]) for finding in result["findings"]] == [
        ("label outside the head", 2),
        ("rows not sorted", 1),
    ]
    assert [len(case["findings"]) for case in result["cases"]] == [0, 1, 2, 0]
    assert result["cases"][1]["circumstances"]["exception"] == "IndexError: index 7"


def test_explain_prints_the_first_finding(tmp_path: Path, capsys: Capture):
    rows = BATCH.annotations.clone()
    rows[0, 4] = 0.0
    path = str(recorded(tmp_path / "case.safetensors", annotations=rows))
    assert main(["explain", path]) == 0
    assert (
        "Inputs: not learnt, TAL-CAND-2: the box of row 0 of the annotations has a side of 0"
        in capsys.readouterr().out
    )
