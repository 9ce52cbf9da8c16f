"""The Task-Aligned Assigner and the v8 detection loss as the specification states them, readable and in plain torch.

Read it in the article's order: `anchors`, `decoding`, `annotations`, `boxes`, `assignment`, `loss`. Every line that
computes something names its clause (`TAL-MET-1`); `keep_trace=True` stores every intermediate value.
"""

from tal_reference.anchors import Anchors, flatten, input_size, make_anchors
from tal_reference.annotations import GroundTruths, ground_truths
from tal_reference.assignment import AssignmentTrace, Targets, assign
from tal_reference.boxes import ciou, iou
from tal_reference.decoding import decode
from tal_reference.dialect import (
    ARTICLE,
    DIALECTS,
    NEWEST,
    Dialect,
    OverlapsCompared,
    SingleBin,
    SmallBoxFloor,
    WeightBroadcast,
)
from tal_reference.loss import BatchTargets, DetectionLoss, Predictions, detection_loss
from tal_reference.settings import Head, Hyperparameters

if __name__ != "tal_reference":  # imported by the name of its folder
    from tal_folder_names import hand_over

    hand_over(__name__)

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
    "WeightBroadcast",
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
