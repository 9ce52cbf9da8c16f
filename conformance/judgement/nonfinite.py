"""Judging what becomes of a prediction that is no finite number (NaN, infinity).

The specification is silent here. What follows is what official code does, found by running releases on such batches,
and made a clause, so that an implementation that spreads or hides such a number is told so:

- NONFINITE-1: at an anchor that is no candidate of any ground truth it changes no target; only what is computed of
  that very number is not finite: the class loss if it is a class logit, and gradients on that anchor.
- NONFINITE-2: where a candidate's s or u is no number, the weights of its ground truth are none, nor are N and the
  three terms. It is not dropped: a loss that stays finite there hides it. Where the candidate's anchor went to another
  ground truth, TAL-NORM-1 looks at final positives alone and finds a number, and official code, which multiplies with
  masks, finds none: either is accepted.
  Of one bin, an infinite distance is an edge at infinity: u is zero there, or none where infinity is subtracted from
  itself, as the order of operations has it, and either is accepted, with all that follows.
- At an anchor of which rounding decides whether it is a candidate, either of these two holds.
- NONFINITE-3: an infinite class logit is a score of 0 or 1 to the assigner. Plus infinity makes the class loss infinite
  or NaN; of minus infinity, whose cross-entropy is 0 in the limit, official code makes NaN, and either is accepted. So
  it is of a distance logit of minus infinity: as a bin without a share DFL leaves it out, or takes zero times infinity.

Only whether numbers are finite is compared, not which of NaN and the infinities they are: that depends on the order of
operations (infinity minus infinity). Finite terms are compared by their kind alone as well: every other test compares
their values.
"""

import torch
from torch import Tensor

from conformance.batches import Batch
from conformance.implementations import Outcome, implementation_from, observe
from conformance.implementations.reference import ReferenceAdapter
from conformance.judgement.bounds import precision
from conformance.judgement.comparators import equal
from conformance.judgement.inputs import exact_predictions, input_errors
from conformance.judgement.loss import LOGITS, TERMS
from conformance.judgement.oracle import candidates_within
from conformance.judgement.verdicts import Agreement, Diverges, Judgement, Mismatch
from reference import Dialect, GroundTruths, ground_truths
from reference.anchors import flatten


def judge_nonfinite(batch: Batch, outcome: Outcome, dialect: Dialect) -> Judgement:
    """Judge which numbers of an outcome are finite (NONFINITE-1 to -3).

    Args:
        batch: what the implementation was given, with a prediction that is no finite number.
        outcome: what it made of it.
        dialect: what it is held to.

    Returns:
        A judgement whose verdict does not fail.

    Raises:
        Diverges: other numbers are finite than in the reference's outcome.
    """
    judgement = Judgement()
    reference = implementation_from(ReferenceAdapter(dialect), "reference")
    expected = observe(reference, batch)
    if _edge_at_infinity(batch, expected) or _may_be_candidate(batch, expected, dialect):
        return judgement
    clause = "NONFINITE-1" if _targets_finite(expected).all() else "NONFINITE-2"
    lost = _lost_numbers(expected)  # (B,)
    if outcome.assignment is not None:
        judgement.note("normalisation", _compare, "image with finite target scores", clause,
                       _targets_finite(outcome) | lost, _targets_finite(expected) | lost, ("image",))  # fmt: skip
    if outcome.loss is not None:
        _judge_loss(judgement, batch, outcome, expected, clause, bool(lost.any()))
    if judgement.verdict.fails:
        raise Diverges(judgement)
    return judgement


def _judge_loss(
    judgement: Judgement, batch: Batch, outcome: Outcome, expected: Outcome, clause: str, lost: bool
) -> None:
    """Which terms, and which gradients, are finite; where `lost`, N may be a number or none, and cls is none."""
    assert outcome.loss is not None
    assert expected.loss is not None
    distances, logits = flatten(batch.feature_maps, batch.head)  # (B, A, 4R), (B, A, C)
    free = [  # log(1 + e^x) is 0 there, as official code computes it NaN; a bin without a share is left out, or NaN
        term for term, read in (("cls", logits), ("dfl", distances)) if (read == -torch.inf).any()
    ]
    chosen = _may_be_chosen(batch, expected)
    for place, term in enumerate(TERMS):
        if term in free or (term != "cls" and (lost or chosen)):
            continue
        named = (
            "NONFINITE-3"
            if term == "cls" and clause == "NONFINITE-1" and bool(logits.isinf().any())
            else clause
        )
        shown, wanted = outcome.loss.items[place].isfinite(), expected.loss.items[place].isfinite()
        judgement.note(term, _compare, f"{term} loss is finite", named, shown, wanted, ())
    shown, wanted = outcome.loss.total.isfinite(), expected.loss.total.isfinite()
    if not (free or chosen):
        judgement.note("total", _compare, "total is finite", clause, shown, wanted, ())
    if clause == "NONFINITE-2" or lost:
        return  # N is no number: which gradients are zero times NaN, and which nothing, is a matter of masks
    spoilt = spoilt_anchors(batch)  # (B, A) free
    for name, shown in zip(LOGITS, flatten(outcome.loss.gradients, batch.head), strict=True):
        finite = shown.isfinite().all(-1) | spoilt
        judgement.note("gradients", _compare, f"gradient on {name} is finite", clause, finite,
                       torch.ones_like(finite), ("image", "anchor"))  # fmt: skip


def _targets_finite(outcome: Outcome) -> Tensor:
    """(B,) all target scores of an image are finite."""
    assert outcome.assignment is not None
    return outcome.assignment.scores.isfinite().flatten(1).all(1)


def _lost_numbers(outcome: Outcome) -> Tensor:
    """(B,) a candidate whose t is no number is no positive of its ground truth: its anchor went to another."""
    assert outcome.assignment is not None
    stages = outcome.assignment.stages
    if stages is None:  # no ground truth: no candidate
        return torch.zeros(
            len(outcome.assignment.scores), dtype=torch.bool, device=outcome.assignment.scores.device
        )
    lost = ~stages.metric.isfinite() & (stages.candidates > 0) & ~(stages.positives > 0)  # (B, M, A)
    return lost.flatten(1).any(1)


def _edge_at_infinity(batch: Batch, outcome: Outcome) -> bool:
    """Whether the predicted box of a candidate has one."""
    assert outcome.assignment is not None
    stages = outcome.assignment.stages
    if stages is None or batch.head.reg_max > 1:
        return False
    edges = flatten(batch.feature_maps, batch.head)[0].isinf().any(-1)  # (B, A)
    return bool(((stages.candidates > 0) & edges[:, None]).any())


def _may_be_candidate(batch: Batch, outcome: Outcome, dialect: Dialect) -> bool:
    """Whether rounding decides if the anchor with the number is a candidate: it lies on a border that is not sharp."""
    inputs, floor = outcome.inputs, dialect.floor(batch.head.strides)
    eps = torch.finfo(precision(inputs.truth_boxes.dtype)).eps
    exact, here = exact_predictions(batch), spoilt_anchors(batch)  # (B, A)
    truths = ground_truths(batch.annotations.double(), batch.images, batch.size)
    for image, (large, errors) in enumerate(zip(truths, input_errors(batch, exact, truths), strict=True)):
        small = GroundTruths(large.labels, inputs.truth_boxes[image, : len(large)])
        centres = inputs.anchors.double()  # (A, 2)
        sure, possible = candidates_within(small, large, centres, floor, eps, errors)  # (M, A) twice
        if (possible & ~sure & here[image]).any():
            return True
    return False


def spoilt_anchors(batch: Batch) -> Tensor:
    """(B, A) the anchors with a logit that is no finite number."""
    distances, logits = flatten(batch.feature_maps, batch.head)  # (B, A, 4R), (B, A, C)
    return ~(distances.isfinite().all(-1) & logits.isfinite().all(-1))


def _may_be_chosen(batch: Batch, outcome: Outcome) -> bool:
    """T1: an anchor with a distance that is no number is a candidate with t = 0 where zeros compete for a place.

    Chosen, its weight of zero meets a loss that may be infinite; not chosen, it is background.
    """
    assert outcome.assignment is not None
    stages = outcome.assignment.stages
    if stages is None:
        return False
    distances = flatten(batch.feature_maps, batch.head)[0]  # (B, A, 4R)
    spoilt = ~distances.isfinite().all(-1)[:, None]  # (B, 1, A)
    better = ((stages.metric > 0) | stages.metric.isnan()).sum(-1, keepdim=True)  # (B, M, 1)
    zeros = (
        (stages.candidates > 0) & (stages.metric == 0) & (better < batch.hyperparameters.topk)
    )  # (B, M, A)
    return bool((zeros & spoilt).any())


def _compare(
    quantity: str, clause: str, shown: Tensor, expected: Tensor, names: tuple[str, ...]
) -> Agreement:
    """Like `equal`, but says in words what is wrong with a single number."""
    if shown.ndim:
        return equal(quantity, clause, shown, expected, names)
    if bool(shown) != bool(expected):
        raise Mismatch(f"{quantity}: {bool(shown)}, expected {bool(expected)}", clause)
    return Agreement()
