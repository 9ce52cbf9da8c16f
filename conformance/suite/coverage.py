"""What a run exercised: "passed" must mean "was exercised".

A clause counts as reached on a batch whose content makes it decide something: the hazards that do so are listed here.
The profiles that gate fail where a clause or a hazard was reached on fewer batches than the stated minimum.
"""

from collections import Counter
from collections.abc import Mapping

from tal_conformance.batches.hazards import HAZARDS

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
"""Clauses of specification sections 1 to 6 and of `judgement.nonfinite`, each with the hazards that make it decide
something (any of them)."""

OPTIONAL = frozenset({"shuffled_rows"})
"""Hazards that the newest dialect does not allow to draw."""
MINIMUM_SHARE = 0.002
"""Share of a run's batches on which every clause and hazard must be met: 5 of the 2,600 of `ci`. The rarest one is met
three times as often, so that a run that meets it less has lost it."""


def clause_counts(hazards: Mapping[str, int], batches: int, near_ties: int) -> dict[str, int]:
    """On how many batches each clause was reached, at least: those of its most frequent hazard.

    Args:
        hazards: on how many batches each was met.
        batches: how many there were.
        near_ties: how many were judged to be near ties.
    """
    without_truths = hazards.get("no_gt_in_batch", 0)
    known = {**hazards, ALWAYS: batches, TRUTHS: batches - without_truths, NEAR_TIE: near_ties}
    return {clause: max(known.get(hazard, 0) for hazard in by) for clause, by in REACHED_BY.items()}


def missing_hazards(hazards: Mapping[str, int], batches: int, near_ties: int) -> list[str]:
    """What was reached too rarely, a sentence each; nothing if the run exercised everything."""
    minimum = max(1, round(MINIMUM_SHARE * batches))
    counts = Counter({hazard: hazards.get(hazard, 0) for hazard in HAZARDS if hazard not in OPTIONAL})
    counts.update(clause_counts(hazards, batches, near_ties))
    return [
        f"{name} was reached on {count} of {batches} batches, fewer than the {minimum} that this profile asks for"
        for name, count in counts.items()
        if count < minimum
    ]


LOOSE = 0.1
"""A bound is too loose where 99.9 % of the errors stay below this share of it: it would hide what it should find."""


def loose_bounds(shares: Mapping[tuple[str, str], float]) -> list[str]:
    """Stages whose bound no error comes near, a sentence each.

    Args:
        shares: by implementation and stage, the 99.9th percentile over batches of the largest error as a share of its
            bound; zero where nothing is rounded.
    """
    return [
        f"{implementation}: errors of stage {stage} stay below {share:.2g} of their bound, which is too loose"
        for (implementation, stage), share in shares.items()
        if 0 < share < LOOSE
    ]
