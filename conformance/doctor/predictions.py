"""Findings on predictions: shapes, dtypes, values that are not finite, and saturated class logits (PRE-1, MET-1)."""

import torch
from torch import Tensor

from tal_conformance.core.task import KEYPOINT_COLUMNS, TASKS, Task
from tal_conformance.doctor.finding import Finding, Severity
from tal_conformance.doctor.inputs import Inputs


def form_findings(inputs: Inputs) -> list[Finding]:
    """Return the findings on dtypes and shapes, which need no values."""
    found = [
        _mixed_dtypes(inputs),
        _unfit_shapes(inputs),
        _class_weights(inputs),
        _keypoints(inputs),
        _masks(inputs),
    ]
    return [finding for finding in found if finding is not None]


def value_findings(inputs: Inputs) -> list[Finding]:
    """Return the findings on the values of well-shaped feature maps."""
    found = [_not_finite(inputs), _saturated(inputs)]
    return [finding for finding in found if finding is not None]


def _mixed_dtypes(inputs: Inputs) -> Finding | None:
    """Return a finding if the feature maps have different dtypes, or annotations are not float32 (PRE-1)."""
    maps = [str(level.dtype) for level in inputs.maps]
    dtypes = sorted(set(inputs.circumstances.dtypes or maps))
    annotations = inputs.content.annotations.dtype
    if len(dtypes) <= 1 and annotations == torch.float32:
        return None
    names = " and ".join(name.removeprefix("torch.") for name in dtypes)
    parts = [f"predictions are {names}: expected one dtype for all levels"] * (len(dtypes) > 1)
    if annotations != torch.float32:
        parts.append(f"annotations are {str(annotations).removeprefix('torch.')}: expected float32 (ANN-1)")
    differing = sum(name != maps[0] for name in maps) + (annotations != torch.float32)
    return Finding(
        "mixed dtypes",
        "PRE-1",
        Severity.WRONG_FORM,
        "; ".join(parts),
        max(differing, 1),
        len(maps) + 1,
        "tensors",
    )


def _unfit_shapes(inputs: Inputs) -> Finding | None:
    """Return a finding if feature maps or annotations have shapes that the head does not have (PRE-1, ANN-1)."""
    if not inputs.well_shaped:
        head, task = inputs.content.head, TASKS.get(inputs.content.task)
        channels, of_image = (task.channels(head), task.image_fields) if task else (0, ())
        count = task.map_count(head) - len(of_image) if task else 0
        shapes = ", ".join(str(tuple(level.shape)) for level in inputs.maps)
        fields = [field for field in task.fields if field not in of_image] if task else []
        widths = [f"{field.width(head)} {field.quantity}" for field in fields]
        further = "".join(f", and one of {field.width(head)} {field.quantity}" for field in of_image)
        sentence = (
            f"feature maps are {shapes}: expected {count} of (B, {channels}, H, W), whose {channels} channels are "
            f"{', '.join(widths)}{further}"
        )
        return Finding(
            "shapes", "PRE-1", Severity.RAISES, sentence, len(inputs.maps), len(inputs.maps), "feature maps"
        )
    shape = tuple(inputs.content.annotations.shape)
    task = TASKS[inputs.content.task]
    columns = task.columns(inputs.content.head)
    if len(shape) != 2 or shape[1] != columns:
        names = ["image", "class", *task.box_columns]
        more = columns - len(names)
        keypoints = more // KEYPOINT_COLUMNS if task.has_keypoints else 0
        names += [f"{keypoints} keypoint{'s' * (keypoints > 1)} of x, y, visibility"] * (keypoints > 0)
        names += [f"{more} pixels of the mask"] * (task.has_masks and more > 0)
        sentence = f"annotations are {shape}: expected (N, {columns}) rows of {', '.join(names)}"
        return Finding("shapes", "ANN-1", Severity.RAISES, sentence, 1, 1, "tensors")
    return None


def _class_weights(inputs: Inputs) -> Finding | None:
    """Return a finding about class weights of which none, or only some, teach a class (COR-7)."""
    weights, classes = inputs.content.head.class_weights, inputs.classes
    if weights is None:
        return None
    useless = [label for label, weight in enumerate(weights) if not 0 < weight < float("inf")]
    if len(weights) == classes and not useless:
        return None
    finite = all(abs(weight) < float("inf") for weight in weights)
    sentence = (
        f"{len(weights)} class weights for {classes} classes: expected one weight for each class"
        if len(weights) != classes
        else f"class {useless[0]} has the weight {weights[useless[0]]:g}: expected a finite number above 0; with 0 the "
        "class is not learnt, and a negative weight teaches the opposite"
    )
    severity = Severity.NOT_LEARNT if finite else Severity.NOT_FINITE
    if len(weights) != classes:
        severity = Severity.RAISES
    count = len(useless) or len(weights)
    return Finding("class weights", "COR-7", severity, sentence, count, len(weights), "class weights")


def _keypoints(inputs: Inputs) -> Finding | None:
    """Return a finding if the head has keypoints and the task has none, or the reverse (POSE-IN-1)."""
    task, keypoints = TASKS.get(inputs.content.task), inputs.content.head.keypoints
    if task is None or (keypoints is not None) == task.has_keypoints:
        return None
    expected = "the number of keypoints, such as (17, 3)" if task.has_keypoints else "None"
    return _unexpected("keypoints", "POSE-IN-1", keypoints, task, expected)


def _masks(inputs: Inputs) -> Finding | None:
    """Return a finding if the head has masks and the task has none, or the reverse (SEG-IN-1)."""
    task, masks = TASKS.get(inputs.content.task), inputs.content.head.masks
    if task is None or (masks is not None) == task.has_masks:
        return None
    expected = "the height and width of the true masks, such as (160, 160)" if task.has_masks else "None"
    return _unexpected("masks", "SEG-IN-1", masks, task, expected)


def _unexpected(name: str, clause: str, found: object, task: Task, expected: str) -> Finding:
    """Return the finding that an attribute of the head does not fit the task."""
    sentence = f"head.{name} is {found!r}: task {task.name!r} expects {expected}"
    return Finding(f"{name} of the head", clause, Severity.RAISES, sentence, 1, 1, "heads")


def fields_of(inputs: Inputs, level: str = "") -> dict[str, slice]:
    """Return the channels of every head field in the feature maps of the levels, by the field's name.

    `level` is the name of a feature map; the map of a field of the whole image has that field alone.
    """
    head, start = inputs.content.head, 0
    slices = {}
    for field in TASKS[inputs.content.task].fields:
        if field.place == "image":
            if field.quantity == level:
                return {field.quantity: slice(0, field.width(head))}
            continue
        slices[field.quantity] = slice(start, start + field.width(head))
        start += field.width(head)
    return slices


def _not_finite(inputs: Inputs) -> Finding | None:
    """Return a finding about predictions that are not finite, with level, channels and step (NONFINITE-2)."""
    wrong = [~level.isfinite() for level in inputs.maps]  # (B, channels, H, W) each
    count = sum(int(mask.sum()) for mask in wrong)
    if not count:
        return None
    total = sum(mask.numel() for mask in wrong)
    parts = [
        f"{int(mask[:, channels].sum()):,} of the {quantity} at {level} ({_channels(mask, channels)})"
        for level, mask in zip(inputs.levels, wrong, strict=True)
        for quantity, channels in fields_of(inputs, level).items()
        if bool(mask[:, channels].any())
    ]
    step = inputs.circumstances.step
    since = f", at step {step}" if step is not None else ""
    sentence = (
        f"{count:,} predictions are NaN or infinite{since}: {'; '.join(parts)}. The loss only passes them on: "
        "the cause is before the loss (weights, learning rate, overflow of 16 bits, or the images)"
    )
    return Finding(
        "prediction not finite", "NONFINITE-2", Severity.NOT_FINITE, sentence, count, total, "predictions"
    )


def _channels(mask: Tensor, channels: slice) -> str:
    """Return the affected channels of a mask (B, channels, H, W) in words."""
    found = mask[:, channels].any(dim=3).any(dim=2).any(dim=0).nonzero().flatten().tolist()
    first, last = found[0] + channels.start, found[-1] + channels.start
    if len(found) == 1:
        return f"channel {first}"
    return f"{len(found)} channels, {first} to {last}"


def saturation(dtype: torch.dtype) -> float:
    """Return the smallest logit whose sigmoid is exactly 1 in a dtype, found by bisection over its values.

    There the gradient of the sigmoid is zero: scores of such logits no longer rank anchors (TAL-MET-1).
    """
    low, high = 0.0, 64.0  # the sigmoid of 64 is 1 in every dtype
    for _ in range(64):
        middle = (low + high) / 2
        is_one = bool(torch.tensor(middle, dtype=dtype).sigmoid() == 1)
        low, high = (low, middle) if is_one else (middle, high)
    return high


def _saturated(inputs: Inputs) -> Finding | None:
    """Return a remark about class logits whose score is exactly 1 in their dtype (TAL-MET-1)."""
    channels = fields_of(inputs)["class logits"]
    dtype = inputs.maps[0].dtype
    limit = saturation(dtype)
    of_levels = inputs.maps[: len(inputs.maps) - len(inputs.image_maps)]
    logits = [level[:, channels] for level in of_levels]
    count = sum(int((level.isfinite() & (level.double() >= limit)).sum()) for level in logits)
    if not count:
        return None
    total, precision = sum(level.numel() for level in logits), str(dtype).removeprefix("torch.")
    sentence = (
        f"{count:,} class logits are {limit:.4g} or more, where the score (sigmoid) is exactly 1 in "
        f"{precision}: such anchors have equal scores, so that the overlap alone ranks them. {limit:.4g} "
        f"is the smallest logit that {precision} rounds so"
    )
    return Finding("saturated logits", "TAL-MET-1", Severity.REMARK, sentence, count, total, "class logits")
