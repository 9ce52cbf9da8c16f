"""The angle loss of a box of 10:1 is zero if its predicted angle is 90 degrees off, and largest for squares."""

import sys
from types import SimpleNamespace as Space

import torch
from ultralytics.utils.loss import v8OBBLoss

head, gains = (
    Space(stride=torch.tensor([8.0, 16.0]), nc=1, reg_max=1),
    Space(box=7.5, cls=0.5, dfl=1.5, angle=1.0),
)
loss = v8OBBLoss(Space(args=gains, model=[head], parameters=lambda: iter([torch.zeros(1)])))
one, mask, seen = torch.ones(1), torch.ones(1, 1, dtype=torch.bool), []
for sides, degrees in (((10.0, 1.0), 90), ((10.0, 1.0), 45), ((1.0, 1.0), 45)):
    truth, wrong = (torch.tensor([[[0.0, 0.0, *sides, angle / 180 * torch.pi]]]) for angle in (0, degrees))
    seen.append(float(loss.calculate_angle_loss(wrong, truth, mask, one, one)))
print("expected: a loss above 0 for a box of 10:1 that is 90 degrees off, and none for a square")
print("observed: {:.4f}; 45 degrees off: 10:1 {:.4f}, square {:.4f}".format(*seen))
sys.exit(seen[0] > 0.01 or seen[2] < seen[1])
