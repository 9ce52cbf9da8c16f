"""Hypothesis strategies of recipes. Tests draw a recipe and build its batch, so that a failure prints one line.

Hypothesis draws structure, hazards and a seed for the predictions: drawing every float would be too slow, and random
floats alone never tie. Choices are listed from simple to complicated, because Hypothesis shrinks towards the first:
no ground truth, one level of 4 x 4 cells, one class, 16 bins, random predictions, seed 0.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tal_conformance.batches.content.predictions import PREDICTION_KINDS, Copy
from tal_conformance.batches.content.truths import COMMON_KINDS, ManyTruths, Truth
from tal_conformance.batches.recipe import Recipe, grids
from tal_conformance.core.geometry import Grid
from tal_reference import Hyperparameters

T = TypeVar("T")

STRIDES = ((8,), (8, 16), *((8, 16, 32),) * 5, (4, 8, 16), (16, 32), (8, 16, 32, 64), (12, 24), (32,), (1, 2))
"""Strides of the levels; the usual strides more often."""
CELLS = (
    *((4, 4), (2, 5), (3, 4), (4, 6), (6, 4), (5, 5), (8, 4), (4, 8), (7, 5), (1, 12), (16, 3)),
    *((8, 8), (8, 8), (8, 8), (8, 8), (8, 8), (8, 12), (10, 9), (9, 12), (12, 8), (11, 13)),
)
"""Rows and columns of the first level, including odd numbers and unequal sides."""
CLASSES = (1, 2, 3, 4, 5, 2, 3, 80)
"""Number of classes; 80 rarely, because it makes batches large."""
BINS = (16, 16, 16, 16, 16, 8, 4, 2, 32, 1)
"""Number of bins R: 16 in every released model of the v8 family, 1 in heads without DFL."""
CALM = ("ordinary", "off_lattice", "huge")
"""Kinds of ground truth in two of five batches, at most three an image: most choices are then unique."""
REPEATS = {"ordinary": 6, "off_lattice": 3, "aligned": 2, "mirrored": 2, "other_class": 2}
"""Frequency of kinds of ground truth, relative to the other kinds."""
SPECIAL_PREDICTIONS = ("close", "offset", "extreme")
"""Kinds of predictions for batches that name them: boxes are small, or logits are large."""
PREDICTIONS = (
    *(name for name in PREDICTION_KINDS if name not in SPECIAL_PREDICTIONS),
    *("random", "near", "near", "exact_hit"),
)
"""Kinds of predictions of other batches."""
ADJUSTABLE = ("random", "near", "exact_hit", "between")
"""Kinds of predictions that may be quantised or have copies planted; the other kinds have ties anyway."""
LEVELS = (None, None, 1, 2, 4)
"""Quantisation of adjustable predictions."""
RANKS = ((9, 10), (9, 10), (8, 11), (2, 12), (0, 9))
"""Source and target ranks of planted copies for k = 10; the first is the tie at the k-th place."""
SEEDS = st.integers(0, 2**16 - 1)
IMAGES = 4
"""Largest number of images in a batch."""

TIED = ("ordinary", "aligned", "huge")
TIED_PREDICTIONS = ("near", "exact_hit", "exact_hit", "between", "saturated", "constant")
SMALL = ("tiny", "small", "thin", "zero_area")
CROWDED = ("huge", "nested", "mirrored", "identical", "other_class", "overlapping")
OUTSIDE = ("on_border", "partly_outside", "beyond_bottom_right", "beyond_top_left")


@st.composite
def recipes(
    draw: DrawFn,
    *,
    ties: bool = False,
    small_boxes: bool = False,
    contested: bool = False,
    outside: bool = False,
    shuffled_rows: bool = False,
    kinds: Sequence[str] | None = None,
    predictions: Sequence[str] | None = None,
    strides: Sequence[tuple[int, ...]] = STRIDES,
    cells: Sequence[Grid] = CELLS,
    classes: Sequence[int] = CLASSES,
    bins: Sequence[int] = BINS,
    max_images: int = IMAGES,
    max_truths: int = 8,
    hyperparameters: SearchStrategy[Hyperparameters] | None = None,
) -> Recipe:
    """Draw a recipe of any kind of batch; the arguments make some properties frequent and exclude none.

    Args:
        draw: Hypothesis' function that draws from a strategy.
        ties: all predictions are quantised and have planted copies.
        small_boxes: half of the ground truths have a side that TAL-CAND-2 may widen.
        contested: half of the ground truths lie on the previous one; the first image has at least two.
        outside: half of the ground truths touch or cross the border.
        shuffled_rows: also draw annotation rows out of order, which not every release accepts.
        kinds: the kinds of ground truths to draw, from simple to complicated; None: all.
        predictions: the kinds of predictions to draw, from simple to complicated; None: all.
        strides: strides of the levels to choose from.
        cells: rows and columns of the first level to choose from.
        classes: numbers of classes to choose from.
        bins: numbers of bins to choose from.
        max_images: largest number of images.
        max_truths: largest number of ground truths in an image.
        hyperparameters: strategy of hyperparameters; None: the defaults of the loss. Grids have at least `topk` and
            `topk2` anchors.
    """
    settings = Hyperparameters() if hyperparameters is None else draw(hyperparameters)
    levels = draw(_one_of(tuple(strides)))
    first = draw(_cells(tuple(cells), levels, max(settings.topk, settings.effective_topk2 or 0)))
    count = draw(_one_of(tuple(classes)))
    emphasised = ties * TIED + small_boxes * SMALL + contested * CROWDED + outside * OUTSIDE
    if kinds is None and not emphasised and draw(_one_of((True, True, False, False, False))):
        kinds, max_truths = CALM, min(max_truths, 3)
    truth = _truths(_emphasis(emphasised) if kinds is None else tuple(kinds), count)
    images = draw(_images(truth, (max_images, max_truths), 2 if contested else 0, ties))
    bin_count = draw(_one_of(tuple(bins)))
    kind = draw(_one_of(tuple(predictions or (TIED_PREDICTIONS if ties else PREDICTIONS))))
    # drawn in any case: Hypothesis considers an example with fewer draws simpler
    quantisation = draw(_one_of((1, 2, 4) if ties else LEVELS))
    adjustable, streams = kind in ADJUSTABLE, tuple(image.stream for image in images)
    return Recipe(
        images=tuple(image.truths for image in images),
        cells=first,
        strides=levels,
        classes=count,
        reg_max=bin_count,
        predictions=kind,
        levels=quantisation if adjustable else None,
        copies=_copies(images, settings.topk) if adjustable else (),
        shuffled=shuffled_rows and draw(st.booleans()),
        seed=draw(SEEDS),
        streams=() if streams == tuple(range(len(streams))) else streams,
        hyperparameters=settings,
    )


def training_size(
    images: int = 16,
    cells: int = 80,
    most: int = 300,
    classes: int = 80,
    kinds: tuple[str, ...] = (),
    predictions: Sequence[str] = PREDICTIONS,
) -> SearchStrategy[Recipe]:
    """Return a strategy of recipes of the size of training: 16 images of 640 x 640 pixels with many ground truths.

    Args:
        images: number of images B.
        cells: rows and columns of the first level, whose stride is 8.
        most: largest number of ground truths in an image.
        classes: number of classes C.
        kinds: kinds of ground truths; empty: all common kinds.
        predictions: kinds of predictions.
    """
    number = st.integers(0, most).map(lambda fewer: most - fewer)  # shrinks towards the largest number
    crowd = st.builds(ManyTruths, number, SEEDS, st.just(classes), st.just(kinds))
    return st.builds(
        Recipe,
        images=st.lists(crowd, min_size=images, max_size=images).map(tuple),
        cells=st.just((cells, cells)),
        strides=st.just((8, 16, 32)),
        classes=st.just(classes),
        predictions=st.sampled_from(tuple(dict.fromkeys(predictions))),
        seed=SEEDS,
    )


@lru_cache(maxsize=256)
def _one_of(choices: tuple[T, ...]) -> SearchStrategy[T]:
    return st.sampled_from(choices)


@lru_cache(maxsize=256)
def _cells(choices: tuple[Grid, ...], strides: tuple[int, ...], least: int) -> SearchStrategy[Grid]:
    """Return a strategy of the first level's grid: the `choices` that give at least `least` anchors with `strides`.

    A ground truth cannot select more anchors than there are (TAL-TOPK-2).
    """
    enough = [cells for cells in choices if sum(h * w for h, w in grids(cells, strides)) >= least]
    return st.sampled_from(enough)


@lru_cache(maxsize=256)
def _emphasis(emphasised: tuple[str, ...]) -> tuple[str, ...]:
    """Return the names of all kinds of ground truths, then repetitions of the emphasised kinds, about as many.

    Hypothesis draws from the result, and shrinks to the first kind, `ordinary`.
    """
    every = tuple(kind for kind in COMMON_KINDS for _ in range(REPEATS.get(kind, 1)))
    return every + emphasised * (len(every) // len(emphasised)) if emphasised else every


@lru_cache(maxsize=256)
def _truths(kinds: tuple[str, ...], classes: int) -> SearchStrategy[Truth]:
    digits = st.integers(0, classes * 16**4 - 1)
    return st.tuples(st.sampled_from(kinds), digits).map(_truth)


def _truth(drawn: tuple[str, int]) -> Truth:
    """Return the ground truth for a kind and a number that Hypothesis drew; the number encodes class and four digits.

    Hypothesis draws one number instead of five, and shrinks it digit by digit.
    """
    kind, number = drawn
    x, y, width, height = (number >> shift & 15 for shift in (0, 4, 8, 12))
    return Truth(kind, number >> 16, (x, y), (width, height))


class Image(NamedTuple):
    """All random choices for one image, kept together so that Hypothesis can remove an image without changing others.

    Attributes:
        truths: ground truths of the image.
        stream: index of the image's stream of random numbers.
        copied: ranks of the source and of the target of a planted copy, an item of `RANKS`; None: no copy.
        truth: index of the ground truth whose candidates are copied; the last ground truth if there are fewer.
    """

    truths: tuple[Truth, ...]
    stream: int
    copied: tuple[int, int] | None
    truth: int


def _image(drawn: tuple[int, list[Truth]]) -> Image:
    """Return the image for a number and ground truths that Hypothesis drew.

    The number encodes the stream (8 bits), the ground truth of a planted copy (3 bits), and the copy's ranks.
    """
    number, truths = drawn
    stream, truth, ranks = number & 255, number >> 8 & 7, (number >> 11) - NO_COPY
    return Image(tuple(truths), stream, RANKS[ranks] if ranks >= 0 else None, truth)


NO_COPY = 15
"""Of twenty numbers the first fifteen stand for no copy, the others for one of `RANKS`: a copy in one image of four."""


@lru_cache(maxsize=256)
def _images(
    truth: SearchStrategy[Truth], most: tuple[int, int], first_has: int, copied: bool
) -> SearchStrategy[list[Image]]:
    """Return a strategy of the images of a batch.

    Args:
        truth: strategy of ground truths.
        most: largest number of images, and of ground truths in an image.
        first_has: least number of ground truths in the first image.
        copied: True to plant a copy in every image.
    """
    images, truths = most
    number = st.integers((NO_COPY << 11) * copied, (NO_COPY + len(RANKS) << 11) - 1)
    image = st.tuples(number, st.lists(truth, max_size=truths)).map(_image)
    if not first_has:
        return st.lists(image, min_size=1, max_size=images)
    first = st.tuples(number, st.lists(truth, min_size=first_has, max_size=truths)).map(_image)
    return st.tuples(first, st.lists(image, max_size=images - 1)).map(lambda drawn: [drawn[0], *drawn[1]])


def _copies(images: Sequence[Image], topk: int) -> tuple[Copy, ...]:
    """Return the ties to plant in the images, at and around the k-th place (k is `topk`).

    The ranks of each image are given for k = 10 and adapted to `topk`.
    """
    copies = []
    for index, image in enumerate(images):
        if image.copied and image.truths:
            source, target = (max(0, rank + topk - 10) for rank in image.copied)
            copies.append(Copy(index, min(image.truth, len(image.truths) - 1), source, target))
    return tuple(copies)
