"""A contested anchor without any overlap is assigned to the image's first ground truth, at any distance."""

import sys

import torch
from ultralytics.utils.tal import TaskAlignedAssigner

steps = torch.arange(4.0, 64, 8)
anchors = torch.cartesian_prod(steps, steps)  # of a 64x64 image, stride 8
truths = torch.tensor([[[0.0, 0.0, 20.0, 20.0], [40.0, 40.0, 60.0, 60.0], [40.0, 40.0, 60.0, 60.0]]])
boxes = torch.full((1, 64, 4), 500.0)  # the same box for every anchor, overlapping no ground truth
assigner = TaskAlignedAssigner(topk=10, num_classes=1, alpha=0.5, beta=6.0, stride=[8, 16])
given = torch.full((1, 64, 1), 0.5), boxes, anchors, torch.zeros(1, 3, 1), truths, torch.ones(1, 3, 1)
_, targets, _, foreground, _ = assigner(*given)
centres, owners = anchors[foreground[0]], targets[foreground]  # (P, 2), (P, 4)
far = ~((centres > owners[:, :2]) & (centres < owners[:, 2:])).all(1)  # (P,)
print("expected: every positive anchor lies inside its ground truth")
print(f"observed: anchors at {centres[far].tolist()} are assigned to the boxes {owners[far].tolist()}")
sys.exit(not far.any())
