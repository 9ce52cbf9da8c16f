"""What Hypothesis draws: recipes. Tests draw the recipe and build it, so that a failure prints one line.

Structure and hazards are drawn, and a seed that fills the bulk: drawing every float would be too slow, and
a seed alone never meets a tie. Everything is listed from simple to complicated, because Hypothesis shrinks
towards what comes first: no ground truth, one level of 4 x 4 cells, one class, 16 bins, random predictions,
seed 0.
"""

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple, TypeVar

from hypothesis import strategies as st
from hypothesis.strategies import DrawFn, SearchStrategy

from tal_conformance.batches.predictions import REGIMES, Copy
from tal_conformance.batches.recipe import Recipe, grids
from tal_conformance.batches.truths import KINDS, ManyTruths, Truth
from tal_conformance.core.geometry import Grid
from tal_reference import Hyperparameters

T = TypeVar("T")

STRIDES = ((8,), (8, 16), *((8, 16, 32),) * 5, (4, 8, 16), (16, 32), (8, 16, 32, 64), (12, 24), (32,), (1, 2))
"""Strides of the levels; the usual ones more often."""
CELLS = (
    *((4, 4), (2, 5), (3, 4), (4, 6), (6, 4), (5, 5), (8, 4), (4, 8), (7, 5), (1, 12), (16, 3)),
    *((8, 8), (8, 8), (8, 8), (8, 8), (8, 8), (8, 12), (10, 9), (9, 12), (12, 8), (11, 13)),
)
"""Rows and columns of the first level, also odd numbers and uneven sides."""
CLASSES = (1, 2, 3, 4, 5, 2, 3, 80)
"""Number of classes; 80 seldom, because it makes batches large."""
BINS = (16, 16, 16, 16, 16, 8, 4, 2, 32, 1)
"""Number of bins R; 16 is what every released model of the v8 family has, 1 what heads without DFL have."""
CALM = ("ordinary", "off_lattice", "huge")
"""Kinds of ground truth in two of five batches, at most three an image: there, most choices are unique."""
REPEATS = {"ordinary": 6, "off_lattice": 3, "aligned": 2, "mirrored": 2, "other_class": 2}
"""Kinds of ground truth that are drawn so many times as often as every other."""
PREDICTIONS = (*(name for name in REGIMES if name != "close"), "random", "near", "near", "exact_hit")
"""Regimes of predictions; what is close to small boxes is drawn where boxes are small."""
ADJUSTABLE = ("random", "near", "exact_hit", "between")
"""Regimes of predictions that are quantised or have copies planted; in the others ties come by themselves."""
LEVELS = (None, None, 1, 2, 4)
"""Quantisation of adjustable predictions."""
RANKS = ((9, 10), (9, 10), (8, 11), (2, 12), (0, 9))
"""Source and target of planted copies, where k is 10; the first is the tie at the k-th place."""
SEEDS = st.integers(0, 2**16 - 1)
IMAGES = 4
"""Images of a batch, at most."""

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
    """Recipes of batches of all kinds, with the emphasis asked for; every hazard stays possible.

    Args:
        draw: given by Hypothesis.
        ties: quantised predictions and planted copies throughout.
        small_boxes: half of the ground truths have a side that TAL-CAND-2 may widen.
        contested: half of the ground truths lie on the one before them; the first image has two at least.
        outside: half of the ground truths touch or cross the border.
        shuffled_rows: draw annotation rows out of order too, which not every release accepts.
        kinds: draw these kinds of ground truths only, in this order of simplicity.
        predictions: draw these regimes only, in this order of simplicity.
        strides: draw one of these.
        cells: draw one of these, rows and columns of the first level.
        classes: draw one of these.
        bins: draw one of these.
        max_images: at most so many images.
        max_truths: at most so many ground truths an image.
        hyperparameters: strategy of them; by default those of the loss. Grids have `topk` and `topk2` anchors at least.
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
    regime = draw(_one_of(tuple(predictions or (TIED_PREDICTIONS if ties else PREDICTIONS))))
    quantisation = draw(
        _one_of((1, 2, 4) if ties else LEVELS)
    )  # in any case: fewer draws would count as simpler
    adjustable, streams = regime in ADJUSTABLE, tuple(image.stream for image in images)
    return Recipe(
        images=tuple(image.truths for image in images),
        cells=first,
        strides=levels,
        classes=count,
        reg_max=bin_count,
        predictions=regime,
        levels=quantisation if adjustable else None,
        copies=_copies(images, settings.topk) if adjustable else (),
        shuffled=shuffled_rows and draw(st.booleans()),
        seed=draw(SEEDS),
        streams=() if streams == tuple(range(len(streams))) else streams,
        hyperparameters=settings,
    )


def training_size(
    images: int = 16, cells: int = 80, most: int = 300, classes: int = 80
) -> SearchStrategy[Recipe]:
    """Recipes at the size of training: 16 images of 640 x 640 pixels, each with up to 300 ground truths of all kinds.

    Args:
        images: B.
        cells: rows and columns of the first level, whose stride is 8.
        most: ground truths an image, at most.
        classes: C.
    """
    number = st.integers(0, most).map(lambda fewer: most - fewer)  # what is drawn first is the whole size
    crowd = st.builds(ManyTruths, number, SEEDS, st.just(classes))
    return st.builds(
        Recipe,
        images=st.lists(crowd, min_size=images, max_size=images).map(tuple),
        cells=st.just((cells, cells)),
        strides=st.just((8, 16, 32)),
        classes=st.just(classes),
        predictions=st.sampled_from(tuple(dict.fromkeys(PREDICTIONS))),
        seed=SEEDS,
    )


@lru_cache(maxsize=256)
def _one_of(choices: tuple[T, ...]) -> SearchStrategy[T]:
    return st.sampled_from(choices)


@lru_cache(maxsize=256)
def _cells(choices: tuple[Grid, ...], strides: tuple[int, ...], least: int) -> SearchStrategy[Grid]:
    """First grids with which there are at least so many anchors (TAL-TOPK-2)."""
    enough = [cells for cells in choices if sum(h * w for h, w in grids(cells, strides)) >= least]
    return st.sampled_from(enough)


@lru_cache(maxsize=256)
def _emphasis(emphasised: tuple[str, ...]) -> tuple[str, ...]:
    """All kinds, the ordinary one first, with about as many of the emphasised ones as of all together."""
    every = tuple(kind for kind in KINDS for _ in range(REPEATS.get(kind, 1)))
    return every + emphasised * (len(every) // len(emphasised)) if emphasised else every


@lru_cache(maxsize=256)
def _truths(kinds: tuple[str, ...], classes: int) -> SearchStrategy[Truth]:
    digits = st.integers(0, classes * 16**4 - 1)
    return st.tuples(st.sampled_from(kinds), digits).map(_truth)


def _truth(drawn: tuple[str, int]) -> Truth:
    """One number holds the class and four digits: one draw instead of five, and it shrinks digit by digit."""
    kind, number = drawn
    x, y, width, height = (number >> shift & 15 for shift in (0, 4, 8, 12))
    return Truth(kind, number >> 16, (x, y), (width, height))


class Image(NamedTuple):
    """One image as it is drawn: all that belongs to it, so that it can be taken away without harm to the others.

    Attributes:
        truths: its ground truths.
        stream: of random numbers.
        copied: which of `RANKS` to plant a copy of; None: no copy.
        truth: the ground truth that the copy is for, or the last one if there are fewer.
    """

    truths: tuple[Truth, ...]
    stream: int
    copied: tuple[int, int] | None
    truth: int


def _image(drawn: tuple[int, list[Truth]]) -> Image:
    """One number holds the stream (8 bits), the truth of a copy (3 bits) and its ranks, if any."""
    number, truths = drawn
    stream, truth, ranks = number & 255, number >> 8 & 7, (number >> 11) - NO_COPY
    return Image(tuple(truths), stream, RANKS[ranks] if ranks >= 0 else None, truth)


NO_COPY = 15
"""Three in four images have no copy: of twenty numbers the first fifteen, the others choose one of `RANKS`."""


@lru_cache(maxsize=256)
def _images(
    truth: SearchStrategy[Truth], most: tuple[int, int], first_has: int, copied: bool
) -> SearchStrategy[list[Image]]:
    """At most `most` images and ground truths an image, at least `first_has` in the first one; all `copied`."""
    images, truths = most
    number = st.integers((NO_COPY << 11) * copied, (NO_COPY + len(RANKS) << 11) - 1)
    image = st.tuples(number, st.lists(truth, max_size=truths)).map(_image)
    if not first_has:
        return st.lists(image, min_size=1, max_size=images)
    first = st.tuples(number, st.lists(truth, min_size=first_has, max_size=truths)).map(_image)
    return st.tuples(first, st.lists(image, max_size=images - 1)).map(lambda drawn: [drawn[0], *drawn[1]])


def _copies(images: Sequence[Image], topk: int) -> tuple[Copy, ...]:
    """The copies of the images' ground truths, about the k-th place."""
    copies = []
    for index, image in enumerate(images):
        if image.copied and image.truths:
            source, target = (max(0, rank + topk - 10) for rank in image.copied)
            copies.append(Copy(index, min(image.truth, len(image.truths) - 1), source, target))
    return tuple(copies)
