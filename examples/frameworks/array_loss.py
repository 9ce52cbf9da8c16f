"""The detection loss for frameworks whose array functions have NumPy's names, as an adapter that is run in process.

`mlx_loss.py` adds the framework: its functions, and how it differentiates. The assigner has no derivative, and is that
of `examples/numpy/tal.py`. Clauses are those of docs/specification.md. B images, A anchors, C classes, R bins, P
positives.
"""

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np

from tal_conformance import Assignment, Loss

sys.path.append(str(Path(__file__).parents[1] / "numpy"))
from tal import EPS, assign_batch, decode, flatten, padded_truths, sigmoid


class ArrayLoss:
    """A loss that returns its own gradients, in float32.

    Attributes:
        ops: module with the framework's array functions.
        array: function that makes an array of the framework out of a NumPy array.
        value_and_grad: function that differentiates (maps -> (total, items)) by the maps.
    """

    dialect = "ultralytics-8.4.190"
    precisions = ()  # float32 alone
    class_weights = True  # COR-7
    unsupported_ways = ("two-processes",)  # it forks, and the frameworks' threads do not survive that

    def supports(self, head, hyperparameters):
        """Return True, or the reason why the loss does not compute a batch of this head."""
        return True if head.reg_max > 1 else "only distances in bins (reg_max above 1)"

    def loss(self, feature_maps, annotations, head, hyperparameters):
        """Return total, items, assignment and gradients of a batch."""
        if head.reg_max == 1:
            raise ValueError(self.supports(head, hyperparameters))
        maps = [level.float().numpy(force=True) for level in feature_maps]
        targets, constants = prepare(maps, annotations.numpy(force=True), vars(hyperparameters), vars(head))
        constants = SimpleNamespace(**{name: self.array(value) for name, value in constants.items()})

        def total_and_items(levels):
            items = loss_items(self.ops, levels, constants, head.reg_max)
            return self.ops.sum(items) * len(maps[0]), items

        (total, items), gradients = self.value_and_grad(total_and_items)(
            [self.array(level) for level in maps]
        )
        return Loss(total, items, Assignment(**targets), gradients=tuple(gradients))


def prepare(maps, annotations, settings, head):
    """Return the assignment of a batch, and what of the loss has no derivative, as NumPy arrays."""
    distances, logits, anchors, strides = flatten(maps, head)
    height, width = (cells * head["strides"][0] for cells in maps[0].shape[2:])
    labels, truths, real = padded_truths(annotations, len(logits), (height, width))
    boxes = (decode(distances, anchors) * strides).astype(np.float32)
    targets = assign_batch(sigmoid(logits), boxes, anchors * strides, labels, truths, real, settings, head)
    image, anchor = np.nonzero(targets["foreground"])  # (P,), (P,)
    centres, scores = anchors[anchor], targets["scores"]
    truth = targets["boxes"][image, anchor] / strides[anchor]  # (P, 4) in grid units
    wanted = np.concatenate((centres - truth[:, :2], truth[:, 2:] - centres), 1)  # LOSS-DFL-1
    wanted = np.clip(wanted, 0, head["reg_max"] - 1 - 0.01)[..., None]  # (P, 4, 1)
    lower, bins = np.floor(wanted), np.arange(head["reg_max"])
    share = np.where(bins == lower, 1 - (wanted - lower), np.where(bins == lower + 1, wanted - lower, 0))
    constants = {
        "scores": scores,
        "total_score": np.maximum(1, scores.sum()),  # LOSS-SUM-1
        "class_weights": np.array(head["class_weights"] or [1]),
        "positives": image * len(anchors) + anchor,  # (P,) row of (B * A)
        "weights": scores[image, anchor].sum(-1),  # (P,)
        "centres": centres,
        "truth": truth,
        "share": share,  # (P, 4, R) of the distance in each bin
        "gains": np.array([settings[f"{name}_gain"] for name in ("box", "cls", "dfl")]),
    }
    numbers = {name: np.asarray(value, np.float32) for name, value in constants.items()}
    return targets, numbers | {"positives": constants["positives"].astype(np.int32)}


def loss_items(ops, maps, given, bins):
    """Return the terms box, cls and dfl times their gains (3,) (LOSS-*)."""
    flat = ops.concatenate([ops.reshape(level, (*level.shape[:2], -1)) for level in maps], 2)
    channels = ops.transpose(flat, (0, 2, 1))  # (B, A, 4R + C) PRE-1
    logits = channels[..., 4 * bins :]
    cross_entropy = ops.logaddexp(logits, ops.zeros_like(logits)) - logits * given.scores
    rows = ops.sum(
        cross_entropy * given.class_weights, axis=-1
    )  # one dimension after the other: a framework may
    cls = (
        ops.sum(ops.sum(rows, axis=-1)) / given.total_score
    )  # add one by one, which loses digits. LOSS-CLS-1
    if not len(given.positives):
        return given.gains * ops.stack([0 * cls, cls, 0 * cls])

    distances = ops.reshape(channels[..., : 4 * bins], (-1, 4, bins))  # (B * A, 4, R)
    own = ops.take(distances, given.positives, axis=0)  # (P, 4, R)
    sides = ops.sum(ops.softmax(own, axis=-1) * ops.arange(bins), axis=-1)  # (P, 4) DEC-1
    boxes = ops.concatenate((given.centres - sides[:, :2], given.centres + sides[:, 2:]), 1)  # DEC-2
    box = ops.sum(given.weights * (1 - ciou(ops, given.truth, boxes))) / given.total_score  # LOSS-BOX-1
    log_probability = own - ops.logsumexp(own, axis=-1, keepdims=True)
    side_loss = ops.mean(-ops.sum(given.share * log_probability, axis=-1), axis=-1)  # (P,)
    dfl = ops.sum(given.weights * side_loss) / given.total_score
    return given.gains * ops.stack([box, cls, dfl])  # LOSS-GAIN-1


def ciou(ops, first, second):
    """Return the complete IoU of boxes (P, 4) (IOU-1)."""
    (x1, y1, x2, y2), (X1, Y1, X2, Y2) = ([boxes[:, side] for side in range(4)] for boxes in (first, second))
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
