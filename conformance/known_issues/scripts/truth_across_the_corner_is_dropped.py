"""A ground truth with more of its box beyond the image's top-left corner than inside the image is dropped."""

import sys
from types import SimpleNamespace as Space

import torch
from ultralytics.utils.loss import v8DetectionLoss

maps = [torch.zeros(1, 65, 8, 8), torch.zeros(1, 65, 4, 4)]
head = Space(stride=torch.tensor([8.0, 16.0]), nc=1, reg_max=16)
model = Space(args=Space(box=7.5, cls=0.5, dfl=1.5), model=[head], parameters=lambda: iter(maps))
boxes, scores = torch.cat([level.flatten(2) for level in maps], 2).split((64, 1), 1)
given, losses = {"boxes": boxes, "scores": scores, "feats": maps}, []
for at in (-0.05, 1.05):  # the same box about the top-left, and about the bottom-right corner of the image
    rows = torch.tensor([[at, at, 0.9, 0.9]])
    batch = {"batch_idx": torch.zeros(1), "cls": torch.zeros(1), "bboxes": rows}
    losses.append(float(v8DetectionLoss(model)(given, batch)[0][0]))
print(f"expected: the box loss of the mirror image, {losses[1]}\nobserved: the box loss {losses[0]}")
sys.exit(not losses[0] == 0 < losses[1])
