"""Kinds of ground truths have the properties that their names promise, for all positions and sizes."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tal_conformance.batches.content.truths import KINDS, Box, Canvas, Truth, ordinary, resolve
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import CELLS, STRIDES
from tal_conformance.core.geometry import pixel_boxes

DIGITS = st.tuples(st.integers(0, 15), st.integers(0, 15))
CANVASES = st.builds(
    lambda strides, cells: Canvas(cells[1] * strides[0], cells[0] * strides[0], strides),
    st.sampled_from(STRIDES),
    st.sampled_from(CELLS),
)
quickly = settings(deadline=None, derandomize=True, database=None, max_examples=50)
NO_BOX = (0.0, 0.0, 0.0, 0.0)


def sides(box: Box) -> tuple[float, float]:
    return box[2] - box[0], box[3] - box[1]


def is_inside(box: Box, canvas: Canvas) -> bool:
    return box[0] >= 0 and box[1] >= 0 and box[2] <= canvas.width and box[3] <= canvas.height


def centres(canvas: Canvas, extent: int) -> set[float]:
    return {(cell + 0.5) * stride for stride in canvas.strides for cell in range(-1, extent // stride + 2)}


def is_on_centre(box: Box, canvas: Canvas) -> bool:
    across, down = centres(canvas, canvas.width), centres(canvas, canvas.height)
    return box[0] in across or box[2] in across or box[1] in down or box[3] in down


def is_near_centre(box: Box, canvas: Canvas) -> bool:
    near = [
        abs(edge - centre)
        for edge, extent in zip(box, (canvas.width, canvas.height) * 2, strict=True)
        for centre in centres(canvas, extent)
    ]
    return any(2**-12 <= distance <= 2**-9 for distance in near)


# For each kind: a function of (box, canvas, previous box) that returns True if the promised property holds.
PROMISES: dict[str, Callable[[Box, Canvas, Box], bool]] = {
    "ordinary": lambda box, canvas, _: is_inside(box, canvas) and min(sides(box)) >= canvas.stride * 0.75,
    "off_lattice": lambda box, canvas, _: is_inside(box, canvas) and min(sides(box)) > 0,
    "aligned": lambda box, canvas, _: (
        is_inside(box, canvas) and all(edge % canvas.stride == 0 for edge in box) and min(sides(box)) > 0
    ),
    "tiny": lambda box, canvas, _: is_inside(box, canvas) and 0 < max(sides(box)) < canvas.stride,
    "small": lambda box, canvas, _: canvas.stride <= min(sides(box)) and max(sides(box)) <= canvas.floor,
    "thin": lambda box, canvas, _: any(1 <= side <= 4 for side in sides(box)),
    "huge": lambda box, canvas, _: (
        sides(box)[0] >= canvas.width * 15 / 16 and sides(box)[1] >= canvas.height * 15 / 16
    ),
    "nested": lambda box, _, previous: (
        box[0] >= previous[0] and box[1] >= previous[1] and box[2] <= previous[2] and box[3] <= previous[3]
    ),
    "overlapping": lambda box, _, previous: (
        previous[0] < box[0] < previous[2] < box[2] and previous[1] < box[1] < previous[3] < box[3]
    ),
    "mirrored": lambda box, canvas, previous: (
        box[1::2] == previous[1::2]
        and sides(box) == sides(previous)
        and (box[0] + previous[2]) / 2 in centres(canvas, canvas.width)
        and (box[2] + previous[0]) / 2 in centres(canvas, canvas.width)
    ),
    "identical": lambda box, _, previous: box == previous,
    "other_class": lambda box, _, previous: box == previous,
    "touching": lambda box, _, previous: (
        (box[0] == previous[2] and box[1] == previous[1]) or (box[1] == previous[3] and box[0] == previous[0])
    ),
    "edge_on_centre": lambda box, canvas, _: is_on_centre(box, canvas) and min(sides(box)) > 0,
    "on_border": lambda box, canvas, _: (
        is_inside(box, canvas) and (0 in box or box[2] == canvas.width or box[3] == canvas.height)
    ),
    "partly_outside": lambda box, canvas, _: (
        not is_inside(box, canvas)
        and box[2] > 0 < box[3]
        and box[0] < canvas.width
        and box[1] < canvas.height
    ),
    "beyond_bottom_right": lambda box, canvas, _: box[0] >= canvas.width and box[1] >= canvas.height,
    "beyond_top_left": lambda box, _, __: sum(box) <= 0,
    "zero_area": lambda box, _, __: min(sides(box)) == 0,
    "edge_near_centre": lambda box, canvas, _: is_near_centre(box, canvas) and min(sides(box)) > 0,
    "few_cells": lambda box, canvas, _: is_inside(box, canvas) and max(sides(box)) <= 17 * canvas.stride,
}


def test_every_kind_promises_something():
    assert set(PROMISES) == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
@quickly
@given(canvas=CANVASES, at=DIGITS, size=DIGITS, previous_at=DIGITS, previous_size=DIGITS)
def test_kind_keeps_its_promise(
    kind: str,
    canvas: Canvas,
    at: tuple[int, int],
    size: tuple[int, int],
    previous_at: tuple[int, int],
    previous_size: tuple[int, int],
):
    previous = ordinary(canvas, Truth("ordinary", 0, previous_at, previous_size), NO_BOX)
    box = KINDS[kind](canvas, Truth(kind, 0, at, size), previous)
    assert box[0] <= box[2]
    assert box[1] <= box[3]
    assert PROMISES[kind](box, canvas, previous), (box, canvas, previous)


def has_two_bits(number: int) -> bool:
    return number.bit_count() <= 2


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"off_lattice"}))
@quickly
@given(canvas=CANVASES, at=DIGITS, size=DIGITS)
def test_pixels_survive_normalisation_to_the_last_bit(
    kind: str, canvas: Canvas, at: tuple[int, int], size: tuple[int, int]
):
    """ANN-1: normalising a box and back is exact in float32 if both sides of the input are 2^i or 2^i + 2^j pixels."""
    cells = canvas.height // canvas.stride, canvas.width // canvas.stride
    recipe = Recipe(((Truth("ordinary"), Truth(kind, 0, at, size)),), cells, canvas.strides)
    batch = recipe.build()
    expected = torch.tensor([box for _, box in resolve(recipe.images[0], canvas, 1)], dtype=torch.float64)
    found = pixel_boxes(batch.annotations, batch.size).double()
    if has_two_bits(canvas.width) and has_two_bits(canvas.height):
        assert torch.equal(found, expected)


def test_most_inputs_are_exact():
    """At least 70 % of the generated inputs have sides of 2^i or 2^i + 2^j pixels, on which boxes are not rounded."""
    exact = [
        all(has_two_bits(count * strides[0]) for count in cells) for cells in CELLS for strides in STRIDES
    ]
    assert sum(exact) >= 0.7 * len(exact)


def test_sizes_of_three_bits_do_round():
    """Some multiples of 1/64 px are rounded on an input of 56 px (three powers of two), but none on one of 48 px."""
    lattice = torch.arange(1, 56 * 64, dtype=torch.float32) / 64
    assert not torch.equal((lattice / 56) * 56, lattice)
    assert torch.equal((lattice / 48) * 48, lattice)


def test_labels():
    """A ground truth `identical` has the class of the previous ground truth, and `other_class` another class."""
    canvas = Canvas(64, 64, (8,))
    truths = [Truth("ordinary", 2), Truth("identical", 0), Truth("other_class", 1), Truth("ordinary", 1)]
    assert [label for label, _ in resolve(truths, canvas, 3)] == [2, 2, 0, 1]


def test_the_first_ground_truth_has_an_ordinary_box_before_it():
    canvas = Canvas(64, 64, (8,))
    assert resolve([Truth("identical")], canvas, 1) == resolve([Truth("ordinary")], canvas, 1)


@pytest.mark.parametrize(
    ("truth", "message"),
    [
        (Truth("round"), "unknown kind of ground truth 'round'.*ordinary, "),
        (Truth("tiny", 3), r"Truth\('tiny', label=3\) has the label 3, expected 0 to 2"),
        (Truth("tiny", -1), "has the label -1, expected 0 to 2"),
    ],
)
def test_an_unknown_kind_or_label_is_rejected(truth: Truth, message: str):
    with pytest.raises(ValueError, match=message):
        Recipe(images=((truth,),), classes=3).build()
