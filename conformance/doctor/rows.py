"""Findings on annotation rows: images, labels, order, numbers and readings of the four box columns (ANN-*)."""

from collections.abc import Callable

import torch
from torch import Tensor

from tal_conformance.doctor.finding import Finding, Severity
from tal_conformance.doctor.inputs import Inputs, listed

ROUNDING = 8 * 2.0**-24
"""Share of the input by which an edge that a data loader clips to the border may exceed it: eight roundings of float32.
Two are in the centre, two in the side, and as many again if letterboxing converts the row once more."""


def row_findings(inputs: Inputs) -> list[Finding]:
    """Return the findings on the annotation rows."""
    if not len(inputs.rows):
        return []
    found = [rule(inputs) for rule in RULES]
    return [finding for finding in found if finding is not None]


def outside_range(indices: Tensor, count: int) -> Tensor:
    """Return a mask (N,): True for finite `indices` (N,) that are not integers from 0 to `count` - 1 (ANN-1).

    The recorder counts with this function the rows that the findings name.
    """
    return indices.isfinite() & ((indices < 0) | (indices >= count) | (indices != indices.round()))


def falls(images: Tensor) -> Tensor:
    """Return a mask (N,): True for rows with a smaller image index than the row before; `images` is (N,) (ANN-1)."""
    mask = torch.zeros_like(images, dtype=torch.bool)
    mask[1:] = images[1:] < images[:-1]
    return mask


def _finding(
    inputs: Inputs,
    mask: Tensor,
    name: str,
    clause: str,
    severity: Severity,
    sentence: Callable[[str, bool], str],
) -> Finding | None:
    """Return a finding on the rows of a mask (N,), or None if the mask is empty.

    Args:
        inputs: the inputs.
        mask: (N,) bool: affected rows.
        name: name of the finding.
        clause: clause of the specification.
        severity: consequence.
        sentence: function that returns the sentence, given the affected rows in words, and True for a single row.
    """
    count = int(mask.sum())
    if not count:
        return None
    return Finding(name, clause, severity, sentence(listed(mask), count == 1), count, len(mask), "rows")


def _row_not_finite(inputs: Inputs) -> Finding | None:
    return _finding(
        inputs, ~inputs.finite, "row not finite", "ANN-1", Severity.NOT_FINITE,
        lambda rows, single: f"{rows} of the annotations {'contains' if single else 'contain'} NaN or an infinity; "
        "expected finite numbers",
    )  # fmt: skip


def _label_outside(inputs: Inputs) -> Finding | None:
    label = inputs.rows[:, 1]  # (N,)
    outside = outside_range(label, inputs.classes)
    if not outside.any():
        return None
    found = ", ".join(f"{value:g}" for value in sorted(set(label[outside].tolist()))[:3])
    raises = bool((label[outside] >= inputs.classes).any())
    consequence = (
        "official code raises an IndexError there, or ends a CUDA process with a device-side assert"
        if raises
        else "official code silently learns another class"
    )
    return _finding(
        inputs, outside, "label outside the head", "TAL-TGT-1",
        Severity.RAISES if raises else Severity.WRONG_FORM,
        lambda rows, single: f"{rows} of the annotations {'names' if single else 'name'} class {found}, but the head "
        f"has {inputs.classes} classes: expected an integer from 0 to {inputs.classes - 1}; {consequence}",
    )  # fmt: skip


def _image_outside(inputs: Inputs) -> Finding | None:
    image = inputs.rows[:, 0]  # (N,)
    outside = outside_range(image, inputs.images)
    if not outside.any():
        return None
    found = ", ".join(f"{value:g}" for value in sorted(set(image[outside].tolist()))[:3])
    return _finding(
        inputs, outside, "image outside the batch", "ANN-1", Severity.RAISES,
        lambda rows, single: f"{rows} of the annotations {'names' if single else 'name'} image {found} of a batch of "
        f"{inputs.images}: expected an integer from 0 to {inputs.images - 1}; Ultralytics raises an "
        "error from 8.4.25 on, and ignored such rows before",
    )  # fmt: skip


def _not_sorted(inputs: Inputs) -> Finding | None:
    consequence = (
        "Ultralytics from 8.4.25 on raises an error, or ignores a ground truth"
        if inputs.dialect.rows_sorted
        else f"{inputs.dialect.name} accepts that; Ultralytics from 8.4.25 on does not"
    )
    return _finding(
        inputs, falls(inputs.rows[:, 0]), "rows not sorted", "ANN-1",
        Severity.RAISES if inputs.dialect.rows_sorted else Severity.REMARK,
        lambda rows, _: f"the image index falls at {rows} of the annotations: expected rows sorted by image; "
        f"{consequence}",
    )  # fmt: skip


def _negative_side(inputs: Inputs) -> Finding | None:
    negative = inputs.finite & (inputs.rows[:, 4:6] < 0).any(1)
    return _finding(
        inputs, negative, "negative side", "ANN-1", Severity.WRONG_FORM,
        lambda rows, single: f"{rows} of the annotations {'has' if single else 'have'} a negative width or height, as "
        "differences of exchanged corners would: expected columns cx, cy, w, h with w and h above 0; the "
        "overlap with such a box is at most 0, and its weight is 0 (TAL-MET-1)",
    )  # fmt: skip


def _inside(boxes: Tensor) -> Tensor:
    """Return a mask (N,): True for boxes (N, 4), xyxy as shares of the input, with sides above 0 inside the input."""
    within = (boxes >= -ROUNDING).all(1) & (boxes <= 1 + ROUNDING).all(1)
    return within & (boxes[:, 2:] > boxes[:, :2]).all(1)


def _around(centres: Tensor, sides: Tensor) -> Tensor:
    return torch.cat((centres - sides / 2, centres + sides / 2), dim=1)


def _in_pixels(inputs: Inputs) -> Tensor:
    height, width = inputs.size
    scaled = inputs.rows[:, 2:6] / inputs.rows.new_tensor((width, height, width, height))
    return _around(scaled[:, :2], scaled[:, 2:])


def _corners_in_pixels(inputs: Inputs) -> Tensor:
    height, width = inputs.size
    return inputs.rows[:, 2:6] / inputs.rows.new_tensor((width, height, width, height))


def _corner_and_sides(inputs: Inputs) -> Tensor:
    corner, sides = inputs.rows[:, 2:4], inputs.rows[:, 4:6]
    return torch.cat((corner, corner + sides), dim=1)


READINGS: dict[str, Callable[[Inputs], Tensor]] = {
    "cx, cy, w, h in pixels": _in_pixels,
    "corners x1, y1, x2, y2 in pixels": _corners_in_pixels,
    "corners x1, y1, x2, y2": lambda inputs: inputs.rows[:, 2:6],
    "a top left corner with width and height": _corner_and_sides,
    "cx, cy, h, w": lambda inputs: _around(inputs.rows[:, 2:4], inputs.rows[:, [5, 4]]),
}
"""Other readings of the four box columns, and the boxes (N, 4), xyxy as shares of the input, that each would give."""
SMALLEST = 2.0
"""Shortest side in pixels of a box that a reading in pixels may give: the data loader of Ultralytics drops boxes with
shorter sides. Without it, normalised numbers read as pixels would be tiny boxes inside the image."""
MOST = 0.5
"""Share of boxes that must reach beyond the input before another reading of all rows is suggested. Boxes that a data
loader clips never reach beyond it, whereas rows in any of the other forms mostly do; where fewer do, the
loader may simply not clip, and the finding is about those boxes alone."""


def _plausible(name: str, boxes: Tensor, inputs: Inputs) -> bool:
    """Return True if a reading gives boxes (N, 4) inside the input, in pixels of sides that a loader keeps."""
    height, width = inputs.size
    sides = (boxes[:, 2:] - boxes[:, :2]) * boxes.new_tensor((width, height))  # (N, 2)
    return bool(_inside(boxes).all()) and ("pixels" not in name or bool((sides >= SMALLEST).all()))


def _misread(inputs: Inputs) -> Finding | None:
    """Return a finding if most boxes reach beyond the input, and another reading puts every box inside it."""
    rows = inputs.usable
    if not inputs.axis_aligned or not rows.any():
        return None
    beyond = rows & ~_inside(inputs.normalised) & (inputs.rows[:, 4:6] > 0).all(1)
    if int(beyond.sum()) <= MOST * int(rows.sum()):
        return None
    readings = [name for name, boxes in READINGS.items() if _plausible(name, boxes(inputs)[rows], inputs)]
    if not readings:
        return None
    pixels = "pixels" in readings[0]
    readings = [name for name in readings if ("pixels" in name) is pixels]
    return _finding(
        inputs, beyond, "rows in another form", "ANN-1", Severity.WRONG_FORM,
        lambda rows, single: f"{rows} of the annotations {'reaches' if single else 'reach'} beyond the image, and read "
        f"as {' or as '.join(readings)} every box lies inside it: expected columns cx, cy, w, h, "
        "normalised by the width and height of the input",
    )  # fmt: skip


def _wholly_outside(inputs: Inputs) -> Finding | None:
    box = inputs.normalised
    outside = inputs.usable & ((box[:, :2] >= 1) | (box[:, 2:] <= 0)).any(1)
    cause = (
        ", as rows in pixels of another image size do" if bool((inputs.rows[outside, 2:4] > 1).all()) else ""
    )
    return _finding(
        inputs, outside, "box outside the image", "ANN-1", Severity.NOT_LEARNT,
        lambda rows, single: f"the box{'' if single else 'es'} of {rows} of the annotations "
        f"{'lies' if single else 'lie'} wholly outside the image{cause}: {'it has' if single else 'they have'} no "
        "candidate (TAL-CAND-1), and boxes far enough beyond the top left corner are dropped (ANN-3)",
    )  # fmt: skip


def _partly_outside(inputs: Inputs) -> Finding | None:
    box = inputs.normalised
    beyond = ((box < -ROUNDING) | (box > 1 + ROUNDING)).any(1) & ((box[:, :2] < 1) & (box[:, 2:] > 0)).all(1)
    return _finding(
        inputs, inputs.usable & beyond, "box partly outside the image", "ANN-1", Severity.REMARK,
        lambda rows, single: f"the box{'' if single else 'es'} of {rows} of the annotations "
        f"{'reaches' if single else 'reach'} beyond the image; the data loader of Ultralytics clips such boxes",
    )  # fmt: skip


def _no_area(inputs: Inputs) -> Finding | None:
    empty = inputs.usable & (inputs.rows[:, 4:6] == 0).any(1)
    return _finding(
        inputs, empty, "box without area", "TAL-CAND-2", Severity.NOT_LEARNT,
        lambda rows, single: f"the box{'' if single else 'es'} of {rows} of the annotations "
        f"{'has' if single else 'have'} a side of 0: expected a width and height above 0; the "
        "overlap with such a box is at most 0, and its weight is 0 (TAL-MET-1)",
    )  # fmt: skip


RULES = (
    _row_not_finite,
    _label_outside,
    _image_outside,
    _not_sorted,
    _negative_side,
    _misread,
    _wholly_outside,
    _partly_outside,
    _no_area,
)
