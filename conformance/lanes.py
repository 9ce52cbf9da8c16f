"""Lanes: what each test of the suite draws. Tests take their strategy here, and so does what proves their power."""

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from conformance.batches import Recipe, recipes
from reference import Hyperparameters

ONE_TO_ONE = st.sampled_from(
    [
        Hyperparameters(topk2=1),
        Hyperparameters(topk=7, topk2=1),
        Hyperparameters(topk2=3),
        Hyperparameters(topk=4, topk2=4),
    ]
)
"""Heads that keep few of their anchors: end-to-end heads of official models have topk 7 and topk2 1. Equal numbers keep
all (TAL-CONF-2)."""

LANES: dict[str, SearchStrategy[Recipe]] = {
    "decoding": recipes(bins=(16, 2, 4, 8, 32), predictions=("random", "saturated", "constant", "near")),
    "annotations": recipes(outside=True),
    "borders": recipes(kinds=("ordinary", "edge_on_centre", "on_border", "partly_outside")),
    "small_boxes": recipes(small_boxes=True),
    "metric": recipes(predictions=("near", "exact_hit", "random", "saturated")),
    "topk": recipes(ties=True),
    "conflict": recipes(contested=True),
    "topk2": recipes(contested=True, hyperparameters=ONE_TO_ONE),
    "targets": recipes(classes=(2, 3, 5, 80), predictions=("near", "random", "exact_hit")),
    "no_ground_truth": recipes(max_truths=0),
    "loss": recipes(bins=(16, 2, 4, 8, 32)),
    "loss_of_large_boxes": recipes(
        kinds=("huge", "ordinary"), bins=(16, 4, 2, 8), predictions=("near", "random")
    ),
    "precision": recipes(predictions=("near", "random", "exact_hit", "saturated")),
}
"""Every lane by the name of its test, in the order of the stages."""
