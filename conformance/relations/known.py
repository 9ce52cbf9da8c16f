"""The numbers of one image that decide its assignment, and the choices that they leave open (specification section 6).

M ground truths, A anchors.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Self

import torch
from torch import Tensor

from conformance.judgement.assignment import ImageOracle
from conformance.judgement.bounds import ROUNDINGS
from conformance.judgement.choices import Range, Selection, may_own, top_k_choices
from reference import Hyperparameters
from reference.assignment import NORMALISATION_EPS


@dataclass(frozen=True)
class Known:
    """The numbers of one image that decide its assignment: the implementation's own where it shows them.

    Attributes:
        candidates: (M, A) surely candidates.
        doubtful: (M, A) pairs that rounding may make candidates or none.
        overlap, overlap_error: (M, A) u, and how far the two runs may lie apart.
        metric, metric_error: (M, A) t likewise.
        numbers: k, topk2.
    """

    candidates: Tensor
    doubtful: Tensor
    overlap: Tensor
    overlap_error: Tensor
    metric: Tensor
    metric_error: Tensor
    numbers: Hyperparameters

    @classmethod
    def of(cls, told: ImageOracle, numbers: Hyperparameters) -> Self:
        """What the judge takes them to be."""
        doubtful = told.may_candidate & ~told.candidate
        return cls(
            told.candidate,
            doubtful,
            told.overlap,
            told.overlap_error,
            told.metric,
            told.metric_error,
            numbers,
        )

    @cached_property
    def selection(self) -> Selection:
        """What the k best of each ground truth can be."""
        low = (self.metric - self.metric_error).clamp(min=0).where(self.candidates, 0)
        possible = self.candidates | self.doubtful
        return top_k_choices(
            Range(low, self.metric + self.metric_error), self.candidates, possible, self.numbers.topk
        )

    @property
    def open_places(self) -> Tensor:
        """(M, A) the anchors that may or may not be among the k best (T1, T4)."""
        return (self.selection.may & ~self.selection.must) | self.doubtful

    @property
    def tied_owners(self) -> Tensor:
        """(M, A) one of several whose overlap may be the largest of its anchor's (T2, T4)."""
        low = (self.overlap - self.overlap_error).clamp(min=0).where(~self.doubtful, 0)
        largest = may_own(Range(low, self.overlap + self.overlap_error))
        return largest & (largest.sum(0) > 1)

    @property
    def decides(self) -> Tensor:
        """(M, A) a positive here counts: it has a weight, or is among those that have the best overlap."""
        return (self.metric + self.metric_error > 0) | (self.overlap + self.overlap_error > 0)

    def kept_otherwise(self, moved: Tensor) -> Tensor:
        """(M, A) the anchors that `topk2` may keep or drop (T3, T4), given the choices that moved before it (M, A)."""
        if self.numbers.kept is None:
            return torch.zeros_like(moved)
        apart = (self.metric[:, :, None] - self.metric[:, None]).abs()  # (M, A, A)
        near = apart <= self.metric_error[:, :, None] + self.metric_error[:, None]
        return (near.sum(2) > 1) | moved.any(1, keepdim=True)

    def weight_errors(self, positives: Tensor, dtype: torch.dtype) -> Tensor:
        """TAL-NORM-1: error (A,) of w = t u* / (t* + 1e-9) for given positives (M, A), from the errors of t and u."""
        metric, overlap = self.metric * positives, self.overlap * positives
        metric_error, overlap_error = self.metric_error * positives, self.overlap_error * positives
        best, best_error = (
            metric.amax(1, keepdim=True) + NORMALISATION_EPS,
            metric_error.amax(1, keepdim=True),
        )  # (M, 1)
        top, top_error = overlap.amax(1, keepdim=True), overlap_error.amax(1, keepdim=True)  # (M, 1)
        moved = metric_error * (top + top_error) + metric * top_error + metric * top * best_error / best
        low = (best - best_error).clamp(min=NORMALISATION_EPS)
        numbers = torch.finfo(dtype)
        rounding = positives * (4 * numbers.eps * metric * top / best + numbers.tiny / NORMALISATION_EPS)
        return (moved / low + ROUNDINGS * rounding).sum(0)
