"""`python record_release.py VERSION FOLDER`: record two calls of the loss of an Ultralytics release."""

import sys
from pathlib import Path

from tal_conformance.implementations.ultralytics_environment import configure_ultralytics

configure_ultralytics()
import torch  # noqa: E402

from tal_conformance.batches.content.truths import Truth  # noqa: E402
from tal_conformance.batches.recipe import Recipe  # noqa: E402
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter  # noqa: E402
from tal_conformance.implementations.adapters.ultralytics_losses import parsed  # noqa: E402
from tal_conformance.implementations.releases import IMPORTS, STAND_INS, chosen  # noqa: E402
from tal_conformance.implementations.workers.child import stub_module  # noqa: E402
from tal_conformance.implementations.workers.packages import Package, ensure_package  # noqa: E402
from tal_conformance.training.recorder import recording  # noqa: E402


def main(version: str, folder: str) -> None:
    """Record two calls of the release's loss on a batch: as a trainer calls it, and as a validator calls it."""
    for package in [Package("ultralytics", version), *chosen(IMPORTS, parsed(version))]:
        sys.path.insert(0, str(ensure_package(package)))
    for name in STAND_INS:
        stub_module(name)
    batch = Recipe(((Truth("ordinary"), Truth("tiny")), ()), classes=3, predictions="near").build()
    adapter, rows = UltralyticsAdapter(version), batch.annotations
    maps = tuple(level.clone().requires_grad_() for level in batch.feature_maps)
    criterion = adapter._new_criterion(batch.head, batch.hyperparameters, torch.device("cpu"))[0]
    predictions = adapter._predictions(maps, batch.head)
    names = {"batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}
    for way in ("train", "behind"):
        with recording(Path(folder) / way) as recorded:
            criterion(predictions if way == "train" else (None, predictions), names)
        print(way, recorded.calls, recorded.over, batch.id, type(predictions).__name__)


main(*sys.argv[1:])
