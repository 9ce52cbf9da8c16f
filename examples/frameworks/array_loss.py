"""The detection loss for frameworks whose array functions have NumPy's names, as an adapter that is run in process.

`mlx_loss.py` and `keras_loss.py` add the framework: its functions, and how it differentiates. The assigner has no
derivative, and is that of `examples/numpy/tal.py`, or one of the framework. Clauses are those of docs/specification.md.
B images, A anchors, C classes, R bins, P positives.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tal_conformance import Assignment, Loss

sys.path.append(str(Path(__file__).parents[1] / "numpy"))
from tal import EPS, assign_batch, decode, flatten, padded_truths, sigmoid

GROUP = 16  # numbers that are added one by one


class ArrayLoss:
    """A loss that returns its own gradients, in float32.

    Attributes:
        array: function that makes an array of the framework out of a NumPy array.
        value_and_grad: method that returns, for a number of bins, the function (maps, constants) -> ((total, items),
            gradients on the maps), which calls `total_and_items` with the framework's array functions.
        assign_batch: the assigner, from NumPy arrays to NumPy arrays.
    """

    dialect = "ultralytics-8.4.190"
    precisions = ()  # float32 alone
    class_weights = True  # COR-7
    unsupported_ways = ("two-processes",)  # it forks, and the frameworks' threads do not survive that
    assign_batch = staticmethod(assign_batch)

    def loss(self, feature_maps, annotations, head, hyperparameters):
        """Return total, items, assignment and gradients of a batch."""
        maps = [level.float().numpy(force=True) for level in feature_maps]
        rows = annotations.numpy(force=True)
        targets, constants = prepare(maps, rows, vars(hyperparameters), vars(head), self.assign_batch)
        (total, items), gradients = self.value_and_grad(head.reg_max)(
            [self.array(level) for level in maps],
            {name: self.array(value) for name, value in constants.items()},
        )
        return Loss(total, items, Assignment(**targets), gradients=tuple(gradients))


def prepare(maps, annotations, settings, head, assign_batch):
    """Return the assignment of a batch, and what of the loss has no derivative, as NumPy arrays."""
    distances, logits, anchors, strides = flatten(maps, head)
    height, width = (cells * head["strides"][0] for cells in maps[0].shape[2:])
    labels, truths, real = padded_truths(annotations, len(logits), (height, width))
    boxes = (decode(distances, anchors) * strides).astype(np.float32)
    targets = assign_batch(sigmoid(logits), boxes, anchors * strides, labels, truths, real, settings, head)
    image, anchor = np.nonzero(targets["foreground"])  # (P,), (P,)
    centres, scores = anchors[anchor], targets["scores"]
    truth = targets["boxes"][image, anchor] / strides[anchor]  # (P, 4) in grid units
    wanted = np.concatenate((centres - truth[:, :2], truth[:, 2:] - centres), 1)  # (P, 4)
    constants = {
        "scores": scores,
        "total_score": np.maximum(1, scores.sum()),  # LOSS-SUM-1
        "class_weights": np.array(head["class_weights"] or [1]),
        "weights": scores[image, anchor].sum(-1),  # (P,)
        "centres": centres,
        "truth": truth,
        "gains": np.array([settings[f"{name}_gain"] for name in ("box", "cls", "dfl")]),
    } | targets_of_sides(wanted, strides[anchor] / (width, height, width, height), head["reg_max"])
    numbers = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    return targets, numbers | {
        "positives": (image * len(anchors) + anchor).astype(np.int32)
    }  # rows of (B * A)


def targets_of_sides(wanted, of_input, bins):
    """Return what the distances (P, 4) of the positives learn; `of_input` is their unit as a share of the input."""
    if bins == 1:
        return {"wanted": wanted, "of_input": of_input}  # COR-1
    wanted = np.clip(wanted, 0, bins - 1 - 0.01)[..., None]  # (P, 4, 1) LOSS-DFL-1
    lower, numbers = np.floor(wanted), np.arange(bins)
    upper_share = np.where(numbers == lower + 1, wanted - lower, 0)
    share = np.where(numbers == lower, 1 - (wanted - lower), upper_share)
    return {"share": share, "bins": numbers}  # (P, 4, R) of the distance in each bin, (R,)


def total_and_items(ops, bins, maps, constants):
    """Return the value that is differentiated, and the terms box, cls and dfl times their gains (3,)."""
    items = loss_items(ops, maps, SimpleNamespace(**constants), bins)
    return ops.sum(items) * maps[0].shape[0], items


def loss_items(ops, maps, given, bins):
    """Return the terms box, cls and dfl times their gains (3,) (LOSS-*)."""
    flat = ops.concatenate([ops.reshape(level, (*level.shape[:2], -1)) for level in maps], 2)
    channels = ops.transpose(flat, (0, 2, 1))  # (B, A, 4R + C) PRE-1
    logits = channels[..., 4 * bins :]
    cross_entropy = ops.logaddexp(logits, ops.zeros_like(logits)) - logits * given.scores
    rows = ops.sum(cross_entropy * given.class_weights, axis=-1)  # (B, A)
    cls = sum_all(ops, rows) / given.total_score  # LOSS-CLS-1
    if not given.positives.shape[0]:
        return given.gains * ops.stack([0 * cls, cls, 0 * cls])

    distances = ops.reshape(channels[..., : 4 * bins], (-1, 4, bins))  # (B * A, 4, R)
    own = ops.take(distances, given.positives, axis=0)  # (P, 4, R)
    sides = own[..., 0] if bins == 1 else ops.sum(ops.softmax(own, axis=-1) * given.bins, axis=-1)  # DEC-1
    boxes = ops.concatenate((given.centres - sides[:, :2], given.centres + sides[:, 2:]), 1)  # DEC-2
    box = sum_all(ops, given.weights * (1 - ciou(ops, given.truth, boxes))) / given.total_score  # LOSS-BOX-1
    if bins == 1:
        side_loss = ops.abs(sides - given.wanted) * given.of_input  # COR-1
    else:
        shifted = own - ops.stop_gradient(
            ops.max(own, axis=-1, keepdims=True)
        )  # a large offset loses no digits
        log_probability = shifted - ops.logsumexp(shifted, axis=-1, keepdims=True)
        side_loss = -ops.sum(given.share * log_probability, axis=-1)  # (P, 4)
    dfl = sum_all(ops, given.weights * ops.mean(side_loss, axis=-1)) / given.total_score
    return given.gains * ops.stack([box, cls, dfl])  # LOSS-GAIN-1


def sum_all(ops, values):
    """Return the sum of all values, by groups: a framework may add one by one, which loses digits."""
    flat = ops.reshape(values, (-1,))
    while flat.shape[0] > GROUP:
        flat = ops.concatenate((flat, ops.zeros((-flat.shape[0] % GROUP,), dtype=flat.dtype)), 0)
        flat = ops.sum(ops.reshape(flat, (-1, GROUP)), axis=-1)
    return ops.sum(flat)


def ciou(ops, first, second):
    """Return the complete IoU of boxes (.., 4) (IOU-1)."""
    (x1, y1, x2, y2), (X1, Y1, X2, Y2) = (
        [boxes[..., side] for side in range(4)] for boxes in (first, second)
    )
    w, h, W, H = x2 - x1, y2 - y1 + EPS, X2 - X1, Y2 - Y1 + EPS
    across = shared_extremum(ops.minimum, x2, X2) - shared_extremum(ops.maximum, x1, X1)
    down = shared_extremum(ops.minimum, y2, Y2) - shared_extremum(ops.maximum, y1, Y1)
    shared = ops.maximum(across, 0) * ops.maximum(down, 0)
    iou = shared / (w * h + W * H - shared + EPS)
    wide = shared_extremum(ops.maximum, x2, X2) - shared_extremum(ops.minimum, x1, X1)
    high = shared_extremum(ops.maximum, y2, Y2) - shared_extremum(ops.minimum, y1, Y1)
    distance = ((x1 + x2 - X1 - X2) ** 2 + (y1 + y2 - Y1 - Y2) ** 2) / 4 / (wide**2 + high**2 + EPS)
    v = 4 / np.pi**2 * (ops.arctan(W / H) - ops.arctan(w / h)) ** 2
    return iou - distance - ops.stop_gradient(v / (1 - iou + v + EPS)) * v  # IOU-2


def shared_extremum(extremum, first, second):
    """Return a minimum or maximum, of which both sides have half the derivative where they are equal (LOSS-GRAD-1).

    MLX gives all of it to the second side, so that equal sides of two boxes would have inconsistent derivatives.
    """
    return (extremum(first, second) + extremum(second, first)) / 2
