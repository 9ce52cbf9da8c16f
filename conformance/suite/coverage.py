"""Coverage of clauses and hazards by the batches of a run: a clause that no batch exercises cannot fail.

A batch reaches a clause if its results depend on the clause. The table lists for each clause the hazards
(properties of batches) that make results depend on it. Runs of the gating profiles fail if too few batches reach a
clause or a hazard.
"""

from collections import Counter
from collections.abc import Mapping

from tal_conformance.batches.hazards.catalogue import HAZARDS
from tal_conformance.core.task import E2E

ALWAYS = "every batch"
TRUTHS = "a batch with ground truths"
NEAR_TIE = "a batch that the judge finds to be a near tie"

REACHED_BY: dict[str, tuple[str, ...]] = {
    "PRE-1": (ALWAYS,),
    "PRE-2": ("non_square",),
    "ANC-1": (ALWAYS,),
    "DEC-1": (ALWAYS,),
    "DEC-2": (ALWAYS,),
    "ANN-1": (TRUTHS,),
    "ANN-2": ("contested",),
    "ANN-3": ("negative_sum",),
    "ANN-4": ("padding",),
    "IOU-1": ("exact_hit", "thin", "zero_area"),
    "IOU-2": ("many_candidates",),
    "IOU-3": ("many_candidates",),
    "TAL-CAND-1": ("edge_on_centre",),
    "TAL-CAND-2": ("tiny", "small_8_16"),
    "TAL-MET-1": ("many_candidates",),
    "TAL-TOPK-1": ("many_candidates", "few_candidates", "zero_at_k"),
    "TAL-TOPK-2": ("fewer_anchors_than_k",),
    "TAL-CONF-1": ("contested_selection", "third_owner"),
    "TAL-CONF-2": ("keeps_fewer",),
    "TAL-NORM-1": ("contested_selection", "many_candidates"),
    "TAL-TGT-1": ("same_box_other_class", "many_candidates"),
    "TAL-EMPTY-1": ("no_gt_in_batch",),
    "LOSS-SUM-1": ("no_gt_in_batch", "no_overlap"),
    "LOSS-CLS-1": (ALWAYS,),
    "LOSS-BOX-1": ("many_candidates",),
    "LOSS-DFL-1": ("dfl_clamp",),
    "LOSS-DFL-1, R = 1": ("one_bin",),
    "LOSS-GAIN-1": (ALWAYS,),
    "LOSS-GRAD-1": ("no_gt_in_batch", "many_candidates"),
    "NONFINITE-1": ("not_finite",),
    "T1": ("tie_at_k", "zero_at_k"),
    "T2": ("equal_owners", "identical_boxes"),
    "T3": ("tie_at_topk2",),
    "T4": (NEAR_TIE,),
}
"""For each clause the hazards of which any one makes the clause decide something in a batch: clauses of sections 1 to 6
of the specification and of `judgement.non_finite`."""

OPTIONAL = frozenset({"shuffled_rows", "uneven_exponents"})
"""Hazards that no batch has for the newest dialect, or for an implementation without a method `assign`."""
IMPOSSIBLE = {E2E.name: frozenset({"k_above_13", "k_above_32", "not_finite"})}
"""Hazards of detection that no batch of another task has: end-to-end losses fix k (E2E-2), and non-finite predictions
of their heads are not judged."""
RARE = frozenset(
    {
        "images_above_64",
        "claimants_above_255",
        "anchor_above_65535",
        "candidates_above_65536",
        "positives_above_65536",
        "logits_above_2_24",
    }
)
"""Hazards of large batches that `test_crossings` draws once or twice each: one batch is enough, because their sizes are
listed and not drawn at random."""
MINIMUM_SHARE = 0.002
"""Share of a run's batches that must reach every clause and hazard: 5 of the 2,600 batches of `ci`. The rarest hazard
occurs three times as often, so that in a run below the minimum something is wrong."""


def clause_counts(hazards: Mapping[str, int], batches: int, near_ties: int) -> dict[str, int]:
    """Return for each clause the number of batches with the most frequent of the clause's hazards.

    Args:
        hazards: number of batches with each hazard.
        batches: number of all batches.
        near_ties: number of batches in which the judge found a choice between nearly equal values.
    """
    without_truths = hazards.get("no_gt_in_batch", 0)
    known = {**hazards, ALWAYS: batches, TRUTHS: batches - without_truths, NEAR_TIE: near_ties}
    return {clause: max(known.get(hazard, 0) for hazard in by) for clause, by in REACHED_BY.items()}


def missing_hazards(hazards: Mapping[str, int], batches: int, near_ties: int) -> list[str]:
    """Return one sentence for every clause and hazard that too few batches reached."""
    minimum = max(1, round(MINIMUM_SHARE * batches))
    counts = Counter({hazard: hazards.get(hazard, 0) for hazard in HAZARDS if hazard not in OPTIONAL})
    counts.update(clause_counts(hazards, batches, near_ties))
    required = {name: 1 if name in RARE else minimum for name in counts}
    return [
        f"{name} was reached on {count} of {batches} batches, fewer than the {required[name]} that this profile "
        "requires"
        for name, count in counts.items()
        if count < required[name]
    ]


LOOSE = 0.1
"""A bound is too loose, and would hide errors, if 99.9 % of the errors are below this share of it."""


def loose_bounds(shares: Mapping[tuple[str, str], float]) -> list[str]:
    """Return one sentence for every stage whose error bound is much larger than all observed errors.

    Args:
        shares: 99.9th percentile over batches of the largest error divided by its bound, by implementation
            and stage; zero for stages without rounding.
    """
    return [
        f"{implementation}: errors of stage {stage} stay below {share:.2g} of their bound, which is too loose"
        for (implementation, stage), share in shares.items()
        if 0 < share < LOOSE
    ]
