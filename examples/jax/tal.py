"""The task-aligned assigner and the detection loss in JAX, jitted and differentiated by JAX, judged by test vectors.

    pip install jax
    tal-conformance export vectors
    python examples/jax/tal.py vectors              # writes vectors/outcomes/jax
    tal-conformance judge vectors

Clauses are those of docs/specification.md. B images, A anchors, C classes, R bins, M ground truths of an image.
"""

import json
import sys
from functools import partial
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.append(str(Path(__file__).parents[1] / "numpy"))
from vector_files import read, write

EPS = 1e-7  # IOU-1


def ciou(first, second):
    """Return the complete IoU of boxes (.., 4) (IOU-1)."""
    (x1, y1, x2, y2), (X1, Y1, X2, Y2) = jnp.moveaxis(first, -1, 0), jnp.moveaxis(second, -1, 0)
    w, h, W, H = x2 - x1, y2 - y1 + EPS, X2 - X1, Y2 - Y1 + EPS
    across, down = jnp.minimum(x2, X2) - jnp.maximum(x1, X1), jnp.minimum(y2, Y2) - jnp.maximum(y1, Y1)
    shared = jnp.maximum(across, 0) * jnp.maximum(down, 0)
    iou = shared / (w * h + W * H - shared + EPS)
    wide, high = jnp.maximum(x2, X2) - jnp.minimum(x1, X1), jnp.maximum(y2, Y2) - jnp.minimum(y1, Y1)
    distance = ((x1 + x2 - X1 - X2) ** 2 + (y1 + y2 - Y1 - Y2) ** 2) / 4 / (wide**2 + high**2 + EPS)
    v = 4 / jnp.pi**2 * (jnp.arctan(W / H) - jnp.arctan(w / h)) ** 2
    return iou - distance - jax.lax.stop_gradient(v / (1 - iou + v + EPS)) * v  # IOU-2


def best(metric, k):
    """Return (M, A) bool: True at the k largest values of each row (TAL-TOPK-1)."""
    rows = jnp.arange(len(metric))[:, None]
    return jnp.zeros(metric.shape, bool).at[rows, jax.lax.top_k(metric, k)[1]].set(True)


def assign(scores, boxes, anchors, labels, truths, real, topk, topk2, alpha, beta, strides):
    """Return the targets of one image: scores (A, C), boxes (A, 4), labels (M,), truths (M, 4), real (M,) bool."""
    floor = strides[min(1, len(strides) - 1)]
    centre, side = (truths[:, :2] + truths[:, 2:]) / 2, truths[:, 2:] - truths[:, :2]
    low = jnp.where(side < floor, centre - floor / 2, truths[:, :2])  # TAL-CAND-2
    high = jnp.where(side < floor, centre + floor / 2, truths[:, 2:])
    inside = jnp.minimum(anchors - low[:, None], high[:, None] - anchors).min(-1)  # (M, A)
    candidates = (inside > 1e-9) & real[:, None]  # TAL-CAND-1
    overlap = jnp.where(candidates, jnp.maximum(ciou(truths[:, None], boxes[None]), 0), 0)
    metric = jnp.where(candidates, scores.T[labels] ** alpha * overlap**beta, 0)  # TAL-MET-1
    positives = best(metric, topk) & candidates
    winner = jnp.arange(len(truths))[:, None] == overlap.argmax(0)
    positives = jnp.where(positives.sum(0) > 1, winner, positives)  # TAL-CONF-1
    if topk2 not in (None, topk):
        positives &= best(metric * positives, topk2)  # TAL-CONF-2
    own = metric * positives  # TAL-NORM-1
    best_overlap = (overlap * positives).max(1, keepdims=True)
    weights = (own * best_overlap / (own.max(1, keepdims=True) + 1e-9)).sum(0)
    foreground, index = positives.any(0), positives.argmax(0)
    target_labels = jnp.where(foreground, labels[index], 0)  # TAL-TGT-1
    one_hot = jnp.arange(scores.shape[1]) == target_labels[:, None]
    return target_labels, truths[index], one_hot * weights[:, None], foreground, index


def assign_batch(scores, boxes, anchors, labels, truths, real, settings, strides):
    """Return the targets of all images by name; without any ground truth, all are background (TAL-EMPTY-1)."""
    images, count = scores.shape[:2]
    numbers = [settings[name] for name in ("topk", "topk2", "alpha", "beta")]
    if not truths.shape[1]:
        nothing = jnp.zeros((images, count), int)
        targets = nothing, jnp.zeros_like(boxes), jnp.zeros_like(scores), nothing > 0, nothing
    elif max(settings["topk"], settings["topk2"] or 0) > count:
        raise ValueError(f"top k of {count} anchors")  # TAL-TOPK-2
    else:
        one = partial(
            assign, topk=numbers[0], topk2=numbers[1], alpha=numbers[2], beta=numbers[3], strides=strides
        )
        targets = jax.vmap(one, (0, 0, None, 0, 0, 0))(scores, boxes, anchors, labels, truths, real)
    return dict(zip(("labels", "boxes", "scores", "foreground", "truth_index"), targets, strict=True))


def loss(maps, labels, truths, real, class_weights, settings, head):
    """Return the total loss of a batch, and its items and targets (LOSS-*)."""
    bins, strides = head["reg_max"], head["strides"]
    flat = [level.reshape(*level.shape[:2], -1) for level in maps]
    channels = jnp.concatenate(flat, -1).swapaxes(1, 2)  # (B, A, 4R + C) PRE-1
    distances, logits = channels[..., : 4 * bins], channels[..., 4 * bins :]
    distances = distances.reshape(*distances.shape[:2], 4, bins)
    cells = [
        np.stack(np.mgrid[: level.shape[2], : level.shape[3]][::-1], -1).reshape(-1, 2) for level in maps
    ]
    centres = jnp.array(np.concatenate(cells) + 0.5, jnp.float32)  # ANC-1
    stride = jnp.array(np.repeat(strides, [len(cell) for cell in cells])[:, None], jnp.float32)
    sides = (
        distances[..., 0] if bins == 1 else (jax.nn.softmax(distances) * jnp.arange(bins)).sum(-1)
    )  # DEC-1
    decoded = jnp.concatenate((centres - sides[..., :2], centres + sides[..., 2:]), -1)  # DEC-2
    seen = jax.lax.stop_gradient((jax.nn.sigmoid(logits), decoded * stride))
    targets = assign_batch(*seen, centres * stride, labels, truths, real, settings, strides)

    scores, foreground = targets["scores"], targets["foreground"]
    total = jnp.maximum(1, scores.sum())  # LOSS-SUM-1
    weights = scores.sum(-1)
    cross_entropy = jnp.maximum(logits, 0) - logits * scores + jnp.log1p(jnp.exp(-jnp.abs(logits)))
    cls = (cross_entropy * class_weights).sum() / total  # LOSS-CLS-1, COR-7
    positive = foreground[..., None]
    # on background any box with an area, so that no derivative is 0 / 0: `where` on the result would leave NaN
    unit = jnp.array((0.0, 0, 1, 1))
    boxes = jnp.where(positive, targets["boxes"] / stride, unit)
    learnt = jnp.where(positive, decoded, unit)
    box = (weights * (1 - ciou(boxes, learnt))).sum() / total  # LOSS-BOX-1
    wanted = jnp.concatenate((centres - boxes[..., :2], boxes[..., 2:] - centres), -1)  # (B, A, 4)
    if bins == 1:  # COR-1
        width, height = maps[0].shape[3] * strides[0], maps[0].shape[2] * strides[0]
        side_loss = jnp.abs((sides - wanted) * stride / jnp.array((width, height, width, height)))
    else:
        wanted = jnp.clip(wanted, 0, bins - 1 - 0.01)[..., None]  # LOSS-DFL-1
        near = jnp.floor(wanted)
        lower, upper = jnp.arange(bins) == near, jnp.arange(bins) == near + 1
        goal = jnp.where(lower, 1 - (wanted - near), jnp.where(upper, wanted - near, 0))
        side_loss = -(goal * jax.nn.log_softmax(distances)).sum(-1)
    dfl = (weights * jnp.where(foreground, side_loss.mean(-1), 0)).sum() / total
    gains = jnp.array([settings[f"{name}_gain"] for name in ("box", "cls", "dfl")])
    items = gains * jnp.stack((box, cls, dfl))  # LOSS-GAIN-1
    return items.sum() * len(logits), (items, targets)


def padded_truths(annotations, images, height, width):
    """Return labels (B, M), boxes (B, M, 4) in pixels and the mask of real ground truths (B, M) (ANN-1 to ANN-4)."""
    size = np.array((width, height), np.float32)
    centre, half = annotations[:, 2:4] * size, annotations[:, 4:6] * size / 2
    corners = np.concatenate((centre - half, centre + half), 1)
    of = [annotations[:, 0] == image for image in range(images)]
    most = max(int(rows.sum()) for rows in of)
    labels, boxes = np.zeros((images, most), int), np.zeros((images, most, 4), np.float32)
    for image, rows in enumerate(of):
        labels[image, : rows.sum()], boxes[image, : rows.sum()] = annotations[rows, 1], corners[rows]
    return labels, boxes, boxes.sum(-1) > 0  # ANN-3


def outcome_of(folder, vector):
    """Return the tensors of a vector's outcome."""
    settings, head = vector["hyperparameters"], vector["head"]
    if vector["asks"] == "assignment":
        given = read(folder / vector["inputs"]["file"])
        labels, real = given["labels"][..., 0].astype(int), given["truth_mask"][..., 0] > 0
        compute = jax.jit(partial(assign_batch, settings=settings, strides=tuple(head["strides"])))
        targets = compute(
            given["scores"], given["boxes"], given["anchors"], labels, given["truth_boxes"], real
        )
        return named(targets)
    tensors = read(folder / vector["batch"]["file"])
    maps = tuple(tensors[f"level.{level}"] for level in range(len(head["strides"])))
    height, width = (cells * head["strides"][0] for cells in maps[0].shape[2:])
    truths = padded_truths(tensors["annotations"], len(maps[0]), height, width)
    class_weights = np.array(head.get("class_weights") or [1], np.float32)
    compute = jax.jit(jax.value_and_grad(partial(loss, settings=settings, head=head), has_aux=True))
    (total, (items, targets)), gradients = compute(maps, *truths, class_weights)
    outcome = {"loss.total": np.asarray(total), "loss.items": np.asarray(items)} | named(targets)
    return outcome | {f"loss.gradients.{level}": np.asarray(values) for level, values in enumerate(gradients)}


def named(targets):
    """Return the targets by their names in an outcome file."""
    return {f"assignment.{name}": np.asarray(value) for name, value in targets.items()}


def main(folder):
    """Compute every vector of a folder, and write the outcomes."""
    own = folder / "outcomes" / "jax"
    own.mkdir(parents=True, exist_ok=True)
    for vector in json.loads((folder / "vectors.json").read_text())["vectors"]:
        texts, tensors = {"vector": vector["batch"]["sha256"]}, {}
        try:
            if vector["dtype"] == "float32":
                tensors = outcome_of(folder, vector)
            else:
                texts["unsupported"] = f"{vector['dtype']} under automatic mixed precision"
        except ValueError as error:
            texts["raised"] = str(error)
        write(own / f"{vector['id']}.safetensors", tensors, texts)
    about = {
        "schema": 1,
        "name": "jax",
        "version": jax.__version__,
        "gives": ["assignment", "loss", "gradients"],
    }
    (own / "implementation.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
