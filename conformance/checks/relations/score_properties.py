"""Relations within one outcome: what target scores must be, whoever computed the numbers behind them.

M ground truths, A anchors, C classes.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from tal_conformance.checks.relations.ambiguity import DecidingValues
from tal_conformance.checks.relations.compare_images import SCORE, Comparison
from tal_conformance.checks.relations.runs import Run
from tal_conformance.checks.relations.views import ImageView, unchanged, view
from tal_conformance.core.geometry import ciou
from tal_conformance.core.task import StageName
from tal_conformance.judgement.bounds import ROUNDINGS

EPS = 1e-9
"""TAL-NORM-1: keeps the best positive's score a little below its overlap where its metric is tiny."""


def within_zero_and_one(run: Run, to: Comparison) -> None:
    """Every target score lies in [0, 1]; above it by the rounding of the overlap that bounds it, at most."""
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
    """The best positive of every ground truth scores u* (times t* / (t* + 1e-9)): its best overlap.

    Of an implementation that shows its stages these are its own u and t; else they are computed here, from the boxes
    that its assigner read.
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
        best_overlap, best_metric = (
            (values * positives).amax(1) for values in (overlap, metric)
        )  # (M,) twice
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
    """Every image whose scores are numbers, what the outcome says of it, and how far rounding may move that."""
    for image in range(run.batch.images):
        seen = view(run.outcome, image, unchanged(run.batch, image))
        told = run.oracles.get(image)
        known = None if told is None else DecidingValues.of(told, seen.read, run.batch.hyperparameters)
        yield image, seen, known


def independent(run: Run, image: int, seen: ImageView, known: DecidingValues) -> tuple[Tensor, Tensor]:
    """u and t (M, A), computed without the reference: float64, from the boxes and scores that the assigner read."""
    numbers = run.batch.hyperparameters
    overlap = ciou(seen.read["truths"][:, None], seen.read["boxes"]).clamp(min=0).where(known.possible, 0)
    score = seen.read["scores"].double().T[seen.read["labels"]]  # (M, A)
    return overlap, score**numbers.alpha * overlap**numbers.beta
