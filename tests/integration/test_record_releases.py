"""Recording of training batches from releases whose loss has other modules or other arguments."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from tests.common.commands import ENVIRONMENT

from tal_conformance.core.batch import Batch
from tal_conformance.implementations.adapters.ultralytics_losses import criterion_of

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("record_release.py")


@pytest.mark.network
@pytest.mark.slow
@pytest.mark.parametrize(
    ("version", "family"),
    [
        pytest.param("8.0.0", "list", marks=pytest.mark.long),
        pytest.param("8.0.51", "list", marks=pytest.mark.long),
        pytest.param("8.0.111", "list", marks=pytest.mark.long),
        ("8.3.253", "list"),
        ("8.4.127", "dict"),
        ("8.4.190", "dict"),
    ],
)
def test_a_release_is_recorded(version: str, family: str, tmp_path: Path):
    done = subprocess.run(
        [sys.executable, SCRIPT, version, tmp_path],
        check=False,
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": ENVIRONMENT["PYTHONPATH"], "MPLBACKEND": "Agg"},  # like workers
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    train, behind = (line.split() for line in done.stdout.splitlines()[-2:])
    batch = train[3]
    assert train == ["train", "1", "None", batch, family]
    assert behind == ["behind", "1", "None", batch, family]
    for way in ("train", "behind"):
        (path,) = (tmp_path / way).iterdir()
        kept = Batch.load(path)
        assert kept.id == batch
        assert kept.origin.startswith(f"recorded: ultralytics {version}, step 0: first")


TRAINER, YOLO_FOLDER, UTILS = (
    "ultralytics.yolo.v8.detect.train", "ultralytics.yolo.utils.loss", "ultralytics.utils.loss",
)  # fmt: skip


@pytest.mark.parametrize(
    ("version", "module"),
    [
        ("8.0.0", TRAINER),
        ("8.0.110", TRAINER),
        ("8.0.111", YOLO_FOLDER),
        ("8.0.136", UTILS),
        ("8.4.190", UTILS),
        ("8.5.0.dev1+mine", UTILS),
    ],
)
def test_where_a_release_has_its_loss(version: str, module: str):
    assert criterion_of(version).loss_module == module


@pytest.mark.parametrize("version", ["7.0.0", "8", "unknown"])
def test_no_release_with_this_loss(version: str):
    with pytest.raises(ValueError, match=r"older|unpack|literal"):
        criterion_of(version)
