"""The losses in MLX and Keras conform in process, and a planted mistake is found."""

import importlib.util
import json
import shutil
import sys
from pathlib import Path

import pytest
from tests.common.commands import ROOT, run

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe

pytestmark = [pytest.mark.slow, pytest.mark.long]

BATCHES = (
    Recipe(),
    Recipe(images=((Truth("ordinary", at=(15, 0)),),), cells=(2, 5)),
    Recipe(
        images=((Truth("huge", at=(9, 0), size=(11, 12)), Truth("huge", label=1, at=(0, 14), size=(15, 3))),),
        cells=(8, 8),
        strides=(16, 32),
        classes=3,
        seed=44607,
    ),
)
"""A batch without ground truths, one with a single ground truth, and one with two levels and contested anchors."""


@pytest.mark.parametrize(
    ("adapter", "backend", "module"),
    [
        ("mlx_loss.py:MlxLoss", "", "mlx.core"),
        ("keras_loss.py:KerasLoss", "torch", "keras"),
        ("keras_loss.py:KerasLoss", "jax", "keras"),
    ],
    ids=["mlx", "keras-torch", "keras-jax"],
)
@pytest.mark.parametrize(
    ("right", "wrong"),
    [("", ""), ("ops.stop_gradient(v / (1 - iou + v + EPS))", "v / (1 - iou + v + EPS)")],
    ids=["as it is", "a gradient through the weight of the aspect ratio"],
)
def test_the_loss_is_judged(adapter: str, backend: str, module: str, right: str, wrong: str, tmp_path: Path):
    for needed in (module, backend):
        if needed and importlib.util.find_spec(needed.split(".")[0]) is None:
            pytest.skip(f"{needed} is not installed: pip install -e '.[frameworks]'")
    for folder in ("numpy", "frameworks"):
        shutil.copytree(ROOT / "examples" / folder, tmp_path / folder)
    source = tmp_path / "frameworks" / "array_loss.py"
    text = source.read_text(encoding="utf-8")
    assert right in text
    source.write_text(text.replace(right, wrong) if right else text, encoding="utf-8")
    for number, recipe in enumerate(BATCHES):
        recipe.build().save(tmp_path / f"{number}.safetensors")
    done = run(
        *("env", f"KERAS_BACKEND={backend or 'torch'}"),
        *(sys.executable, "-m", "tal_conformance", "replay", "--json"),
        *(f"{number}.safetensors" for number in range(len(BATCHES))),
        *("--implementation", f"frameworks/{adapter}"),
        cwd=tmp_path,
    )
    assert done.returncode == int(bool(right)), done.stderr
    verdicts = [case["outcomes"][0]["verdict"] for case in json.loads(done.stdout)["result"]["cases"]]
    if right:
        assert "divergent" in verdicts
    else:
        assert not {"divergent", "error", "inconclusive", "unsupported"} & set(verdicts)
