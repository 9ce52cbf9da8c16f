"""Faults in the state of a criterion: caches with incomplete keys, stale values, averages and buffers."""

from dataclasses import replace
from typing import Any
from unittest.mock import patch

import torch

import tal_reference.anchors
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import DETECT, StageName
from tal_conformance.mutation.planted_faults.faulty_criterion import CriterionCall, state

Memory = dict[Any, Any]
_make_anchors, _input_size = tal_reference.anchors.make_anchors, tal_reference.anchors.input_size
DFL = DETECT.item_of[StageName.DFL]
"""Index of the distribution focal loss in the items of detection and of rotated boxes."""
WARM_UP = 10
"""Number of calls after which the fault `warm_up_of_ten_calls` changes k."""


def _with_cached(memory: Memory, call: CriterionCall, key: Any, name: str, function: Any) -> Loss:
    """Return the loss, with the result of the reference's function `name` cached under `key` alone."""

    def cached(*arguments: Any) -> Any:
        if (name, key) not in memory:
            memory[name, key] = function(*arguments)
        return memory[name, key]

    with patch(f"tal_reference.loss.{name}", cached), patch(f"tal_reference.rotated.{name}", cached):
        return call.loss()


@state("multi-scale")
def anchors_cached_by_count(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss with anchors cached by their number, which can be equal for different shapes."""
    count = sum(level[0, 0].numel() for level in call.maps)
    return _with_cached(memory, call, count, "make_anchors", _make_anchors)


@state("multi-scale")
def anchors_of_the_first_call(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that reuses the anchors of the first call."""
    return _with_cached(memory, call, call.rows.device, "make_anchors", _make_anchors)


@state("multi-scale")
def input_size_of_the_first_call(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that scales annotations by the input size of the first call."""
    return _with_cached(memory, call, None, "input_size", _input_size)


@state("multi-scale")
def anchors_cached_by_area(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss with anchors cached by the first level's number of cells, equal for 4x6 and 6x4."""
    return _with_cached(memory, call, call.maps[0][0, 0].numel(), "make_anchors", _make_anchors)


@state("two-heads", "STATE-2", shared=True)
def anchors_cached_by_shape_alone(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss with anchors cached by the shapes of the feature maps, although strides may differ."""
    shapes = tuple(level.shape[2:] for level in call.maps)
    return _with_cached(memory, call, shapes, "make_anchors", _make_anchors)


@state("two-heads", "STATE-2", shared=True)
def classes_of_the_first_head(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that reads as many classes as the first head had; other class logits become 0."""
    classes = memory.setdefault("classes", call.head.classes)
    read, end = 4 * call.head.reg_max + classes, call.head.channels
    maps = tuple(
        torch.cat((level[:, :read], 0 * level[:, read:end], level[:, max(read, end) :]), 1)
        for level in call.maps
    )
    return call.loss(maps=maps)


@state("float32-after-bfloat16")
def logits_in_the_first_dtype(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that rounds feature maps to the dtype of the first call."""
    dtype = memory.setdefault("dtype", call.maps[0].dtype)
    return call.loss(maps=tuple(level.to(dtype).to(level.dtype) for level in call.maps))


@state("float32-after-bfloat16")
def half_precision_sticks(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that rounds feature maps to bfloat16 in all calls after the first call under autocast."""
    memory["half"] = memory.get("half", False) or torch.is_autocast_enabled("cpu")
    if not memory["half"] or torch.is_autocast_enabled("cpu"):
        return call.loss()
    return call.loss(maps=tuple(level.bfloat16().to(level.dtype) for level in call.maps))


@state("smaller-last-batch")
def batch_size_of_the_first_call(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose total is multiplied by the batch size of the first call."""
    images = memory.setdefault("images", len(call.maps[0]))
    loss = call.loss()
    return Loss(loss.total * (images / len(call.maps[0])), loss.items, loss.assignment, loss.inputs)


@state("smaller-last-batch")
def rows_of_a_larger_batch_stay(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that reads annotation rows from a growing buffer, including rows of earlier batches."""
    buffer = memory.get("rows")
    if buffer is None or len(buffer) < len(call.rows):
        buffer = call.rows.detach().clone()
    else:
        buffer[: len(call.rows)] = call.rows.detach()
    memory["rows"] = buffer
    rows = buffer.clone()
    rows[:, 0].clamp_(max=len(call.maps[0]) - 1)
    return call.loss(rows=rows)


@state("equal-shapes")
def running_average_of_the_items(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose items are a running average over the calls."""
    loss = call.loss()
    memory["items"] = 0.9 * memory.get("items", loss.items) + 0.1 * loss.items
    return Loss(loss.total, memory["items"].clone(), loss.assignment, loss.inputs)


@state("equal-shapes")
def total_divided_by_the_last_sum(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss divided by the sum of target scores of the previous call instead of this call."""
    loss = call.loss()
    assert loss.assignment is not None
    own = float(loss.assignment.scores.sum().clamp(min=1))
    factor = own / memory.get("sum", own)
    memory["sum"] = own
    return Loss(loss.total * factor, loss.items * factor, loss.assignment, loss.inputs)


@state("equal-shapes")
def warm_up_of_ten_calls(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss with k = 3 after the first ten calls."""
    memory["calls"] = memory.get("calls", 0) + 1
    topk = call.numbers.topk if memory["calls"] <= WARM_UP else 3
    return call.loss(numbers=replace(call.numbers, topk=topk))


@state("equal-shapes")
def items_cached_by_shape(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that returns the items of the first batch with the same shapes."""
    loss = call.loss()
    key = call.rows.shape, *(level.shape for level in call.maps)
    items = memory.setdefault(key, loss.items)
    return Loss(loss.total, items.clone(), loss.assignment, loss.inputs)


@state("equal-shapes")
def every_other_assignment(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that uses the predictions of each odd-numbered call again in the next call."""
    memory["calls"] = memory.get("calls", 0) + 1
    if memory["calls"] % 2:
        memory["logits"] = [level.detach().clone() for level in call.maps]
    kept = memory["logits"]
    fits = all(old.shape == level.shape for old, level in zip(kept, call.maps, strict=True))
    maps = (
        tuple(level - level.detach() + old for old, level in zip(kept, call.maps, strict=True))
        if fits
        else call.maps
    )
    return call.loss(maps=maps)


@state("changed-gains", "STATE-2", shared=True)
def gains_of_the_first_call(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss with the gains of the first call."""
    numbers = memory.setdefault("numbers", call.numbers)
    gains = {name: getattr(numbers, name) for name in ("box_gain", "cls_gain", "dfl_gain")}
    return call.loss(numbers=replace(call.numbers, **gains))


@state("changed-gains", "STATE-2", shared=True)
def k_of_the_first_call(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose assigner has the k of the first call."""
    topk = memory.setdefault("topk", call.numbers.topk)
    return call.loss(numbers=replace(call.numbers, topk=topk))


@state("train-validate-train")
def validation_switches_the_dfl_off(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss without DFL after the first call with gradients disabled."""
    loss = call.loss()
    if not torch.is_grad_enabled():
        memory["off"] = True
        return loss
    kept = torch.ones_like(loss.items)
    kept[DFL] = 0.0 if memory.get("off") else 1.0
    return Loss(loss.total * kept, loss.items * kept, loss.assignment, loss.inputs)


@state("train-validate-train")
def anchors_of_validation(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that reuses a tensor made in inference mode, which autograd rejects in later training."""
    if torch.is_inference_mode_enabled():
        memory["one"] = torch.ones((), device=call.rows.device)
    loss = call.loss()
    one = memory.get("one", 1.0)
    return Loss(loss.total * one, loss.items, loss.assignment, loss.inputs)


LONG_WARM_UP = 50
"""Number of calls after which the fault `warm_up_of_fifty_calls` changes k."""


@state("equal-shapes")
def warm_up_of_fifty_calls(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss with k = 3 after the first fifty calls."""
    memory["calls"] = memory.get("calls", 0) + 1
    topk = call.numbers.topk if memory["calls"] <= LONG_WARM_UP else 3
    return call.loss(numbers=replace(call.numbers, topk=topk))
