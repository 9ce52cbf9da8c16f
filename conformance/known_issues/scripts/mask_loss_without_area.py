"""The mask loss of a ground truth without width is NaN, and with it the whole loss: 0 divided by the area 0."""

import sys
from types import SimpleNamespace as Space

import torch
from ultralytics.utils.loss import v8SegmentationLoss

zero, one, losses = torch.zeros(1, 1, 64), torch.ones(1, 16, 16), []
args = Space(box=7.5, cls=0.5, dfl=1.5, overlap_mask=True)
head = Space(stride=torch.tensor([8.0]), nc=1, reg_max=1)
loss = v8SegmentationLoss(Space(args=args, model=[head], parameters=lambda: iter([zero])))
given = {"boxes": torch.ones(1, 4, 64), "scores": zero, "feats": [zero.view(1, 1, 8, 8)]}
given |= {"mask_coefficient": zero, "proto": one[None]}
for width in (8.0, 0.0):  # in the first column of an input of 64 x 64 px
    rows = {"batch_idx": zero[0, 0, :1], "cls": zero[0, :, :1], "masks": one}
    rows["bboxes"] = torch.tensor([[4 / 64, 0.5, width / 64, 1.0]])
    losses.append(float(loss(given, rows)[0][1]))
print(f"expected: finite losses\nobserved: width 8: {losses[0]}, 0: {losses[1]}")
sys.exit(losses[1] == losses[1])
