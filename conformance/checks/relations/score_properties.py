"""Relations within one outcome: properties of target scores that do not depend on the reference.

M ground truths, A anchors, C classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tal_conformance.checks.relations.ambiguity import DecidingValues
from tal_conformance.checks.relations.compare_images import SCORE, Comparison
from tal_conformance.checks.relations.overlaps import raw_overlaps
from tal_conformance.checks.relations.runs import Run
from tal_conformance.checks.relations.views import ImageView, unchanged, view
from tal_conformance.core.task import StageName
from tal_conformance.judgement.rounding.bounds import ROUNDINGS

EPS = 1e-9
"""TAL-NORM-1: makes the best positive's score slightly smaller than its overlap where its metric is tiny."""


def within_zero_and_one(run: Run, to: Comparison) -> None:
    """Check that every target score lies in [0, 1], up to the rounding of the overlap that bounds it from above."""
    for image, seen, known in images_of(run):
        scores = seen.scores.double()  # (A, C)
        errors = (
            torch.zeros_like(scores)
            if known is None
            else known.weight_errors(seen.positives, run.dtype)[:, None]
        )
        above = errors.expand_as(scores).where(scores > 1, 0)
        to.assert_within(
            StageName.NORMALISATION, "target score w", seen.scores, scores.clamp(0, 1), above, SCORE, image
        )


def best_is_overlap(run: Run, to: Comparison) -> None:
    """Check that the largest target score of every ground truth's positives is u* t* / (t* + 1e-9) (TAL-NORM-1).

    u* and t* are the largest overlap and the largest metric of these positives.
    u and t are the implementation's own if it exposes its stages; otherwise they are computed from the boxes that its
    assigner read.
    """
    for image, seen, known in images_of(run):
        if known is None:
            continue
        positives = seen.positives  # (M, A)
        dtype = run.dtype
        if seen.shown:
            overlap, metric = (seen.shown[name].double() for name in ("overlap", "metric"))
        else:
            overlap, metric = independent(run, image, seen, known)
        best_overlap = (overlap * positives).amax(1)  # (M,)
        best_metric = (metric * positives).amax(1)  # (M,)
        expected = best_overlap * best_metric / (best_metric + EPS)  # (M,)
        rounding = ROUNDINGS * (4 * torch.finfo(dtype).eps * expected + torch.finfo(dtype).tiny / EPS)
        if not seen.shown:
            rounding = rounding + (known.weight_errors(positives, dtype) * positives).amax(1)
        score = seen.scores.amax(1)  # (A,)
        observed = score.where(positives, 0).amax(1)  # (M,)
        to.assert_within(
            StageName.NORMALISATION,
            "score of the best positive",
            observed,
            expected,
            rounding,
            ("GT",),
            image,
        )


def images_of(run: Run) -> Iterator[tuple[int, ImageView, DecidingValues | None]]:
    """Yield every image number with its view and its deciding values (None for an image without an oracle)."""
    for image in range(run.batch.images):
        seen = view(run.outcome, image, unchanged(run.batch, image))
        oracle = run.oracles.get(image)
        known = None if oracle is None else DecidingValues.of(oracle, seen.read, run.batch.hyperparameters)
        yield image, seen, known


def independent(run: Run, image: int, seen: ImageView, known: DecidingValues) -> tuple[Tensor, Tensor]:
    """Return overlap u and metric t (M, A) in float64, computed without the reference from the assigner's inputs."""
    numbers = run.batch.hyperparameters
    winnable = known.owners & (known.selection.may.sum(0) > 1)  # (M, A) may be won without being a candidate
    counted = known.possible | (seen.positives & ~winnable)  # (M, A) with candidates of the implementation
    overlap = raw_overlaps(seen.read["truths"], seen.read["boxes"]).clamp(min=0).where(counted, 0)
    score = seen.read["scores"].double().T[seen.read["labels"]]  # (M, A)
    return overlap, score**numbers.alpha * overlap**numbers.beta
