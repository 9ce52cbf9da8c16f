"""If annotation rows are not sorted by image, the official loss raises an IndexError."""

import sys
from types import SimpleNamespace as Space

import torch
from ultralytics.utils.loss import v8DetectionLoss

maps = [torch.zeros(2, 65, 4, 4), torch.zeros(2, 65, 2, 2)]
head = Space(stride=torch.tensor([8.0, 16.0]), nc=1, reg_max=16)
model = Space(args=Space(box=7.5, cls=0.5, dfl=1.5), model=[head], parameters=lambda: iter(maps))
boxes, scores = torch.cat([level.flatten(2) for level in maps], 2).split((64, 1), 1)
batch = {"batch_idx": torch.tensor([1.0, 0.0]), "cls": torch.zeros(2), "bboxes": torch.full((2, 4), 0.5)}
print("expected: the loss is computed for any order of the annotation rows")
try:
    print("observed:", v8DetectionLoss(model)({"boxes": boxes, "scores": scores, "feats": maps}, batch)[0])
except IndexError as error:
    print(f"observed: IndexError: {error}")
    sys.exit(0)
sys.exit(1)
