"""Hypothesis strategies of heads, hyperparameters and logits that clauses allow, but no official model has."""

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.detection import CELLS, recipes
from tal_reference import Hyperparameters

STRIDES = (
    *((8, 32), (16, 8), (4, 16, 64), (32, 8, 16), (8, 24), (10, 30), (3, 7), (64, 128), (128,), (16,)),
    *((8, 16, 32, 64, 128), (2, 4, 8, 16, 32, 64)),
)
"""Strides that do not double, that do not ascend, up to 128 pixels, of one to six levels."""
BINS = (16, 3, 5, 7, 17, 20, 33, 1)
"""Numbers of bins that are not powers of two, beside 16 and 1."""
CLASSES = (1, 2, 7, 20, 127, 128, 129, 200, 256, 257, 300, 365)
"""Numbers of classes around 127 and 255, the largest that 8 bits hold, and that of Objects365."""
LARGE_K = (10, 2, 3, 14, 17, 20, 31, 32, 33, 40, 40)

UNEVEN_NUMBERS: SearchStrategy[Hyperparameters] = st.builds(
    Hyperparameters,
    topk=st.sampled_from(LARGE_K),
    box_gain=st.sampled_from((7.5, 7.37, 0.013, 70_000.0, 3e-8, 0.0)),
    cls_gain=st.sampled_from((0.5, 0.57, 3.1, 0.0)),
    dfl_gain=st.sampled_from((1.5, 1.43, 0.11, 0.0)),
)
"""Any k, and gains that float16 rounds, does not reach or takes for zero, and zero."""

UNEVEN_EXPONENTS: SearchStrategy[Hyperparameters] = st.builds(
    Hyperparameters,
    topk=st.sampled_from(LARGE_K),
    alpha=st.sampled_from((0.5, 0.3, 0.7, 1.37, 2.45, 0.05)),
    beta=st.sampled_from((6.0, 5.3, 6.6, 2.2, 0.7, 7.9)),
)
"""Exponents that are not multiples of 1/2, for assigners alone: TAL-MET-1 fixes those of the detection loss."""

heads: SearchStrategy[Recipe] = recipes(
    strides=STRIDES, bins=BINS, classes=CLASSES, hyperparameters=UNEVEN_NUMBERS, max_images=3
)
uneven_exponents: SearchStrategy[Recipe] = recipes(
    strides=STRIDES, bins=BINS, hyperparameters=UNEVEN_EXPONENTS
)

SPECIAL = ("offset", "offset", "extreme")
trained_logits: SearchStrategy[Recipe] = st.one_of(
    recipes(predictions=SPECIAL),
    recipes(predictions=SPECIAL, bins=(16, 16, 17, 20, 2)),
    recipes(
        predictions=(*SPECIAL, "near"),
        strides=((32,), (32, 64), (64, 128)),
        cells=(*CELLS[:2], (20, 20), (20, 40), (40, 20), (40, 40)),
        bins=(16, 16, 4),
        max_images=1,
    ),
)
"""Logits that nothing limits in training, and inputs of 1,280 px and more."""
