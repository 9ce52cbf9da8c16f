"""`python distributed_training.py FOLDER RANK WORLD_SIZE`: one process of a training with the official loss under gloo.

Each process trains a factor of its own batch's feature maps, records the loss, and writes the loss and the gradient
that the processes have in common into FOLDER.
"""

import json
import sys
from pathlib import Path

from tal_conformance.implementations.ultralytics_environment import configure_ultralytics

configure_ultralytics()
import torch  # noqa: E402
import ultralytics  # noqa: E402
from torch.nn.parallel import DistributedDataParallel  # noqa: E402

from tal_conformance import recording  # noqa: E402
from tal_conformance.batches.content.truths import Truth  # noqa: E402
from tal_conformance.batches.recipe import Recipe  # noqa: E402
from tal_conformance.core.batch import Batch  # noqa: E402
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter  # noqa: E402

STEPS = 2


def batch_of(rank: int) -> Batch:
    """Return the batch of a process: they have different numbers of ground truths."""
    truths = (Truth("ordinary"), Truth("huge", 1))[: rank + 1]
    return Recipe((truths, ()), classes=3, predictions="near").build()


class Factor(torch.nn.Module):
    """A network with one weight, by which it multiplies the feature maps of a batch."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, *maps: torch.Tensor) -> list[torch.Tensor]:
        return [self.weight * level for level in maps]


def main(folder: Path, rank: int, world_size: int) -> None:
    """Train in one process, and write what it computed."""
    store = f"file://{folder.resolve()}/store"
    if world_size > 1:
        torch.distributed.init_process_group("gloo", init_method=store, rank=rank, world_size=world_size)
    network = DistributedDataParallel(Factor()) if world_size > 1 else Factor()
    batch, adapter = batch_of(rank), UltralyticsAdapter(ultralytics.__version__)
    rows = batch.annotations
    criterion = adapter._new_criterion(batch.head, batch.hyperparameters, torch.device("cpu"))[0]
    names = {"batch_idx": rows[:, 0], "cls": rows[:, 1:2], "bboxes": rows[:, 2:]}
    with recording(folder / f"recorded-{world_size}" / ("" if world_size > 1 else str(rank))):
        for _ in range(STEPS):
            network.zero_grad()
            total = criterion(adapter._predictions(tuple(network(*batch.feature_maps)), batch.head), names)[
                0
            ].sum()
            (total * world_size).backward()  # as the official trainer does
    (weight,) = network.parameters()
    found = {"total": float(total), "gradient": float(weight.grad)}
    (folder / f"{world_size}-{rank}.json").write_text(json.dumps(found))
    if world_size > 1:
        torch.distributed.destroy_process_group()


main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
