"""With one bin, a scene has another distance loss after a turn by 90 degrees: the input's sides scale it."""

import sys
from types import SimpleNamespace as Space

import torch
from ultralytics.utils.loss import v8OBBLoss

head, zero, losses = Space(stride=torch.tensor([8.0]), nc=1, reg_max=1), torch.zeros(1, 1, 128), []
model = Space(args=Space(box=7.5, cls=0.5, dfl=1.5, angle=1.0), model=[head], parameters=lambda: iter([zero]))
given = {"boxes": torch.tensor([[[3.0], [1], [3], [1]]]).expand(1, 4, 128), "scores": zero}
for high, wide, turn in ((64, 128, 0.0), (128, 64, torch.pi / 2)):
    own = {**given, "angle": zero + turn, "feats": [zero.view(1, 1, high // 8, wide // 8)]}
    batch = {"batch_idx": zero[0, 0, :1], "cls": zero[0, :, :1], "resized_shape": [(high, wide)]}
    batch["bboxes"] = torch.tensor([[0.5, 0.5, 64 / wide, 16 / high, turn]])  # centre, sides and angle
    losses.append(float(v8OBBLoss(model)(own, batch)[0][2]))
print(f"expected: one distance loss for a scene and the turned scene\nobserved: {losses}")
sys.exit(abs(losses[0] - losses[1]) < 0.01)
