"""The Task-Aligned Assigner and the v8 detection loss as the specification states them, as readable code in torch.

The article is a Chinese explanation of the assigner, from which the stages have their names. Read the modules in the
article's order: `anchors`, `decoding`, `annotations`, `boxes`, `assignment`, `loss`. Every line that computes something
names its clause (`TAL-MET-1`); `keep_trace=True` stores every intermediate value. Then read `rotated`, `masks`,
`keypoints` with `flow`, and `end_to_end`: the differences of rotated boxes, of segmentation, of poses, and of heads
with two branches.

`variations` and the modules that read it (`varied_boxes`, `varied_assignment`, `varied_loss`, `composed`, `choices`)
contain what other projects compute instead. A reader of the official algorithm can ignore them.
"""

from tal_reference.anchors import Anchors, flatten, input_size, make_anchors
from tal_reference.annotations import GroundTruths
from tal_reference.assignment import AssignmentTrace, Targets
from tal_reference.boxes import ciou, iou
from tal_reference.choices import CHOICES, differences, parse, spelling
from tal_reference.composed import assign, detection_loss, ground_truths
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
from tal_reference.end_to_end import EndToEndLoss, branch_weights, end_to_end_loss
from tal_reference.flow import Flow
from tal_reference.keypoints import pose_loss
from tal_reference.loss import BatchTargets, DetectionLoss, Predictions
from tal_reference.masks import segmentation_loss
from tal_reference.rotated import RotatedPredictions, probiou, rotated_loss
from tal_reference.settings import Head, Hyperparameters
from tal_reference.variations import (
    BuiltInK,
    CentreRadius,
    ClassLoss,
    Contested,
    DflClamp,
    DistanceLoss,
    DroppedPicks,
    Exponents,
    Gains,
    Overlap,
    Rows,
    ScoreSum,
)

if __name__ != "tal_reference":  # imported by the name of its folder
    from tal_folder_names import hand_over

    hand_over(__name__)

__all__ = [
    "ARTICLE",
    "CHOICES",
    "DIALECTS",
    "NEWEST",
    "Anchors",
    "AssignmentTrace",
    "BatchTargets",
    "BuiltInK",
    "CentreRadius",
    "ClassLoss",
    "Contested",
    "DetectionLoss",
    "DflClamp",
    "Dialect",
    "DistanceLoss",
    "DroppedPicks",
    "EndToEndLoss",
    "Exponents",
    "Flow",
    "Gains",
    "GroundTruths",
    "Head",
    "Hyperparameters",
    "Overlap",
    "OverlapsCompared",
    "Predictions",
    "RotatedPredictions",
    "Rows",
    "ScoreSum",
    "SingleBin",
    "SmallBoxFloor",
    "Targets",
    "WeightBroadcast",
    "assign",
    "branch_weights",
    "ciou",
    "decode",
    "detection_loss",
    "differences",
    "end_to_end_loss",
    "flatten",
    "ground_truths",
    "input_size",
    "iou",
    "make_anchors",
    "parse",
    "pose_loss",
    "probiou",
    "rotated_loss",
    "segmentation_loss",
    "spelling",
]
