"""Values that decide the assignment of one image, and the choices that they leave open (T1 to T4 in specification 6).

M ground truths, A anchors.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from tal_conformance.checks.relations.overlaps import raw_overlaps
from tal_conformance.judgement.oracle.admissible import Range, Selection, may_own, top_k_choices
from tal_conformance.judgement.oracle.oracle import ImageOracle
from tal_conformance.judgement.rounding.bounds import ROUNDINGS
from tal_reference import Hyperparameters
from tal_reference.assignment import NORMALISATION_EPS


@dataclass(frozen=True)
class DecidingValues:
    """Values of one image that decide its assignment: the implementation's own if it exposes them.

    Attributes:
        possible: (M, A) bool: pairs of ground truth and anchor that are or may be candidates.
        doubtful: (M, A) bool: pairs that rounding may or may not make candidates.
        counts: (M, A) bool: pairs whose u or t may be positive, so that the owner of the anchor matters.
        overlap, overlap_error: (M, A) overlap u, and its possible difference between runs.
        metric, metric_error: (M, A) alignment metric t, and its possible difference between runs.
        selection: admissible top-k selections of each ground truth.
        owners: (M, A) bool: pairs whose overlap may be the largest of the anchor.
        numbers: hyperparameters: k, topk2, alpha and beta.
    """

    possible: Tensor
    doubtful: Tensor
    counts: Tensor
    overlap: Tensor
    overlap_error: Tensor
    metric: Tensor
    metric_error: Tensor
    selection: Selection
    owners: Tensor
    numbers: Hyperparameters

    @classmethod
    def of(cls, oracle: ImageOracle, read: Mapping[str, Tensor], numbers: Hyperparameters) -> Self:
        """Return the deciding values from the oracle, for an implementation that does not expose its stages.

        Args:
            oracle: oracle of the image, which computes the values that the specification admits.
            read: inputs of the assigner: truths (M, 4) and boxes (A, 4), xyxy in pixels; rotated: (M, 5), (A, 5).
            numbers: hyperparameters.
        """
        unclamped = raw_overlaps(read["truths"].double(), read["boxes"].double())  # (M, A)
        counts = (unclamped + oracle.overlap_error > 0) & oracle.may_candidate
        errors = oracle.overlap, oracle.overlap_error, oracle.metric, oracle.metric_error
        return cls(
            oracle.may_candidate, uncertain(oracle), counts, *errors, oracle.selection, oracle.owners, numbers
        )

    def from_stages(self, first: Mapping[str, Tensor], second: Mapping[str, Tensor]) -> Self:
        """Return the deciding values from two dicts of exposed stages (M, A) by name, one for each compared run."""
        sure = first["candidates"] & second["candidates"] & ~self.doubtful  # (M, A)
        overlap, metric = (
            torch.maximum(first[name], second[name]).double() for name in ("overlap", "metric")
        )
        error = torch.maximum(self.metric_error, metric.abs() * self.amplified(overlap))
        low, high = metric - error, metric + error
        places = Range(low.clamp(min=0).where(sure, 0), high)
        selection = top_k_choices(places, sure, sure | self.doubtful, self.numbers.topk)
        low, high = overlap - self.overlap_error, overlap + self.overlap_error
        owners = may_own(Range(low.clamp(min=0).where(sure, 0), high))
        counts = (overlap > 0) | (metric > 0)
        own = replace(self, overlap=overlap, metric=metric, metric_error=error)
        return replace(own, counts=counts, selection=selection, owners=owners)

    def amplified(self, overlap: Tensor) -> Tensor:
        """Return the relative error (M, A) of the metric t due to the error of u, for overlaps u (M, A) (TAL-MET-1)."""
        share = (self.overlap_error / overlap.abs()).nan_to_num(nan=0.0, posinf=0.0)
        eps = torch.finfo(torch.float32).eps
        roundings = 2 + 4 * self.numbers.alpha + self.numbers.beta  # of s, of the powers and of the product
        rounding = 2 * ROUNDINGS * eps * roundings
        return (1 + share) ** self.numbers.beta - 1 + rounding

    @property
    def open_places(self) -> Tensor:
        """(M, A) bool: anchors that may or may not be among the k best of the ground truth (T1, T4)."""
        return (self.selection.may & ~self.selection.must) | self.doubtful

    @property
    def tied_owners(self) -> Tensor:
        """(M, A) bool: ground truths that may tie with another one for the anchor's largest overlap (T2, T4)."""
        return self.owners & (self.owners.sum(0) > 1)

    @property
    def inconclusive(self) -> bool:
        """True if the choices that the specification leaves open can lead to different weights.

        Choices at an anchor without a positive overlap cannot lead to different weights. Nor can choices at an anchor
        that the only ground truth with a positive overlap selects in any case: every other ground truth that selects
        the anchor loses it again.
        """
        choices = self.choices  # (A,)
        settled = (self.counts.sum(0) == 1) & (self.counts & self.selection.must).any(0)  # (A,)
        choices = choices & self.counts.any(0) & ~settled
        effective_topk2 = self.kept_otherwise(choices.expand_as(self.metric)) & self.counts  # (M, A)
        return bool((choices | effective_topk2).any())

    @property
    def choices(self) -> Tensor:
        """(A,) bool: anchors at which a choice is open, also one that leads to no other weights."""
        contested = self.selection.may.sum(0) > 1  # (A,)
        return self.open_places.any(0) | (self.tied_owners & contested).any(0)

    @property
    def is_open(self) -> bool:
        """True if the specification leaves a choice open that decides which anchors are positives (COR-2)."""
        choices = self.choices  # (A,)
        return bool((choices | self.kept_otherwise(choices.expand_as(self.metric))).any())

    def kept_otherwise(self, moved: Tensor) -> Tensor:
        """Return (M, A) bool: pairs of ground truth and anchor that the selection by topk2 may keep or drop (T3, T4).

        Args:
            moved: (M, A) bool: pairs at which an earlier choice was resolved differently.
        """
        if self.numbers.effective_topk2 is None:
            return torch.zeros_like(moved)
        apart = (self.metric[:, :, None] - self.metric[:, None]).abs()  # (M, A, A)
        near = apart <= self.metric_error[:, :, None] + self.metric_error[:, None]
        return (near.sum(2) > 1) | moved.any(1, keepdim=True)

    def weight_errors(self, positives: Tensor, dtype: torch.dtype) -> Tensor:
        """Return the errors (A,) of the weights w = t u* / (t* + 1e-9) of positives (M, A), from the errors of t and u.

        u* and t* are the largest overlap and metric of the ground truth (TAL-NORM-1).
        """
        metric, overlap = self.metric * positives, self.overlap * positives
        metric_error, overlap_error = self.metric_error * positives, self.overlap_error * positives
        best = metric.amax(1, keepdim=True) + NORMALISATION_EPS  # (M, 1)
        best_error = metric_error.amax(1, keepdim=True)  # (M, 1)
        top, top_error = overlap.amax(1, keepdim=True), overlap_error.amax(1, keepdim=True)  # (M, 1)
        moved = metric_error * (top + top_error) + metric * top_error + metric * top * best_error / best
        low = (best - best_error).clamp(min=NORMALISATION_EPS)
        numbers = torch.finfo(dtype)
        rounding = positives * (4 * numbers.eps * metric * top / best + numbers.tiny / NORMALISATION_EPS)
        return (moved / low + ROUNDINGS * rounding).sum(0)

    def own_overlap(self, weights: Tensor, scores: Tensor, positives: Tensor) -> Tensor:
        """Return the implementation's own overlap u (M, A) of its positives, inferred from their weights; 0 elsewhere.

        By TAL-NORM-1 the largest weight of a ground truth is its largest overlap u*, and w / u* = t / t*; by TAL-MET-1
        this is (s / s*)^alpha (u / u*)^beta.

        Args:
            weights: (A,) weights of the implementation.
            scores: (M, A) predicted scores of the class of each ground truth.
            positives: (M, A) bool: positives of the implementation.
        """
        weight = weights * positives  # (M, A)
        best, at = weight.max(1, keepdim=True)  # (M, 1) twice
        quotient = (
            weight / best * (scores.gather(1, at) / scores).pow(self.numbers.alpha)
        )  # (M, A)  (u / u*)^beta
        overlap = best * (quotient.pow(1 / self.numbers.beta) if self.numbers.beta else quotient)  # (M, A)
        return overlap.nan_to_num(nan=0.0, posinf=0.0) * positives

    def own_weight_errors(
        self, weights: Tensor, scores: Tensor, overlap_error: Tensor, positives: Tensor
    ) -> Tensor:
        """Return the errors (A,) of weights that are computed from another measure of overlap than the judge's u.

        The relative error of the implementation's own u is amplified like the error of u in t (TAL-MET-1).

        Args:
            weights: (A,) weights of the implementation.
            scores: (M, A) predicted scores of the class of each ground truth.
            overlap_error: (M, A) error of any measure of overlap of the two boxes.
            positives: (M, A) bool: positives of the implementation.
        """
        alpha, beta = self.numbers.alpha, self.numbers.beta
        overlap = self.own_overlap(weights, scores, positives)  # (M, A)
        share = (overlap_error / overlap).nan_to_num(nan=0.0, posinf=0.0)  # (M, A); no weight, no error
        rounding = 2 * ROUNDINGS * torch.finfo(torch.float32).eps * (4 + 4 * alpha + beta)
        of_metric = (1 + share) ** beta - 1 + rounding  # (M, A) of t
        at = (weights * positives).argmax(1, keepdim=True)  # (M, 1)
        of_best = share.gather(1, at), of_metric.gather(1, at)  # (M, 1) of u* and of t*
        moved = weights * positives * ((1 + of_metric) * (1 + of_best[0]) * (1 + of_best[1]) - 1)  # (M, A)
        return moved.sum(0)


def uncertain(oracle: ImageOracle) -> Tensor:
    """Return (M, A) bool: pairs whose candidacy rounding decides, because the anchor is close to the box's border."""
    return oracle.may_candidate & ~oracle.candidate
