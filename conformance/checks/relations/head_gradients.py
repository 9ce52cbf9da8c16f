"""Feature maps and gradients by head field, and the divisors of the loss terms (LOSS-SUM-1, COR-2)."""

from collections.abc import Sequence

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.task import Task
from tal_conformance.judgement.rounding.exact_loss import Gradients, fields_of
from tal_conformance.judgement.rounding.loss_rounding import on_all_anchors


def fields_of_maps(maps: Sequence[Tensor], batch: Batch) -> Gradients:
    """Return feature maps, or gradients on them, by head field: distances (B, A, 4, R), classes (B, A, C), others."""
    distances, *others = fields_of(maps, batch)
    return (distances.unflatten(2, (4, batch.head.reg_max)), *others)


def at_anchors(of_positives: Gradients, task: Task, foreground: Tensor) -> Gradients:
    """Return gradients of positives scattered to all anchors (B, A, width); those of the whole image as they are.

    Args:
        of_positives: gradients on every head field of the task, as `LossRounding` has them.
        task: the loss family.
        foreground: (B, A) True for positives.
    """
    count = len(task.fields) - len(task.image_fields)
    return *on_all_anchors(of_positives[:count], foreground), *of_positives[count:]


def divisors_of(task: Task, score_sum: Tensor, positives: int) -> Tensor:
    """Return (terms,) the divisor of each term: N, or P if the term counts all positives in full (COR-2)."""
    return torch.where(_weighted(task, score_sum), score_sum, positives)


def totalled(items: Tensor, whole: Tensor, divisors: Tensor, task: Task) -> Tensor:
    """Return (terms + 1,) each term times its divisor, and last the total in the same way.

    Of the total, the items of terms that count positives in full are multiplied by P, the rest by N.

    Args:
        items: (terms,) loss items.
        whole: the total without the factor B.
        divisors: (terms,) of `divisors_of`.
        task: the loss family.
    """
    weighted = _weighted(task, items)
    own, in_full = items * divisors, items.where(~weighted, 0)
    rest = (whole - in_full.sum()) * divisors[weighted][0]
    return torch.cat((own, (rest + own.where(~weighted, 0).sum())[None]))


def of_score_sum(values: Tensor, task: Task) -> Tensor:
    """Return `values` (terms + 1,), of `totalled`, without the parts that no error of N changes."""
    weighted = _weighted(task, values)
    own = values[:-1].abs().where(weighted, 0)
    return torch.cat((own, (values[-1].abs() if not task.counts_in_full else own.sum())[None]))


def _weighted(task: Task, like: Tensor) -> Tensor:
    return torch.tensor([term.weighted for term in task.terms], device=like.device)
