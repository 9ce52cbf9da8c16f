"""The task-aligned assigner and the detection loss in numpy, judged by test vectors.

    tal-conformance export vectors --profile dev
    python examples/numpy/tal.py vectors            # writes vectors/outcomes/numpy
    tal-conformance judge vectors

Clauses are those of docs/specification.md. B images, A anchors, C classes, R bins, M ground truths of an image.
"""

import json
import sys
from pathlib import Path

import numpy as np
from vector_files import read, write

EPS = 1e-7  # IOU-1
STEP = 1e-30  # of the complex-step derivative, which has no cancellation


def ciou(first, second):
    """Return the complete IoU of boxes (.., 4); complex boxes carry a derivative in their imaginary part (IOU-1)."""
    (x1, y1, x2, y2), (X1, Y1, X2, Y2) = np.moveaxis(first, -1, 0), np.moveaxis(second, -1, 0)
    w, h, W, H = x2 - x1, y2 - y1 + EPS, X2 - X1, Y2 - Y1 + EPS
    across, down = np.minimum(x2, X2) - np.maximum(x1, X1), np.minimum(y2, Y2) - np.maximum(y1, Y1)
    shared = np.where(across.real > 0, across, 0) * np.where(down.real > 0, down, 0)
    iou = shared / (w * h + W * H - shared + EPS)
    diagonal = (
        (np.maximum(x2, X2) - np.minimum(x1, X1)) ** 2 + (np.maximum(y2, Y2) - np.minimum(y1, Y1)) ** 2 + EPS
    )
    distance = ((x1 + x2 - X1 - X2) ** 2 + (y1 + y2 - Y1 - Y2) ** 2) / 4
    v = 4 / np.pi**2 * (np.arctan(W / H) - np.arctan(w / h)) ** 2
    weight = (v / (1 - iou + v + EPS)).real  # IOU-2: a constant for the gradient
    return iou - distance / diagonal - weight * v


def best(metric, k):
    """Return (M, A) bool: True at the k largest values of each row (TAL-TOPK-1)."""
    chosen = np.zeros(metric.shape, dtype=bool)
    np.put_along_axis(chosen, np.argsort(-metric, axis=1, kind="stable")[:, :k], values=True, axis=1)
    return chosen


def assign(scores, boxes, anchors, labels, truths, real, settings, head):
    """Return the targets of one image: labels (A,), boxes (A, 4), scores (A, C), foreground (A,), index (A,).

    scores (A, C), boxes (A, 4) and anchors (A, 2) in pixels, labels (M,), truths (M, 4) in pixels, real (M,) bool.
    """
    count = len(anchors)
    target_boxes, target_scores = np.zeros((count, 4), truths.dtype), np.zeros_like(scores)
    index = np.zeros(count, dtype=np.int64)
    if not len(truths):  # TAL-EMPTY-1
        return index, target_boxes, target_scores, index > 0, index
    k, k2, strides = settings["topk"], settings["topk2"], head["strides"]
    if max(k, k2 or 0) > count:  # TAL-TOPK-2
        raise ValueError(f"top {max(k, k2 or 0)} of {count} anchors")
    floor = np.array(strides[min(1, len(strides) - 1)], truths.dtype)
    centre, side = (truths[:, :2] + truths[:, 2:]) / 2, truths[:, 2:] - truths[:, :2]
    small = side < floor  # TAL-CAND-2
    low = np.where(small, centre - floor / 2, truths[:, :2])
    high = np.where(small, centre + floor / 2, truths[:, 2:])
    inside = np.minimum(anchors - low[:, None], high[:, None] - anchors).min(-1)
    candidates = (inside > 1e-9) & real[:, None]  # TAL-CAND-1
    overlap = np.where(candidates, np.maximum(ciou(truths[:, None], boxes[None]), 0), 0)  # (M, A) TAL-MET-1
    powers = scores[:, labels].T ** settings["alpha"] * overlap ** settings["beta"]
    metric = np.where(candidates, powers, 0).astype(scores.dtype)
    positives = best(metric, k) & candidates  # TAL-TOPK-1
    contested = positives.sum(0) > 1
    winners = overlap[:, contested].argmax(0)
    positives[:, contested] = np.arange(len(truths))[:, None] == winners  # TAL-CONF-1
    if k2 not in (None, k):
        positives &= best(metric * positives, k2)  # TAL-CONF-2
    foreground = positives.any(0)
    index[foreground] = positives[:, foreground].argmax(0)
    own = metric * positives  # TAL-NORM-1
    best_overlap = (overlap * positives).max(1, keepdims=True)
    weights = (own * best_overlap / (own.max(1, keepdims=True) + np.array(1e-9, own.dtype))).sum(0)
    target_labels = np.where(foreground, labels[index], 0)
    target_boxes[foreground] = truths[index[foreground]]
    target_scores[np.arange(count), target_labels] = weights * foreground
    return target_labels, target_boxes, target_scores, foreground, index


def assign_batch(scores, boxes, anchors, labels, truths, real, settings, head):
    """Return the targets of all images: labels (B, M), truths (B, M, 4), real (B, M)."""
    images = [
        assign(*image, settings, head)
        for image in zip(scores, boxes, [anchors] * len(scores), labels, truths, real, strict=True)
    ]
    names = ("labels", "boxes", "scores", "foreground", "truth_index")
    return {name: np.stack(column) for name, column in zip(names, zip(*images, strict=True), strict=True)}


def sigmoid(logits):
    """Return 1 / (1 + e^-x) without overflow."""
    with np.errstate(over="ignore"):
        return 1 / (1 + np.exp(-logits))


def softmax(logits):
    """Return the softmax over the last dimension."""
    shifted = np.exp(logits - logits.max(-1, keepdims=True))
    return shifted / shifted.sum(-1, keepdims=True)


def flatten(maps, head):
    """Return distances (B, A, 4, R), logits (B, A, C), anchors (A, 2) in grid units and strides (A, 1) (PRE-1)."""
    channels = np.concatenate([level.reshape(*level.shape[:2], -1) for level in maps], -1).swapaxes(1, 2)
    bins = head["reg_max"]
    cells = [
        np.stack(np.mgrid[: level.shape[2], : level.shape[3]][::-1], -1).reshape(-1, 2) for level in maps
    ]
    strides = [np.full((len(cell), 1), stride) for cell, stride in zip(cells, head["strides"], strict=True)]
    distances = channels[..., : 4 * bins].reshape(*channels.shape[:2], 4, bins)
    dtype = channels.dtype
    return (
        distances,
        channels[..., 4 * bins :],
        np.concatenate(cells).astype(dtype) + 0.5,
        np.concatenate(strides).astype(dtype),
    )


def decode(distances, anchors):
    """Return boxes (.., 4) in grid units around the anchors (DEC-1, DEC-2)."""
    bins = distances.shape[-1]
    sides = distances[..., 0] if bins == 1 else softmax(distances) @ np.arange(bins, dtype=distances.dtype)
    return np.concatenate((anchors - sides[..., :2], anchors + sides[..., 2:]), -1)


def padded_truths(annotations, images, size):
    """Return labels (B, M), boxes (B, M, 4) in pixels and the mask of real ground truths (B, M) (ANN-1 to ANN-4)."""
    width_height = np.array((size[1], size[0]), annotations.dtype)
    centre, side = annotations[:, 2:4] * width_height, annotations[:, 4:6] * width_height
    corners = np.concatenate((centre - side / 2, centre + side / 2), 1)
    of = [annotations[:, 0] == image for image in range(images)]
    most = max((rows.sum() for rows in of), default=0)
    labels, boxes = np.zeros((images, most), np.int64), np.zeros((images, most, 4), annotations.dtype)
    for image, rows in enumerate(of):
        labels[image, : rows.sum()], boxes[image, : rows.sum()] = annotations[rows, 1], corners[rows]
    return labels, boxes, boxes.sum(-1) > 0  # ANN-3


def loss(maps, annotations, settings, head):
    """Return the outcome of a batch: the assignment, the loss, and its gradient on every feature map."""
    distances, logits, anchors, strides = flatten(maps, head)
    images, size = len(logits), [cells * head["strides"][0] for cells in maps[0].shape[2:]]
    labels, truths, real = padded_truths(annotations, images, size)
    pixels = (decode(distances, anchors) * strides).astype(truths.dtype)
    targets = assign_batch(sigmoid(logits), pixels, anchors * strides, labels, truths, real, settings, head)

    scores = targets["scores"].astype(np.float64)  # from here on in float64: sums do not lose digits
    total_score = max(1.0, scores.sum())  # N, LOSS-SUM-1
    factor = np.array(head.get("class_weights") or [1.0])
    x = logits.astype(np.float64)
    cls = (factor * (np.logaddexp(0, x) - x * scores)).sum() / total_score  # LOSS-CLS-1
    d_logits = factor * (sigmoid(x) - scores) / total_score

    at = np.nonzero(targets["foreground"])  # (P,), (P,)
    weights, where = scores[at].sum(-1), at[1]
    own, bins = distances[at].astype(np.float64), head["reg_max"]  # (P, 4, R)
    boxes = targets["boxes"][at].astype(np.float64) / strides[where]  # (P, 4) in grid units
    decoded = decode(own, anchors[where].astype(np.float64))
    box = (weights * (1 - ciou(boxes, decoded))).sum() / total_score  # LOSS-BOX-1
    slopes = np.stack(
        [ciou(boxes, decoded + 1j * STEP * np.eye(4)[side]).imag / STEP for side in range(4)], 1
    )  # (P, 4) of x1, y1, x2, y2
    d_sides = -slopes * (-1, -1, 1, 1) * weights[:, None] / total_score  # of left, top, right, bottom

    centres = anchors[where]
    wanted = np.concatenate((centres - boxes[:, :2], boxes[:, 2:] - centres), 1)  # LOSS-DFL-1
    if bins == 1:
        share = strides[where] / np.array((size[1], size[0], size[1], size[0]))
        dfl = np.abs((own[..., 0] - wanted) * share).mean(1)
        d_box = d_sides[..., None]
        d_dfl = (np.sign(own[..., 0] - wanted) * share / 4)[..., None]
    else:
        probability, bin_numbers = softmax(own), np.arange(bins)
        wanted = np.clip(wanted, 0, bins - 1 - 0.01)
        lower = np.floor(wanted)
        goal = np.maximum(0, 1 - np.abs(bin_numbers - wanted[..., None]))  # shares of the two bins around d
        goal = np.where((bin_numbers == lower[..., None]) | (bin_numbers == lower[..., None] + 1), goal, 0)
        shifted = own - own.max(-1, keepdims=True)
        log_probability = shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))
        dfl = -(goal * log_probability).sum(-1).mean(1)
        expected = (probability * bin_numbers).sum(-1, keepdims=True)
        d_box = d_sides[..., None] * probability * (bin_numbers - expected)
        d_dfl = (probability - goal) / 4
    dfl = (weights * dfl).sum() / total_score
    gains = settings["box_gain"], settings["cls_gain"], settings["dfl_gain"]
    items = np.array(gains) * (box, cls, dfl)  # LOSS-GAIN-1

    d_channels = np.zeros((*logits.shape[:2], 4 * bins + head["classes"]))  # (B, A, 4R + C)
    d_channels[..., 4 * bins :] = gains[1] * d_logits
    per_positive = gains[0] * d_box + gains[2] * d_dfl * weights[:, None, None] / total_score
    d_channels[*at, : 4 * bins] = per_positive.reshape(-1, 4 * bins)  # LOSS-GRAD-1: zero elsewhere
    outcome = {f"assignment.{name}": value for name, value in targets.items()}
    finest = np.promote_types(maps[0].dtype, np.float32)
    outcome |= {"loss.items": items.astype(finest), "loss.total": np.array(items.sum() * images, finest)}
    begin = 0
    for level, values in enumerate(maps):
        cells = values.shape[2] * values.shape[3]
        gradient = images * d_channels[:, begin : begin + cells].swapaxes(1, 2).reshape(values.shape)
        outcome[f"loss.gradients.{level}"], begin = gradient.astype(values.dtype), begin + cells
    return outcome


def outcome_of(folder, vector):
    """Return the tensors of a vector's outcome."""
    if vector["asks"] == "loss":
        tensors = read(folder / vector["batch"]["file"])
        maps = [tensors[f"level.{level}"] for level in range(len(vector["head"]["strides"]))]
        return loss(maps, tensors["annotations"], vector["hyperparameters"], vector["head"])
    given = read(folder / vector["inputs"]["file"])
    targets = assign_batch(
        given["scores"], given["boxes"], given["anchors"], given["labels"][..., 0].astype(int), given["truth_boxes"],
        given["truth_mask"][..., 0] > 0, vector["hyperparameters"], vector["head"],
    )  # fmt: skip
    return {f"assignment.{name}": value for name, value in targets.items()}


def main(folder):
    """Compute every vector of a folder, and write the outcomes."""
    own = folder / "outcomes" / "numpy"
    own.mkdir(parents=True, exist_ok=True)
    for vector in json.loads((folder / "vectors.json").read_text())["vectors"]:
        texts, tensors = {"vector": vector["batch"]["sha256"]}, {}
        try:
            if vector["dtype"] == "float32":
                tensors = outcome_of(folder, vector)
            else:
                texts["unsupported"] = f"{vector['dtype']} under automatic mixed precision"
        except ValueError as error:  # TAL-TOPK-2
            texts["raised"] = str(error)
        write(own / f"{vector['id']}.safetensors", tensors, texts)
    about = {
        "schema": 1,
        "name": "numpy",
        "version": np.__version__,
        "gives": ["assignment", "loss", "gradients"],
    }
    (own / "implementation.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
