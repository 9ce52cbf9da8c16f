"""`tal-conformance init` writes adapters that conform for correct code, and names the mistake for incorrect code."""

import subprocess
import sys
from pathlib import Path

import pytest
from tests.common.commands import run

ROWS = """
import torch
from tal_reference import Head, Hyperparameters, detection_loss


class RowLoss:
    def __init__(self, nc, stride, reg_max, topk, topk2, box_gain, cls_gain, dfl_gain, alpha, beta):
        self.head = Head(strides=tuple(stride), classes=nc, reg_max=reg_max)
        self.numbers = Hyperparameters(
            topk=topk, topk2=topk2, box_gain=box_gain, cls_gain=cls_gain, dfl_gain=dfl_gain, alpha=alpha, beta=beta
        )

    def __call__(self, feats, targets):
        assert isinstance(targets, torch.Tensor), "targets are rows"
        loss = detection_loss(list(feats), targets, self.head, self.numbers)
        return loss.total, loss.items
"""


def written(folder: Path, target: str, *options: str) -> subprocess.CompletedProcess[str]:
    return run(
        sys.executable, "-m", "tal_conformance", "init", "adapter.py", "--from", target, *options, cwd=folder
    )


@pytest.mark.parametrize(
    "target",
    [
        pytest.param("ultralytics.utils.tal:TaskAlignedAssigner", marks=pytest.mark.long),
        pytest.param("ultralytics.utils.loss:v8DetectionLoss", marks=pytest.mark.long),
        "mine.py:RowLoss",
    ],
)
def test_the_adapter_of_working_code_conforms(target: str, tmp_path: Path):
    (tmp_path / "mine.py").write_text(ROWS)
    done = written(tmp_path, target)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "10 of 10 batches conform" in done.stdout
    assert {path.name for path in tmp_path.iterdir()} - {"__pycache__"} == {"mine.py", "adapter.py"}
    again = written(tmp_path, target)
    assert again.returncode == 2
    assert "--force" in again.stderr


def test_the_first_difference_of_wrong_code_is_printed(tmp_path: Path):
    (tmp_path / "mine.py").write_text(
        "from ultralytics.utils.tal import TaskAlignedAssigner\n\n\n"
        "class Wrong(TaskAlignedAssigner):\n"
        "    def __init__(self, topk, num_classes, alpha, beta, stride, topk2):\n"
        "        super().__init__(topk, num_classes, beta, alpha, stride, topk2=topk2)\n"
    )
    done = written(tmp_path, "mine.py:Wrong")
    assert done.returncode == 1, done.stdout + done.stderr
    assert "is DIVERGENT at stage metric (TAL-MET-1)" in done.stdout
    assert "cause: It computes ultralytics-8.4.190 with alpha and beta exchanged, on all of " in done.stdout


def test_a_target_that_ends_its_process_ends_only_that(tmp_path: Path):
    (tmp_path / "mine.py").write_text("import os\nos._exit(3)\n")
    done = written(tmp_path, "mine.py:Anything")
    assert done.returncode == 2
    assert "ended its process with exit status 3" in done.stderr
    assert not (tmp_path / "adapter.py").exists()
