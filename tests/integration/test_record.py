"""The command `tal-conformance record`, with trivial trainings and with a training by Ultralytics."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from tests.common.commands import ENVIRONMENT

from tal_conformance.core.batch import Batch

ROOT = Path(__file__).parents[2]
TRAINING = """
import os, sys, torch
from ultralytics.utils.loss import v8DetectionLoss
from types import SimpleNamespace as Names

print("arguments", sys.argv[1:], "threads", os.environ["OMP_NUM_THREADS"], "beside", sys.path[0])
maps = torch.zeros(1, 66, 4, 4, requires_grad=True)
model = Names(
    args=Names(box=7.5, cls=0.5, dfl=1.5), model=[Names(stride=torch.tensor([8.0]), nc=2, reg_max=16)],
    parameters=lambda: iter((maps,)),
)
rows = {"batch_idx": torch.zeros(1), "cls": torch.zeros(1, 1), "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4]])}
flat = maps.flatten(2)
for step in range(3):
    total, _ = v8DetectionLoss(model)({"boxes": flat[:, :64], "scores": flat[:, 64:], "feats": [maps]}, rows)
    total.sum().backward(retain_graph=True)
"""


def record(folder: Path, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_NUM_THREADS"}
    settings = {
        "YOLO_CONFIG_DIR": str(folder / "settings"),
        "YOLO_OFFLINE": "true",
        "YOLO_AUTOINSTALL": "false",
    }
    (folder / "settings").mkdir(exist_ok=True)
    return subprocess.run(
        [sys.executable, "-m", "conformance", "record", *arguments],
        check=False,
        cwd=folder,
        env=environment | settings | {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"]} | more,
        capture_output=True,
        text=True,
        timeout=300,
    )


@pytest.fixture
def script(tmp_path: Path) -> Path:
    path = tmp_path / "train.py"
    path.write_text(TRAINING, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    "way",
    [
        ["train.py"],
        *(
            pytest.param(way, marks=pytest.mark.long)
            for way in (["python", "train.py"], ["python", "-m", "train"])
        ),
    ],
)
def test_a_script_is_recorded_as_it_runs_without(script: Path, way: list[str]):
    done = record(script.parent, "--into", "kept", "--", *way, "--lr", "0.1")
    assert done.returncode == 0, done.stderr
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("arguments")]
    assert line == f"arguments ['--lr', '0.1'] threads 1 beside {script.parent}"
    assert [Batch.load(path).head.classes for path in (script.parent / "kept").iterdir()] == [2]
    assert "recorded in kept" in done.stderr
    assert "python -m tal_conformance replay kept" in done.stderr


def test_without_a_folder_it_makes_one_of_its_own(script: Path):
    done = record(script.parent, "--", "train.py")
    assert done.returncode == 0, done.stderr
    (folder,) = (script.parent / "tal-conformance-recorded").iterdir()
    assert len(list(folder.glob("*.safetensors"))) == 1


@pytest.mark.parametrize(
    ("ends", "status", "says"),
    [
        pytest.param("sys.exit(7)", 7, "", marks=pytest.mark.long),
        pytest.param("sys.exit('no more')", 1, "no more", marks=pytest.mark.long),
        ("raise RuntimeError('broken')", 1, "RuntimeError: broken"),
        (  # background processes of a shell ignore SIGINT, as do their children
            "from signal import *; signal(SIGINT, default_int_handler); raise_signal(SIGINT)",
            130,
            "",
        ),
    ],
)
def test_a_training_that_ends_otherwise_leaves_what_was_recorded(
    script: Path, ends: str, status: int, says: str
):
    script.write_text(TRAINING + ends + "\n", encoding="utf-8")
    done = record(script.parent, "--into", "kept", "--", "train.py")
    assert done.returncode == status, done.stderr
    assert says in done.stderr
    assert len([Batch.load(path) for path in (script.parent / "kept").iterdir()]) == 1
    assert "recorded in kept" in done.stderr


def test_a_killed_training_leaves_what_was_recorded(script: Path):
    script.write_text(TRAINING + "os.kill(os.getpid(), 9)\n", encoding="utf-8")
    assert record(script.parent, "--into", "kept", "--", "train.py").returncode == -signal.SIGKILL
    assert len([Batch.load(path) for path in (script.parent / "kept").iterdir()]) == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to record: write `-- yolo detect train"),
        (["--"], "nothing to record"),
        (["--", "nothing.py"], "training script not found: nothing.py"),
        (["--", "no-such-program"], "'no-such-program' is not a console script of this Python environment"),
        (["--every", "-1", "--", "train.py"], "got every = -1"),
        (["--limit-mb", "0", "--", "train.py"], "got 0 MB"),
        (["--into", "train.py", "--", "train.py"], "cannot create the folder train.py"),
    ],
)
def test_bad_usage_is_one_clear_line(script: Path, arguments: list[str], says: str):
    done = record(script.parent, *arguments)
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("python -m tal_conformance record: ")
    assert says in line
    assert "arguments" not in done.stdout


def test_what_calls_no_loss_is_told_and_leaves_nothing(script: Path):
    script.write_text("print('no training')\n", encoding="utf-8")
    done = record(script.parent, "--into", "kept", "--", "train.py")
    assert done.returncode == 0
    assert "never called the official detection loss" in done.stderr
    assert not (script.parent / "kept").exists()


@pytest.mark.slow
@pytest.mark.long
def test_a_training_of_ultralytics_learns_the_same_with_and_without(tmp_path: Path):
    (tmp_path / "settings").mkdir()
    (tmp_path / "train.py").write_text(
        """
import hashlib, sys
from pathlib import Path
import torch
from tal_conformance.training.rectangles import training_options, write_dataset
from ultralytics import YOLO
from ultralytics.utils import ROOT

folder = Path(sys.argv[1])
model = YOLO(str(ROOT / "cfg" / "models" / "v8" / "yolov8n.yaml"), verbose=False)
model.train(**training_options(folder, write_dataset(folder)) | {"epochs": 1})
sha = hashlib.sha256()
for weight in model.trainer.model.parameters():
    sha.update(weight.detach().numpy().tobytes())
print("weights", sha.hexdigest())
""",
        encoding="utf-8",
    )
    recorded = record(tmp_path, "--into", "kept", "--every", "3", "--", "train.py", "one")
    assert recorded.returncode == 0, recorded.stderr
    alone = subprocess.run(
        [sys.executable, "train.py", "two"],
        check=True,
        cwd=tmp_path,
        env=os.environ
        | {
            "YOLO_CONFIG_DIR": str(tmp_path / "settings"),
            "YOLO_OFFLINE": "true",
            "PYTHONPATH": ENVIRONMENT["PYTHONPATH"],
        },
        capture_output=True,
        text=True,
        timeout=300,
    )
    learnt = [
        line for done in (recorded, alone) for line in done.stdout.splitlines() if line.startswith("weights")
    ]
    assert len(learnt) == 2
    assert learnt[0] == learnt[1]
    kept = [Batch.load(path) for path in sorted((tmp_path / "kept").iterdir())]
    assert len(kept) >= 4
    assert ", yolov8n.yaml, step 0, epoch 0: first" in kept[0].origin
    assert all(batch.head.strides == (8, 16, 32) for batch in kept)
