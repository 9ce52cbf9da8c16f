"""Batches that are large in one dimension and tiny in the others, so that they cost little.

A counter, an index or a buffer overflows, and the remainder of a chunked loop gets lost, where one dimension is large.
Every function makes a recipe with a given size of one dimension. `CROSSINGS` holds sizes on both sides of every number
at which implementations break: 127 and 255 (8 bits), 1,024, 2,048 (the whole numbers of float16), 65,536, 2^24 (the
whole numbers of float32), and chunks of 64, 100, 128, 256, 300 and 1,000.
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.content.truths import ManyTruths, Truth
from tal_conformance.batches.recipe import Recipe, grids
from tal_conformance.batches.strategies.detection import SEEDS
from tal_conformance.core.geometry import Grid
from tal_reference import Hyperparameters

LAST = Truth("few_cells", 1, at=(15, 15), size=(1, 1))
"""A ground truth of three by three cells in the bottom right corner, where anchors have the largest indices."""
MIDDLE = Truth("few_cells", at=(7, 8), size=(3, 2))
SQUARE = 4.0
"""Largest ratio of the sides of an ordinary grid."""
LEVELS = ((8, 16), (8, 32), (8, 16, 32), (8,))
"""Strides to choose from for a given number of anchors; releases before 8.4.8 do not support one level."""
MOST_ANCHORS = 90_000


def truths(count: int, seed: int = 0, kinds: tuple[str, ...] = (), images: int = 1) -> Recipe:
    """Return a recipe of `images` images with `count` ground truths each; the first level has 8 x 8 cells."""
    crowds = tuple(ManyTruths(count, seed + image, 3, kinds) for image in range(images))
    return Recipe(crowds, (8, 8), (8, 16, 32), 3, predictions="near", seed=seed)


def clear_truths(count: int, seed: int = 1, images: int = 1) -> Recipe:
    """Return a recipe as `truths` does, but with large boxes and with predictions that are unrelated to them.

    With seed 1 no choice depends on two equal values, whatever the number of ground truths: the assignment is
    unique, and a loss that does not expose its assignment is judged by this assignment alone.
    """
    return replace(truths(count, seed, ("huge", "off_lattice"), images), predictions="random")


def claimants(count: int, seed: int = 0) -> Recipe:
    """Return a recipe of an image with ten anchors and `count` ground truths that select all of them (k = 10)."""
    crowd = ManyTruths(count, seed, 3, ("huge",))
    return Recipe((crowd,), (2, 4), (8, 16), 3, seed=seed)


def anchors(count: int, seed: int = 0) -> Recipe:
    """Return a recipe of an image with exactly `count` anchors.

    The last ground truth selects the last anchor, if it can. This ground truth has nine candidates on one level, and at
    most four on the others: k = 13 selects all of them.
    """
    cells, strides = grid_with(count)
    bins, numbers = 16 if count < 10_000 else 4, Hyperparameters(topk=13)
    return Recipe(((MIDDLE, LAST),), cells, strides, 2, bins, "near", seed=seed, hyperparameters=numbers)


def columns(count: int, seed: int = 0) -> Recipe:
    """Return a recipe of a wide image of 4 x `count` cells of 8 px, with ground truths at its right end.

    From 200 columns on there are 40 bins and a box of 50 cells or more: distances beyond 16 cells are predicted.
    """
    end = Truth("few_cells", at=(14, 4), size=(6, 2))
    wide = (Truth("ordinary", at=(4, 4)),) if count >= 200 else ()
    bins = 40 if wide else 16
    return Recipe(((MIDDLE, *wide, end, LAST),), (4, count), (8, 16, 32), 2, bins, "near", seed=seed)


def images(count: int, seed: int = 0) -> Recipe:
    """Return a recipe of `count` images of 20 anchors; two of eight images, and the last two, have ground truths."""
    filled, empty = (Truth("ordinary", 1, (3, 9), (4, 5)), Truth("huge")), ()
    full = [number % 8 in (0, 7) or number >= count - 2 for number in range(count)]
    return Recipe(
        tuple(filled if is_full else empty for is_full in full),
        (4, 4), (8, 16), 2, 4, "near", seed=seed, streams=tuple(number % 256 for number in range(count)),
    )  # fmt: skip


def classes(count: int, seed: int = 0) -> Recipe:
    """Return a recipe with `count` classes, of which ground truths have the last two and the middle one."""
    labelled = (
        Truth("ordinary", count - 1),
        Truth("huge", max(count - 2, 0)),
        Truth("few_cells", count // 2),
    )
    return Recipe((labelled,), (8, 8), (8, 16), count, predictions="near", seed=seed)


def positives(count: int, seed: int = 0) -> Recipe:
    """Return a recipe of an image whose only ground truth selects `count` anchors.

    The head has one bin (R = 1), because several bins cannot express such large distances.
    """
    cells, strides = grid_with(count + count // 3)
    numbers = Hyperparameters(topk=count)
    return Recipe(
        ((Truth("huge", size=(1, 1)),),), cells, strides, 1, 1, "close", seed=seed, hyperparameters=numbers
    )


def positives_of_images(count: int, each: int, seed: int = 0) -> Recipe:
    """Return a recipe of `count` images whose only ground truth selects `each` anchors.

    The oldest releases store an int64 for every ground truth, selected anchor and anchor of an image. With few anchors
    in each image, they cross 65,536 positives in less than 1 GB instead of 46 GB.
    """
    cells, strides = grid_with(each + each // 3)
    return Recipe(
        ((Truth("huge", size=(1, 1)),),) * count, cells, strides, 1, 1, "close", seed=seed,
        streams=tuple(number % 256 for number in range(count)), hyperparameters=Hyperparameters(topk=each),
    )  # fmt: skip


def candidates(count: int, seed: int = 0) -> Recipe:
    """Return a recipe of an image with 1,920 anchors, of which `count` ground truths contain nearly all."""
    return Recipe((ManyTruths(count, seed, 3, ("huge",)),), (32, 48), (8, 16), 3, seed=seed)


def positives_with_bins(count: int, seed: int = 0) -> Recipe:
    """Return a recipe of 60 x 60 cells with ten ground truths that select up to `count` anchors each."""
    grid = tuple(Truth("few_cells", at=(5 * (n % 4), 5 * (n // 4)), size=(13, 13)) for n in range(10))
    numbers = Hyperparameters(topk=count)
    return Recipe((grid,), (60, 60), (8, 16), 1, predictions="near", seed=seed, hyperparameters=numbers)


def logits(anchor_count: int, class_count: int, seed: int = 0) -> Recipe:
    """Return a recipe of an image with the given numbers of anchors and classes.

    The last anchors are assigned to a ground truth of the last class.
    """
    cells, strides = grid_with(anchor_count)
    last = Truth("few_cells", class_count - 1, at=(15, 15), size=(1, 1))
    other = Truth("few_cells", class_count - 2, at=(13, 15), size=(2, 1))
    return Recipe(((MIDDLE, other, last),), cells, strides, class_count, 2, "near", seed=seed)


@cache
def grid_with(count: int) -> tuple[Grid, tuple[int, ...]]:
    """Return rows and columns of the first level, and strides, that give exactly `count` anchors.

    The grid is almost square if possible; some numbers of anchors need a long grid or a single level.
    The centre of the last anchor lies inside the input, so that a ground truth can select it.

    Raises:
        ValueError: `count` is below 1.
    """
    if count < 1:
        raise ValueError(f"a grid needs at least one anchor, got {count}")
    found = [(cells, strides) for strides in LEVELS if (cells := _cells_with(count, strides)) is not None]
    square = next((grid for grid in found if grid[0][1] <= SQUARE * grid[0][0]), None)
    return square or found[0]


def _cells_with(count: int, strides: tuple[int, ...]) -> Grid | None:
    """Return the most nearly square rows and columns of the first level that give `count` anchors.

    There are at least as many columns as rows. The result is None if no grid has `count` anchors.
    """
    for rows in range(int(count**0.5), 0, -1):
        low, high = rows, count // rows  # the number of anchors grows with the columns
        while low < high:
            middle = (low + high) // 2
            low, high = (low, middle) if _anchors((rows, middle), strides) >= count else (middle + 1, high)
        if _anchors((rows, low), strides) == count and _reaches_last((rows, low), strides):
            return rows, low
    return None


def _reaches_last(cells: Grid, strides: tuple[int, ...]) -> bool:
    """Return True if the centre of the last level's last cell lies inside the input."""
    last = grids(cells, strides)[-1]
    return all(
        (number - 0.5) * strides[-1] < count * strides[0] for number, count in zip(last, cells, strict=True)
    )


def _anchors(cells: Grid, strides: tuple[int, ...]) -> int:
    return sum(rows * columns for rows, columns in grids(cells, strides))


CHUNKS = (64, 100, 128, 256, 300)
"""Sizes of chunks and buffers for ground truths and images; chunks of anchors may have 1,000."""


def around(*numbers: int) -> tuple[int, ...]:
    """Return number - 1, number and number + 1 for each of the numbers."""
    return tuple(number + step for number in numbers for step in (-1, 0, 1))


SIZES: tuple[tuple[Callable[[int], Recipe], tuple[int, ...]], ...] = (
    (classes, (*around(128, 256), 365, *around(1000), 1203)),
    (truths, (13, 33, *CHUNKS, 512, 601)),
    (clear_truths, (*(size + step for size in (*CHUNKS, 512) for step in (-1, 1)), 601)),
    (claimants, around(128, 256)),
    (anchors, (*around(*CHUNKS), *around(1000, 1024, 2048), 8400)),
    (columns, (160, 300)),
    (images, (9, 17, *around(64), 101, 129)),
    (positives, around(2048)),
    (positives_with_bins, (225,)),
    (anchors, (*around(65_536), MOST_ANCHORS)),
    (candidates, (60,)),
)
"""Sizes of each dimension, cheap batches first."""

CROSSINGS: tuple[Recipe, ...] = (
    *(make(size) for make, sizes in SIZES for size in sizes),
    clear_truths(601, images=4),
    images(257),
    positives_of_images(51, 1285),
    positives_of_images(58, 1130),
    logits(14_042, 1203),
)
"""A batch for every size at which an implementation may break, the smaller ones first."""

crossings: SearchStrategy[Recipe] = st.integers(0, len(CROSSINGS) - 1).map(CROSSINGS.__getitem__)
"""Draws every batch of `CROSSINGS` once before it ends. Shrinks to the first one that fails, if all later ones fail."""

MIXED_CROWDS = (
    (),
    ("huge", "overlapping"),
    ("identical", "huge"),
    ("tiny", "small", "thin"),
    ("nested", "other_class"),
)
"""Kinds of ground truths in crowds; () stands for all."""

long_batches: SearchStrategy[Recipe] = st.one_of(
    st.builds(clear_truths, st.integers(13, 600), SEEDS),
    st.builds(truths, st.integers(13, 600), SEEDS, st.sampled_from(MIXED_CROWDS)),
    st.builds(classes, st.integers(100, 1300), SEEDS),
    st.builds(anchors, st.integers(30, 4200), SEEDS),
    st.builds(columns, st.integers(100, 320), SEEDS),
    st.builds(images, st.integers(9, 66), SEEDS),
    st.builds(positives, st.integers(200, 3000), SEEDS),
    st.builds(anchors, st.integers(30_000, MOST_ANCHORS), SEEDS),
)
"""Draws batches of any size of one dimension, so that no list of sizes has to foresee the number that matters."""
