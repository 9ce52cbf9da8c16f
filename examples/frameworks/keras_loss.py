"""The task-aligned assigner and the detection loss in keras.ops, with the backend that KERAS_BACKEND names.

pip install keras         # the backend torch is installed with the suite; others: pip install jax, or tensorflow
KERAS_BACKEND=jax pytest conformance --task detect --implementation examples/frameworks/keras_loss.py:KerasLoss

B images, A anchors, C classes, M ground truths of the fullest image.
"""

import os
from functools import cache, partial

os.environ.setdefault("KERAS_BACKEND", "torch")  # Keras reads it while it is imported

try:
    import keras
    from keras import ops
except ImportError as error:
    raise ImportError(f"Keras 3 or its backend is not installed ({error}): pip install keras") from error

import numpy as np
import torch
from array_loss import ArrayLoss, ciou, total_and_items

from tal_conformance import Assignment

BACKEND = keras.backend.backend()
if BACKEND == "jax":
    import jax
elif BACKEND == "tensorflow":
    import tensorflow as tf


def best(metric, k):
    """Return (B, M, A) bool: True at the k largest values of each row (TAL-TOPK-1)."""
    places = ops.top_k(metric, k)[1]  # (B, M, k)
    return ops.any(places[..., None] == ops.arange(metric.shape[-1]), axis=2)


def select(scores, boxes, anchors, labels, truths, real, settings, strides):
    """Return the positives (B, M, A) and their weights (B, M, A): scores (B, A, C), truths (B, M, 4), real (B, M)."""
    floor = strides[min(1, len(strides) - 1)]
    centre, side = (truths[..., :2] + truths[..., 2:]) / 2, truths[..., 2:] - truths[..., :2]
    low = ops.where(side < floor, centre - floor / 2, truths[..., :2])[:, :, None]  # TAL-CAND-2
    high = ops.where(side < floor, centre + floor / 2, truths[..., 2:])[:, :, None]
    inside = ops.min(ops.minimum(anchors - low, high - anchors), axis=-1)  # (B, M, A)
    candidates = ops.logical_and(inside > 1e-9, real[..., None])  # TAL-CAND-1
    overlap = ops.maximum(ciou(ops, truths[:, :, None], boxes[:, None]), 0)
    overlap = ops.where(candidates, overlap, 0)  # (B, M, A) TAL-MET-1
    of_class = ops.broadcast_to(labels[..., None], (*labels.shape, scores.shape[1]))
    own_scores = ops.take_along_axis(ops.transpose(scores, (0, 2, 1)), of_class, axis=1)  # (B, M, A)
    powers = own_scores ** settings["alpha"] * overlap ** settings["beta"]
    metric = ops.where(candidates, powers, 0)
    positives = ops.logical_and(best(metric, settings["topk"]), candidates)
    contested = ops.sum(ops.cast(positives, "int32"), axis=1, keepdims=True) > 1
    winner = ops.arange(truths.shape[1])[:, None] == ops.argmax(overlap, axis=1)[:, None]
    positives = ops.where(contested, winner, positives)  # TAL-CONF-1
    if settings["topk2"] not in (None, settings["topk"]):  # TAL-CONF-2
        kept = best(ops.where(positives, metric, 0), settings["topk2"])
        positives = ops.logical_and(positives, kept)
    own, own_overlap = ops.where(positives, metric, 0), ops.where(positives, overlap, 0)
    best_overlap = ops.max(own_overlap, axis=-1, keepdims=True)
    return positives, own * best_overlap / (ops.max(own, axis=-1, keepdims=True) + 1e-9)  # TAL-NORM-1


def targets_of(scores, boxes, anchors, labels, truths, real, settings, strides):
    """Return labels, boxes, scores, foreground and index of every anchor (TAL-TGT-1)."""
    positives, weights = select(scores, boxes, anchors, labels, truths, real, dict(settings), strides)
    foreground, index = ops.any(positives, axis=1), ops.argmax(ops.cast(positives, "int32"), axis=1)  # (B, A)
    target_boxes = ops.take_along_axis(truths, index[..., None], axis=1)  # (B, A, 4)
    target_labels = ops.where(foreground, ops.take_along_axis(labels, index, axis=1), 0)
    one_hot = target_labels[..., None] == ops.arange(scores.shape[2])
    target_scores = ops.where(one_hot, ops.sum(weights, axis=1)[..., None], 0)
    return target_labels, target_boxes, target_scores, foreground, index


def assign_batch(scores, boxes, anchors, labels, truths, real, settings, head):
    """Return the targets of all images by name, as NumPy arrays, from NumPy arrays."""
    if not truths.shape[1]:  # TAL-EMPTY-1
        nothing = np.zeros(scores.shape[:2], np.int64)
        targets = nothing, np.zeros_like(boxes), np.zeros_like(scores), nothing > 0, nothing
    elif max(settings["topk"], settings["topk2"] or 0) > len(anchors):
        raise ValueError(f"top k of {len(anchors)} anchors")  # TAL-TOPK-2
    else:
        numbers = tuple((name, settings[name]) for name in ("topk", "topk2", "alpha", "beta"))
        given = [ops.convert_to_tensor(value) for value in (scores, boxes, anchors, labels, truths, real)]
        targets = map(ops.convert_to_numpy, compiled_assigner(numbers, tuple(head["strides"]))(*given))
    return dict(zip(("labels", "boxes", "scores", "foreground", "truth_index"), targets, strict=True))


@cache
def compiled_assigner(settings, strides):
    """Return the assigner with these settings: JAX compiles it once for each shape, instead of each operation."""
    function = partial(targets_of, settings=settings, strides=strides)
    return jax.jit(function) if BACKEND == "jax" else function


@cache
def value_and_grad(bins):
    """Return the function (maps, constants) -> ((total, items), gradients of the total on the maps)."""
    function = partial(total_and_items, ops, bins)
    if BACKEND == "jax":
        return jax.jit(jax.value_and_grad(function, has_aux=True))
    return with_tape(function) if BACKEND == "tensorflow" else with_graph(function)


def with_graph(function):
    """Differentiate with the backend torch, also where the caller has turned gradients off."""

    def both(maps, constants):
        with torch.enable_grad():
            maps = [level.clone().requires_grad_() for level in maps]
            total, items = function(maps, constants)
        return (total.detach(), items.detach()), torch.autograd.grad(total, maps)

    return both


def with_tape(function):
    """Differentiate with the backend TensorFlow."""

    def both(maps, constants):
        with tf.GradientTape() as tape:
            tape.watch(maps)
            total, items = function(maps, constants)
        return (total, items), tape.gradient(total, maps)

    return both


class KerasLoss(ArrayLoss):
    """The assigner and the loss with `keras.ops`."""

    name, version = f"keras-{BACKEND}", keras.__version__
    array = staticmethod(ops.convert_to_tensor)
    assign_batch = staticmethod(assign_batch)

    def assign(self, inputs):
        """Return the targets of an assigner alone."""
        read = (inputs.scores, inputs.boxes, inputs.anchors, inputs.labels[..., 0].long(), inputs.truth_boxes)
        arrays = [value.numpy(force=True) for value in (*read, inputs.truth_mask[..., 0] > 0)]
        with torch.inference_mode(mode=False):
            return Assignment(**assign_batch(*arrays, vars(inputs.hyperparameters), vars(inputs.head)))

    def loss(self, feature_maps, annotations, head, hyperparameters):
        """Return total, items, assignment and gradients of a batch."""
        with torch.inference_mode(mode=False):  # its tensors could not be differentiated
            return super().loss(feature_maps, annotations, head, hyperparameters)

    def value_and_grad(self, bins):
        """Return the loss and its derivative, as NumPy arrays of the CPU."""

        def both(maps, constants):
            results, gradients = value_and_grad(bins)(maps, constants)
            return tuple(map(ops.convert_to_numpy, results)), tuple(map(ops.convert_to_numpy, gradients))

        return both
