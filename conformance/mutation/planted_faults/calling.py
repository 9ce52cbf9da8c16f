"""Faults in the handling of calls: gradients, memory layouts, autograd modes, threads, errors, processes."""

import os
import threading
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, distributed
from torch.nn import functional

from tal_conformance.core.outcome import Loss
from tal_conformance.mutation.planted_faults.faulty_criterion import CriterionCall, LossWithItems, calling

Memory = dict[Any, Any]


def _times(loss: LossWithItems, factor: float) -> Loss:
    """Return the loss with total and items multiplied by a factor."""
    return Loss(loss.total * factor, loss.items * factor, loss.assignment, loss.inputs)


class _OwnGradient(torch.autograd.Function):
    """Autograd function of a total loss whose gradients were computed in advance; `rule` names the planted fault."""

    @staticmethod
    def forward(ctx: Any, total: Tensor, memory: Memory, rule: str, *maps: Tensor) -> Tensor:
        """Store the gradients that were computed in advance, and return the total loss."""
        ctx.memory, ctx.rule = memory, rule
        ctx.gradients = memory["gradients"] = list(memory["computed"])
        return total.clone()

    @staticmethod
    def backward(ctx: Any, *slopes: Tensor) -> Any:
        """Return the stored gradients, changed by the fault that `ctx.rule` names."""
        (slope,), gradients = slopes, ctx.gradients
        if ctx.rule == "ignores the slope":
            return None, None, None, *gradients
        if ctx.rule == "clamps the slope":
            return None, None, None, *(gradient * slope.clamp(max=1) for gradient in gradients)
        if ctx.rule == "of the last call":
            return None, None, None, *(gradient * slope for gradient in ctx.memory["gradients"])
        if ctx.rule == "once":
            if ctx.memory.pop("used", False):
                raise RuntimeError("cannot run the backward pass twice: the saved gradients have been freed")
            ctx.memory["used"] = True
            return None, None, None, *(gradient * slope for gradient in gradients)
        for gradient in gradients:  # "adds up": the second backward pass reuses the buffer of the first
            gradient.mul_(slope)
        result = [gradient.clone() for gradient in gradients]
        for gradient in gradients:
            gradient.mul_(2)
        return None, None, None, *result


def _own_gradient(memory: Memory, call: CriterionCall, rule: str) -> Loss:
    """Return the loss with gradients computed in advance; `rule` names the fault of the backward pass."""
    if not (torch.is_grad_enabled() and all(level.requires_grad for level in call.maps)):
        return call.loss()
    with torch.enable_grad():
        inner = tuple(level.detach().requires_grad_() for level in call.maps)
        loss = call.loss(maps=inner)
        memory["computed"] = torch.autograd.grad(loss.total.sum(), inner)
    memory.pop("used", None)
    total = _OwnGradient.apply(loss.total.sum().detach(), memory, rule, *call.maps)
    return Loss(total, loss.items, loss.assignment, loss.inputs)


@calling("scaled-gradients", "CALL-1")
def incoming_gradient_is_ignored(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose backward pass ignores the incoming gradient."""
    return _own_gradient(memory, call, "ignores the slope")


@calling("scaled-gradients", "CALL-1")
def incoming_gradient_is_clamped(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose backward pass clamps the incoming gradient, as a guard against exploding losses."""
    return _own_gradient(memory, call, "clamps the slope")


@calling("two-forwards", "CALL-1")
def gradient_of_the_last_forward(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose backward pass returns the gradients of the last forward pass."""
    return _own_gradient(memory, call, "of the last call")


@calling("two-forwards", "CALL-1")
def items_in_one_buffer(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose items are in a buffer that the next call overwrites."""
    loss = call.loss()
    buffer = memory.setdefault("items", torch.zeros_like(loss.items))
    buffer.copy_(loss.items)
    return Loss(loss.total, buffer, loss.assignment, loss.inputs)


@calling("retained-graph", "CALL-1")
def graph_is_freed(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that raises in a second backward pass, even with `retain_graph=True`."""
    return _own_gradient(memory, call, "once")


@calling("retained-graph", "CALL-1")
def second_backward_adds_up(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose second backward pass returns wrong gradients, from the buffer of the first."""
    return _own_gradient(memory, call, "adds up")


@calling("backward", "CALL-1")
def doubles_the_grad_of_leaves(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that doubles the `.grad` of feature maps that are leaf tensors, like a duplicate hook."""
    if torch.is_grad_enabled():
        for level in call.maps:
            if level.is_leaf and level.requires_grad:
                level.register_post_accumulate_grad_hook(_double)
    return call.loss()


def _double(level: Tensor) -> None:
    assert level.grad is not None
    level.grad = level.grad * 2


@calling("frozen-maps", "CALL-2")
def frozen_map_raises(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that registers a hook on every feature map, which raises if a map requires no gradient."""
    if torch.is_grad_enabled() and any(level.requires_grad for level in call.maps):
        for level in call.maps:
            level.register_hook(lambda gradient: gradient)
    return call.loss()


@calling("frozen-maps", "CALL-2")
def frozen_map_is_left_out(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that treats a feature map without gradient as zeros."""
    if not any(level.requires_grad for level in call.maps):
        return call.loss()
    return call.loss(
        maps=tuple(level if level.requires_grad else torch.zeros_like(level) for level in call.maps)
    )


@calling("non-leaf-maps", "CALL-2")
def needs_leaves(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that sets `requires_grad` of the feature maps, which raises for non-leaf tensors."""
    if torch.is_grad_enabled() and any(level.requires_grad for level in call.maps):
        for level in call.maps:
            level.requires_grad_(level.requires_grad)
            if not level.is_leaf:
                level.requires_grad = False
    return call.loss()


@calling("grad-attribute", "CALL-2")
def grad_is_cleared(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that sets the `.grad` of the feature maps to None."""
    for level in call.maps:
        if level.is_leaf:
            level.grad = None
    return call.loss()


@calling("grad-attribute", "CALL-2")
def grad_is_zeroed_in_place(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that zeroes the `.grad` of the feature maps in place, as optimisers do."""
    for level in call.maps:
        if level.is_leaf and level.grad is not None:
            level.grad.zero_()
    return call.loss()


def _strides(shape: torch.Size) -> list[int]:
    """Return the strides, in elements, of a contiguous tensor of this shape."""
    return [int(torch.tensor(shape[place + 1 :]).prod()) for place in range(len(shape))]


@calling("channels-last", "CALL-3")
def read_in_memory_order(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that reads feature maps as contiguous memory, like a kernel that gets a bare pointer."""
    if any(level.untyped_storage().nbytes() < level.numel() * level.element_size() for level in call.maps):
        return call.loss()
    maps = tuple(level.as_strided(level.shape, _strides(level.shape)) for level in call.maps)
    return call.loss(maps=maps)


@calling("channels-last", "CALL-3")
def view_for_reshape(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that flattens with `view`, which raises for some memory layouts."""
    maps = tuple(level.view(len(level), -1).view(level.shape) for level in call.maps)
    return call.loss(maps=maps)


@calling("strided-views", "CALL-3")
def strides_of_rows_are_ignored(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that reads the annotation rows as contiguous memory, whatever their strides are."""
    rows = call.rows.as_strided(call.rows.shape, _strides(call.rows.shape))
    return call.loss(rows=rows.clamp(min=0))


@calling("storage-offset", "CALL-3")
def storage_offset_is_ignored(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that reads each feature map from the beginning of its memory block."""
    return call.loss(maps=tuple(level.as_strided(level.shape, level.stride(), 0) for level in call.maps))


@calling("no-grad", "CALL-4")
def another_loss_in_validation(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss whose total lacks the factor of the batch size if no feature map requires gradients."""
    loss = call.loss()
    if torch.is_grad_enabled():
        return loss
    return Loss(loss.total / len(call.maps[0]), loss.items, loss.assignment, loss.inputs)


@calling("no-grad", "CALL-4")
def clamps_its_inputs_in_validation(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that clamps the feature maps in place while gradients are disabled."""
    if not torch.is_grad_enabled():
        for level in call.maps:
            level.clamp_(-0.5, 0.5)
    return call.loss()


@calling("inference-mode", "CALL-4")
def inference_tensors_are_cached(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that keeps a tensor of the first call, which fails later if made in inference mode."""
    one = memory.setdefault("one", torch.ones((), device=call.rows.device))
    loss = call.loss()
    return Loss(loss.total * one, loss.items, loss.assignment, loss.inputs)


@calling("threads", "CALL-5")
def half_of_the_gradient_with_threads(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss without gradients for the second half of the images if torch uses several threads."""
    if torch.get_num_threads() == 1:
        return call.loss()
    half = (len(call.maps[0]) + 1) // 2
    return call.loss(maps=tuple(torch.cat((level[:half], level[half:].detach())) for level in call.maps))


@calling("threads", "CALL-5")
def needs_one_thread(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that sets the number of torch's threads to 1 and does not restore it."""
    torch.set_num_threads(1)
    return call.loss()


@calling("threads", "CALL-5")
def only_in_the_main_thread(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss without DFL outside of the main thread, as settings that are kept for each thread cause it."""
    if threading.current_thread() is threading.main_thread():
        return call.loss()
    return call.loss(numbers=replace(call.numbers, dfl_gain=0.0))


@calling("deterministic-algorithms", "CALL-5")
def other_sum_where_deterministic(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss without DFL while torch's deterministic algorithms are enabled."""
    loss = call.loss()
    if not torch.are_deterministic_algorithms_enabled():
        return loss
    kept = loss.items.new_tensor((1.0, 1.0, 0.0))
    return Loss(loss.total * kept, loss.items * kept, loss.assignment, loss.inputs)


@calling("deterministic-algorithms", "CALL-5")
def uninitialised_memory_is_read(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that adds uninitialised memory, which torch fills with NaN in deterministic mode."""
    loss = call.loss()
    buffer = torch.empty_like(loss.total)
    noise = buffer if torch.are_deterministic_algorithms_enabled() else torch.zeros_like(buffer)
    return Loss(loss.total + noise.detach(), loss.items, loss.assignment, loss.inputs)


@calling("compile", "CALL-5")
def another_branch_while_compiling(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss without DFL while `torch.compile` traces it."""
    loss = call.loss()
    if not torch.compiler.is_compiling():
        return loss
    kept = torch.tensor((1.0, 1.0, 0.0))
    return Loss(loss.total * kept, loss.items * kept, loss.assignment, loss.inputs)


@calling("out-of-memory", "CALL-6")
def fewer_positives_without_memory(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that catches an out-of-memory error and tries again with k = 1."""
    try:
        return call.loss()
    except torch.OutOfMemoryError:
        return call.loss(numbers=type(call.numbers)(**vars(call.numbers) | {"topk": 1}))


@calling("out-of-memory", "CALL-6")
def zero_loss_without_memory(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that catches an out-of-memory error and returns zero."""
    try:
        return call.loss()
    except torch.OutOfMemoryError:
        total = sum((functional.relu(level).sum() for level in call.maps), torch.zeros(())) * 0
        return Loss(total, torch.zeros(3))


@calling("out-of-memory", "CALL-6")
def stays_small_after_an_error(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that raises an out-of-memory error as it should, but uses k = 1 in all later calls."""
    numbers = memory.get("numbers", call.numbers)
    try:
        return call.loss(numbers=numbers)
    except torch.OutOfMemoryError:
        memory["numbers"] = type(numbers)(**vars(numbers) | {"topk": 1})
        raise


def _reduced(loss: LossWithItems, reduces: str) -> Loss:
    """Return the loss divided by the sum or mean over all processes of N, the sum of target scores."""
    if not distributed.is_initialized():
        return loss
    assert loss.assignment is not None
    own = loss.assignment.scores.sum()
    whole = own.clone()
    distributed.all_reduce(whole)
    common = whole / distributed.get_world_size() if reduces == "mean" else whole
    return _times(loss, float(own.clamp(min=1) / common.clamp(min=1)))


@calling("two-processes", "CALL-7")
def reduces_without_saying_so(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that averages N, the sum of target scores, over processes without declaring it."""
    return _reduced(call.loss(), "mean")


@calling("two-processes", "CALL-7")
def total_times_world_size(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss multiplied by the number of processes, read from the environment that a launcher sets."""
    return _times(call.loss(), int(os.environ.get("WORLD_SIZE", "1")))


@calling("two-processes", "CALL-7", reduces="mean")
def declares_a_mean_and_sums(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that sums N (sum of target scores) over processes, although the adapter declares the mean."""
    return _reduced(call.loss(), "sum")


@calling("two-processes", "CALL-7", reduces="sum")
def declares_a_reduction_and_has_none(memory: Memory, call: CriterionCall) -> Loss:
    """Return a loss that does not sum N (sum of target scores) over processes, although the adapter declares it."""
    return call.loss()


def correct(reduces: str | None) -> Any:
    """Return a correct loss as a `Behaviour`; it reduces N (sum of target scores) over processes by `reduces`."""

    def behaviour(memory: Memory, call: CriterionCall) -> Loss:
        loss = call.loss()
        return loss if reduces is None else _reduced(loss, reduces)

    return behaviour
