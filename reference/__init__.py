"""The Task-Aligned Assigner and the v8 detection loss as the specification states them, readable and in plain torch.

Read it in the article's order: `anchors`, `decoding`, `annotations`, `boxes`, `assignment`, `loss`. Every line that
computes something names its clause (`TAL-MET-1`); every intermediate can be kept and looked at (`keep_trace=True`).
"""

from reference.anchors import Anchors, flatten, input_size, make_anchors
from reference.annotations import GroundTruths, ground_truths
from reference.assignment import AssignmentTrace, Targets, assign
from reference.boxes import ciou, iou
from reference.decoding import decode
from reference.dialect import (
    ARTICLE,
    DIALECTS,
    NEWEST,
    Dialect,
    OverlapsCompared,
    SingleBin,
    SmallBoxFloor,
    WeightsMeet,
)
from reference.loss import BatchTargets, DetectionLoss, Predictions, detection_loss
from reference.settings import Head, Hyperparameters

__all__ = [
    "ARTICLE",
    "DIALECTS",
    "NEWEST",
    "Anchors",
    "AssignmentTrace",
    "BatchTargets",
    "DetectionLoss",
    "Dialect",
    "GroundTruths",
    "Head",
    "Hyperparameters",
    "OverlapsCompared",
    "Predictions",
    "SingleBin",
    "SmallBoxFloor",
    "Targets",
    "WeightsMeet",
    "assign",
    "ciou",
    "decode",
    "detection_loss",
    "flatten",
    "ground_truths",
    "input_size",
    "iou",
    "make_anchors",
]
