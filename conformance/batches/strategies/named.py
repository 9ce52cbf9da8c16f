"""The Hypothesis strategy of every check, by name: shared by the suite and by mutation testing."""

from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.non_finite import non_finite
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.branches import end_to_end, end_to_end_strategies
from tal_conformance.batches.strategies.calling import CALLED, CALLED_TURNED, with_turns
from tal_conformance.batches.strategies.class_weights import class_weights
from tal_conformance.batches.strategies.detection import SMALL, STRIDES, recipes
from tal_conformance.batches.strategies.generic_heads import heads, trained_logits
from tal_conformance.batches.strategies.keypoints import posed, posed_strategies
from tal_conformance.batches.strategies.long_batches import crossings, long_batches
from tal_conformance.batches.strategies.masks import masked, masked_strategies
from tal_conformance.batches.strategies.turned_boxes import turned, turned_strategies
from tal_conformance.core.task import DETECT, E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26
from tal_reference import Hyperparameters

ONE_TO_ONE = st.sampled_from(
    [
        Hyperparameters(topk2=1),
        Hyperparameters(topk=7, topk2=1),
        Hyperparameters(topk2=3),
        Hyperparameters(topk=4, topk2=4),
    ]
)
"""Hyperparameters of heads that keep few of the selected anchors (TAL-CONF-2).

End-to-end heads of official models have topk 7 and topk2 1. With topk2 equal to topk, all anchors are kept.
"""

KEEPS_MORE = st.sampled_from([Hyperparameters(topk2=11), Hyperparameters(topk=7, topk2=8)])
"""Hyperparameters with topk2 above topk: a ground truth that wins contested anchors it did not select may keep more
than k. In one batch of fifteen, a ground truth has more than topk2.
"""

OTHER_NUMBERS = st.sampled_from(
    [
        Hyperparameters(topk=5),
        Hyperparameters(box_gain=1.0, cls_gain=2.0, dfl_gain=0.25),
        Hyperparameters(topk=13, box_gain=5.0, cls_gain=1.0, dfl_gain=1.0),
        Hyperparameters(topk=1),
    ]
)
"""k and gains that differ from the defaults, for implementations that hard-code the defaults. k = 1 matters with ground
truths that ANN-3 drops: official code drops their anchors by counting them k times, which has no effect for k = 1."""

OTHER_EXPONENTS = st.sampled_from(
    [
        Hyperparameters(alpha=1.0),
        Hyperparameters(beta=4.0),
        Hyperparameters(alpha=1.0, beta=2.0, topk=13),
        Hyperparameters(topk=1, beta=1.0),
        Hyperparameters(alpha=2.0, topk=5),
    ]
)
"""Exponents for separate assigners. TAL-MET-1 fixes the exponents of the detection loss."""

FEW_OVERLAPS = recipes(
    kinds=("huge",), predictions=("random", "saturated", "near"), strides=((8,), (16, 32)), max_truths=3
)
"""Ground truths that contain nearly every anchor but overlap few predictions: candidates with metric zero must be
selected too."""

IN_16_BITS = recipes(  # float16 holds no area above 65,504 square pixels
    predictions=("near", "random", "exact_hit", "saturated"), strides=(*STRIDES, *((32,), (32, 64)) * 3)
)
"""Batches of any size for the check of precisions."""

FEW_POSITIVES = recipes(
    kinds=("ordinary", "off_lattice"),
    predictions=("near", "random"),
    strides=((8,), (32,)),
    cells=((4, 4), (3, 4), (5, 5)),
    classes=(1, 2, 3),
    bins=(4, 2, 8, 16),
    max_images=2,
    max_truths=2,
)
"""Batches with few positives, on which rounded sums and weights differ by more than the bounds of a loss in 16 bits:
roundings of many positives cancel."""

STRATEGIES: dict[str, SearchStrategy[Recipe]] = {
    "decoding": recipes(bins=(16, 2, 4, 8, 32, 1), predictions=("random", "saturated", "constant", "near")),
    "annotations": recipes(outside=True),
    "borders": recipes(
        kinds=("edge_on_centre", "ordinary", "edge_near_centre", "on_border", "partly_outside")
    ),
    "small_boxes": recipes(small_boxes=True),
    "metric": recipes(predictions=("near", "exact_hit", "random", "saturated"), bins=(16, 16, 1)),
    "topk": recipes(ties=True),
    "zeros_compete": FEW_OVERLAPS,
    "conflict": recipes(contested=True),
    "topk2": recipes(contested=True, hyperparameters=ONE_TO_ONE),
    "topk2_above_k": recipes(contested=True, hyperparameters=KEEPS_MORE),
    "targets": recipes(classes=(2, 3, 5, 80), predictions=("near", "random", "exact_hit")),
    "no_ground_truth": recipes(max_truths=0),
    "loss": recipes(bins=(16, 2, 4, 8, 32, 1)),
    "loss_of_large_boxes": recipes(
        kinds=("huge", "ordinary"), bins=(16, 4, 2, 8), predictions=("near", "random")
    ),
    "loss_of_small_boxes": recipes(
        kinds=(*SMALL, "zero_area"),
        bins=(1, 16, 2),
        predictions=("close", "close", "exact_hit", "near"),
        strides=((4, 8, 16), (16, 32), (32,)),
    ),
    "loss_of_points": recipes(
        kinds=("zero_area",), bins=(1, 16, 2), predictions=("close",), strides=((4, 8, 16), (16, 32), (32,))
    ),
    "hyperparameters": recipes(outside=True, hyperparameters=OTHER_NUMBERS),
    "assigner": recipes(),
    "exponents": recipes(hyperparameters=OTHER_EXPONENTS),
    "nonfinite": recipes(
        kinds=("ordinary", "huge", "off_lattice"), predictions=("near", "random"), max_images=2
    ),
    "precision": st.one_of(IN_16_BITS, IN_16_BITS, FEW_POSITIVES),
}
"""The strategy of every check by name, in the order of the stages."""

UNRELATABLE = ("exponents", "loss_of_points")
LOSS_STRATEGIES = {name: strategy for name, strategy in STRATEGIES.items() if name not in UNRELATABLE}
"""Strategies whose batches a loss accepts and can be related on. `exponents` is excluded because TAL-MET-1 fixes the
exponents of a loss, `loss_of_points` because most choices are open for boxes without area."""


PRECISIONS = {
    "float64": (torch.float64, False),
    "autocast-float16": (torch.float16, True),
    "autocast-bfloat16": (torch.bfloat16, True),
    "float16": (torch.float16, False),
    "bfloat16": (torch.bfloat16, False),
}
"""Dtype of the feature maps and use of autocast, by precision."""


UNAMBIGUOUS = recipes(kinds=("ordinary", "off_lattice"), max_truths=3, predictions=("near", "random"))


RELATABLE = st.one_of(*[UNAMBIGUOUS] * (len(LOSS_STRATEGIES) // 2), *LOSS_STRATEGIES.values())
"""Batches for relations. A third of them are unambiguous: most choices are unique there, so that results can be
compared in full."""


TOO_SMALL = st.builds(
    Recipe,
    images=st.sampled_from(
        [((Truth("ordinary"),),), ((), (Truth("huge"),)), ((Truth("ordinary"), Truth("tiny")),)]
    ),
    cells=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 255),
)
"""Batches on grids of one to nine cells: fewer anchors than k."""


JUST_ENOUGH = recipes(
    strides=((8,), (32,)), cells=((2, 5), (5, 2), (1, 10), (10, 1)), contested=True, max_images=2
)
"""Batches on grids of ten cells: exactly as many anchors as k."""


TURNABLE: dict[str, SearchStrategy[Recipe]] = {
    "class_weights": class_weights,
    "rows_in_any_order": recipes(shuffled_rows=True, outside=True),
    "as_many_anchors_as_k": JUST_ENOUGH,
    "heads": heads,
    "trained_logits": trained_logits,
    "crossings": crossings,
    "long_batches": long_batches,
}
"""Strategies of checks that `STRATEGIES` does not name, by the name of the check, that rotated boxes and end-to-end
heads have too."""

OF_CALLS = ("calling", "calling_slowly", "state")
"""Checks that call an implementation in unusual ways or several times in a row; their batches are few and simple."""

OF_DEVICES = ("made_on_the_device", "as_on_the_cpu")
"""Checks of an implementation on a simulated or a real CUDA device."""

CALLED_WITH_BRANCHES = end_to_end(CALLED)
"""As `CALLED`, for end-to-end heads."""

WITH_PARTS = (
    STRATEGIES
    | TURNABLE
    | {"fewer_anchors_than_k": TOO_SMALL}
    | dict.fromkeys(OF_CALLS, CALLED)
    | dict.fromkeys(OF_DEVICES, st.one_of(*LOSS_STRATEGIES.values()))
)
"""Strategies from which those of heads with keypoints or masks are made."""

WITH_PARTS_THAT_ASSIGN = {
    name: strategy
    for name, strategy in (WITH_PARTS | {"relation": RELATABLE}).items()
    if name != "assigner"  # the assigner alone does not get keypoints or masks
}
"""Strategies from which those of heads of YOLO26 with keypoints or masks are made."""

NOT_RECIPES = ("nonfinite batches",)
"""Strategies that generate batches with non-finite values directly, without a recipe."""

STRATEGIES_BY_TASK: dict[str, dict[str, SearchStrategy[Any]]] = {
    DETECT.name: STRATEGIES,
    OBB.name: turned_strategies(STRATEGIES | TURNABLE)
    | {"relation": turned(RELATABLE), "fewer_anchors_than_k": st.builds(with_turns, TOO_SMALL)}
    | dict.fromkeys(OF_CALLS, CALLED_TURNED)
    | dict.fromkeys(OF_DEVICES, turned(st.one_of(*LOSS_STRATEGIES.values()))),
    E2E.name: end_to_end_strategies(STRATEGIES | TURNABLE)
    | {"nonfinite batches": non_finite(end_to_end(STRATEGIES["nonfinite"]))}
    | {"relation": end_to_end(RELATABLE), "fewer_anchors_than_k": end_to_end(TOO_SMALL)}
    | dict.fromkeys(OF_CALLS, CALLED_WITH_BRANCHES)
    | dict.fromkeys(OF_DEVICES, end_to_end(st.one_of(*LOSS_STRATEGIES.values()))),
    POSE.name: posed_strategies(WITH_PARTS | {"relation": RELATABLE})
    | {"nonfinite batches": non_finite(posed(STRATEGIES["nonfinite"]))},
    SEGMENT.name: masked_strategies(WITH_PARTS | {"relation": RELATABLE})
    | {"nonfinite batches": non_finite(masked(STRATEGIES["nonfinite"]))},
    POSE26.name: posed_strategies(WITH_PARTS_THAT_ASSIGN, POSE26.name),
    SEGMENT26.name: masked_strategies(WITH_PARTS_THAT_ASSIGN, SEGMENT26.name),
}
"""The strategies of every task: by the names of `STRATEGIES`, and of other tasks than detection by those of `TURNABLE`
too. Strategies that draw batches instead of recipes have the name of their check and the word "batches"."""
