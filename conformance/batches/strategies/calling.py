"""Batches for checks that call an implementation in unusual ways or several times in a row.

Even the simplest of these batches exercises every part of the loss.
"""

from dataclasses import replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.task import OBB

IMAGES = (
    ((Truth("ordinary"), Truth("huge", 1)), (Truth("ordinary", 1, (5, 3)),)),
    (
        (Truth("huge", 1), Truth("identical"), Truth("tiny")),
        (Truth("off_lattice", 1, (3, 9), (4, 7)), Truth("ordinary")),
    ),
    ((Truth("ordinary", 0, (2, 2), (9, 5)),), (Truth("huge", 1), Truth("ordinary"))),
)
"""Ground truths of two images each: of two classes, in different numbers, with contested anchors."""
TURNS = (1, 4, 6)
"""Digits of the angles 0.3, 1.1 and -0.7: a turned box of every image differs from an upright one in every term."""

CALLED: SearchStrategy[Recipe] = st.builds(
    Recipe,
    images=st.sampled_from(IMAGES),
    cells=st.sampled_from(((4, 6), (6, 5), (3, 8))),
    strides=st.sampled_from(((8, 16), (8, 16, 32), (4, 8))),
    classes=st.sampled_from((2, 3, 5)),
    reg_max=st.sampled_from((16, 4)),
    predictions=st.sampled_from(("near", "random")),
    seed=st.integers(0, 255),
)
"""Two images on grids of unequal sides, with two or three levels. Structure is drawn from short lists, because a single
batch must show what a way of calling changes: the gating profile draws few of them."""


def with_turns(recipe: Recipe) -> Recipe:
    """Return the recipe of a batch of rotated boxes, whose images have ground truths of different angles."""
    images = tuple(
        tuple(
            replace(truth, turn=TURNS[(image + number) % len(TURNS)]) for number, truth in enumerate(truths)
        )
        for image, truths in enumerate(recipe.images)
    )
    return replace(recipe, images=images, task=OBB.name)


CALLED_TURNED = st.builds(with_turns, CALLED)
"""As `CALLED`, for rotated boxes."""
