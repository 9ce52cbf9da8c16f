"""Annotation rows of float64 raise a TypeError that calls the data set of rotated boxes wrongly formatted."""

import sys
from types import SimpleNamespace as Space

import torch
from ultralytics.utils.loss import v8OBBLoss

head, zeros = Space(stride=torch.tensor([8.0]), nc=1, reg_max=1), torch.zeros(1, 1, 64)
model = Space(
    args=Space(box=7.5, cls=0.5, dfl=1.5, angle=1.0), model=[head], parameters=lambda: iter([zeros])
)
given = {"boxes": zeros.expand(1, 4, 64), "scores": zeros, "angle": zeros, "feats": [zeros.view(1, 1, 8, 8)]}
row, seen = torch.tensor([[0.5, 0.5, 0.5, 0.25, 0.3]]).double(), "a loss"  # centre, sides and angle
try:
    v8OBBLoss(model)(given, {"batch_idx": zeros[0, 0, :1], "cls": zeros[0, :, :1], "bboxes": row})
except TypeError as error:
    seen = f"TypeError: {str(error).splitlines()[0]}; its cause: {error.__cause__}"
print(f"expected: a loss, or an error about the dtype\nobserved: {seen}")
sys.exit("incorrectly formatted" not in seen)
