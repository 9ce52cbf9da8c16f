"""The choices of losses in which dialects differ, with clause and meaning in words."""

from tal_reference.choice import OVERLAP_NAMES, Choice
from tal_reference.dialect import SingleBin, WeightBroadcast
from tal_reference.variations import ClassLoss, DflClamp, DistanceLoss, Gains, Overlap, ScoreSum

CHOICES_OF_LOSSES = {
    "score_sum": Choice(
        "LOSS-SUM-1",
        {
            ScoreSum.BATCH: "the loss is divided by the sum of all target scores",
            ScoreSum.PER_IMAGE: "the loss is divided by the sum of target scores per image",
            ScoreSum.POSITIVES: "the loss is divided by the number of positives",
        },
        {ScoreSum.PER_IMAGE: "N per image", ScoreSum.POSITIVES: "N as the number of positives"},
    ),
    "score_sum_floor": Choice(
        "LOSS-SUM-1",
        {
            1.0: "the loss is divided by the sum of target scores, but at least by 1",
            0.0: "the loss is divided by the sum of target scores, also where that is below 1 or zero",
        },
        {0.0: "N without a floor", 1.0: "N of at least 1"},
    ),
    "class_loss": Choice(
        "LOSS-CLS-1",
        {
            ClassLoss.SUM: "the class loss is the sum of all cross-entropies",
            ClassLoss.MEAN: "the class loss is the mean of all cross-entropies",
            ClassLoss.POSITIVES: "the class loss is the sum of the positives' cross-entropies",
            ClassLoss.VARIFOCAL: "the class loss is the varifocal loss",
            ClassLoss.FOCAL: "the class loss is the focal loss",
            ClassLoss.QUALITY: "the class loss is the quality focal loss",
        },
        {
            ClassLoss.MEAN: "the mean of the cross-entropies in place of their sum",
            ClassLoss.POSITIVES: "cross-entropies of positives alone",
            ClassLoss.VARIFOCAL: "a varifocal class loss",
            ClassLoss.FOCAL: "a focal class loss",
            ClassLoss.QUALITY: "a quality focal class loss",
        },
    ),
    "box_overlap": Choice(
        "LOSS-BOX-1",
        {value: f"the box loss is 1 less the {name}" for value, name in OVERLAP_NAMES.items()},
        {value: f"{name} in place of CIoU in the box loss" for value, name in OVERLAP_NAMES.items()}
        | {Overlap.V_SQUARED: "v squared in the CIoU of the box loss"},
    ),
    "weights_meet": Choice(
        "LOSS-BOX-1",
        {
            WeightBroadcast.PER_POSITIVE: "the box loss of a positive is weighted with its own target score",
            WeightBroadcast.ALL_PAIRS: "the box loss of a positive is weighted with the target scores of all positives",
        },
        {
            WeightBroadcast.PER_POSITIVE: "each positive's own weight in its box loss",
            WeightBroadcast.ALL_PAIRS: "the weights of all positives in the box loss of each",
        },
    ),
    "distance_loss": Choice(
        "LOSS-DFL-1",
        {
            DistanceLoss.DFL: "the distances of several bins have a distribution focal loss",
            DistanceLoss.NOTHING: "the distances of several bins have no loss of their own",
        },
        {DistanceLoss.DFL: "a distribution focal loss", DistanceLoss.NOTHING: "no distribution focal loss"},
    ),
    "dfl_clamp": Choice(
        "LOSS-DFL-1",
        {
            DflClamp.BELOW_LAST_BIN: "target distances are clamped to 0 and R - 1 - 0.01",
            DflClamp.BIN_LATER: "target distances are clamped to 0 and R - 0.01",
            DflClamp.NONE_BELOW: "target distances are clamped to R - 1 - 0.01, and not at 0",
            DflClamp.NONE: "target distances are not clamped",
        },
        {
            DflClamp.BIN_LATER: "target distances clamped a bin later",
            DflClamp.NONE_BELOW: "target distances not clamped at 0",
            DflClamp.NONE: "target distances not clamped",
        },
    ),
    "dfl_shares_exchanged": Choice(
        "LOSS-DFL-1",
        {
            False: "the bin next to a target distance counts the more, the nearer it is",
            True: "the bin next to a target distance counts the more, the farther it is",
        },
        {True: "the shares of the two bins of a distance exchanged"},
    ),
    "single_bin": Choice(
        "LOSS-DFL-1",
        {
            SingleBin.L1: "with reg_max 1 the distances have an L1 loss",
            SingleBin.NOTHING: "with reg_max 1 the distances have no loss of their own",
        },
        {SingleBin.L1: "an L1 loss for one bin", SingleBin.NOTHING: "no distance loss for one bin"},
    ),
    "gains": Choice(
        "LOSS-GAIN-1",
        {
            Gains.GIVEN: "gains are those of the hyperparameters",
            Gains.BUILT_IN: "gains are 7.5, 0.5 and 1.5, whatever the hyperparameters say",
            Gains.EXCHANGED: "the gains of box and cls are exchanged",
        },
        {Gains.BUILT_IN: "gains built in as 7.5, 0.5 and 1.5", Gains.EXCHANGED: "the gains of box and cls exchanged"},
    ),
    "total_times_images": Choice(
        "LOSS-GAIN-1",
        {
            True: "the total is the sum of the items times the number of images",
            False: "the total is the sum of the items, without the number of images",
        },
        {True: "the total times the number of images", False: "a total without the number of images as factor"},
    ),
}
"""Choices of losses by the name of their field, in the order of the stages."""
