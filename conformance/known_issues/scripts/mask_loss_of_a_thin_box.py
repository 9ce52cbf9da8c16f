"""The mask loss of a thin box grows as 1 / width: it crops whole columns, and divides by the box's true area."""

import sys
from types import SimpleNamespace as Space

import torch
from ultralytics.utils.loss import v8SegmentationLoss

zero, one, losses = torch.zeros(1, 1, 256), torch.ones(1, 32, 32), []
args = Space(box=7.5, cls=0.5, dfl=1.5, overlap_mask=True)
head = Space(stride=torch.tensor([8.0]), nc=1, reg_max=1)
loss = v8SegmentationLoss(Space(args=args, model=[head], parameters=lambda: iter([zero])))
given = {"scores": zero, "feats": [zero.view(1, 1, 16, 16)], "mask_coefficient": zero, "proto": one[None]}
for width in (16.0, 0.1):  # centred in column 7 of an input of 128 x 128 px
    rows = {"batch_idx": zero[0, 0, :1], "cls": zero[0, :, :1], "masks": one}
    rows["bboxes"] = torch.tensor([[60 / 128, 0.5, width / 128, 0.5]])
    sides = torch.tensor([[[width / 16], [4.0], [width / 16], [4.0]]])  # boxes of the ground truth's size
    losses.append(float(loss({**given, "boxes": sides.expand(1, 4, 256)}, rows)[0][1]))
print(f"expected: 5.2, as every pixel costs 7.5 ln 2\nobserved: width 16: {losses[0]}, 0.1: {losses[1]}")
sys.exit(losses[1] < 10 * losses[0])
