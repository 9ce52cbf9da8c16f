"""If annotation rows are not sorted by image, the official loss silently drops a ground truth."""

import sys
from types import SimpleNamespace as Space

import torch
from ultralytics.utils.loss import v8DetectionLoss

maps = [torch.zeros(2, 65, 8, 8), torch.zeros(2, 65, 4, 4)]
head = Space(stride=torch.tensor([8.0, 16.0]), nc=1, reg_max=16)
model = Space(args=Space(box=7.5, cls=0.5, dfl=1.5), model=[head], parameters=lambda: iter(maps))
boxes, scores = torch.cat([level.flatten(2) for level in maps], 2).split((64, 1), 1)
given, losses = {"boxes": boxes, "scores": scores, "feats": maps}, []
rows = torch.tensor([[0, 0.3], [1, 0.3], [0, 0.7], [1, 0.7], [1, 0.5]])  # image; place and size of a box
for some in (rows[[0, 2, 1, 3, 4]], rows):
    batch = {"batch_idx": some[:, 0], "cls": torch.zeros(5), "bboxes": some[:, 1:].expand(5, 4)}
    losses.append(v8DetectionLoss(model)(given, batch)[0].tolist())
print(f"expected: the loss {losses[0]} for any order of the rows\nobserved: the loss {losses[1]}")
sys.exit(losses[0] == losses[1])
