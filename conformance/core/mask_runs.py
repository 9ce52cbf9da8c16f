"""Run lengths of masks: the pixels of annotation rows, as case files store them (SEG-IN-2)."""

from collections.abc import Mapping

import torch
from torch import Tensor

from tal_conformance.core.task import TASKS
from tal_reference import Head

VALUES, LENGTHS = "masks.values", "masks.lengths"
"""Names of the tensors of a case file that hold value and length of every run."""
MOST_PIXELS = 2**28
"""Largest number of pixels of all masks of a batch that `decoded` makes, 1 GiB: a few runs may stand for any number."""


def encoded(annotations: Tensor, head: Head, task: str) -> dict[str, Tensor]:
    """Return the annotation rows as tensors of a case file: rows without masks, and runs of equal pixels.

    The pixels of all rows are one sequence, row by row. Values are compared by their bits, so that nothing is lost.
    Rows of other shapes, and those of tasks without masks, are returned unchanged.
    """
    family = TASKS.get(task)
    fits = family is not None and family.has_masks and annotations.dim() == 2
    if family is None or not fits or annotations.shape[1] != family.columns(head):
        return {"annotations": annotations}
    if annotations.dtype != torch.float32:
        return {"annotations": annotations}
    rows, pixels = annotations.cpu().tensor_split((family.annotation_columns,), dim=1)
    bits, lengths = pixels.contiguous().view(torch.int32).flatten().unique_consecutive(return_counts=True)
    return {"annotations": rows.contiguous(), VALUES: bits.view(torch.float32), LENGTHS: lengths}


def decoded(tensors: Mapping[str, Tensor], head: Head, task: str) -> Tensor:
    """Return the annotation rows that `encoded` made into tensors.

    Raises:
        ValueError: the runs do not fit the head and the rows, or stand for more than `MOST_PIXELS` pixels.
    """
    rows, family = tensors["annotations"], TASKS[task]
    if VALUES not in tensors and LENGTHS not in tensors:
        return rows
    if VALUES not in tensors or LENGTHS not in tensors or not family.has_masks:
        raise ValueError(f"unexpected tensors {sorted(tensors)}: expected masks with a task that has them")
    values, lengths = tensors[VALUES], tensors[LENGTHS]
    width = family.columns(head) - family.annotation_columns  # pixels of a mask
    count = rows.shape[0] if rows.dim() == 2 else 0
    pixels = count * width
    if pixels > MOST_PIXELS:
        raise ValueError(f"masks have {pixels} pixels, expected at most {MOST_PIXELS}")
    shapes = rows.dim() == 2 and values.dim() == lengths.dim() == 1 and len(values) == len(lengths)
    dtypes = (rows.dtype, values.dtype, lengths.dtype) == (torch.float32, torch.float32, torch.int64)
    if (
        not shapes
        or not dtypes
        or bool(((lengths < 1) | (lengths > max(pixels, 1))).any())
        or int(lengths.sum()) != pixels
    ):
        raise ValueError(
            f"the runs of masks are {tuple(values.shape)} {values.dtype} and {tuple(lengths.shape)} {lengths.dtype};"
            f" expected positive lengths with the sum {pixels}, the pixels of {count} masks"
        )
    masks = values.repeat_interleave(lengths).unflatten(0, (count, width))  # (N, h_m w_m)
    return torch.cat((rows, masks), dim=1)
