"""Transformations of metamorphic relations (specification section 7): batches with the same results as a given batch.

A transformation depends only on the batch, so that a case file suffices to reproduce a failing relation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tal_conformance.checks.relations.mirrored_keypoints import (
    keypoint_gradients_mirrored,
    keypoints_mirrored,
    rounded_keypoints,
)
from tal_conformance.checks.relations.views import ImageMapping, unchanged, with_sides
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import flatten, fold, other_fields, pixel_boxes
from tal_conformance.core.task import StageName
from tal_reference import Head

DYADIC = 2.0**20
"""Centres that are multiples of 1 / DYADIC have an exact mirror image in float32."""
SHIFTS = (100, -128, 30, 0, -64)
"""Numbers added to all distance logits of a side, in turn: exponentials overflow in float32 beyond 88.7, and vanish
below -104."""
LOGIT_STEP = 2.0**-12
"""Logits that are multiples of `LOGIT_STEP`, and at most 2,048 in size, are shifted exactly in float32."""
OF_MASKS = frozenset({StageName.SEG, "coefficients", "prototypes"})
"""The term and the head fields of masks. Boxes are compared with the left and top edges of pixels (SEG-2), so that a
mirrored box may have other pixels."""
MORE = 3
"""Ground truths of the image that lengthens the padding, beyond those of the fullest image."""


class Pair(NamedTuple):
    """One image before and after a transformation.

    Attributes:
        source: index, in the plan's `sources`, of the original batch that contains the image.
        image: index of the image in this original batch.
        changed_image: index of the image in the changed batch.
        mapping: rows, anchors and classes of the image in the changed batch.
    """

    source: int
    image: int
    changed_image: int
    mapping: ImageMapping


@dataclass(frozen=True)
class FollowUp:
    """A transformed batch, and for each of its images the original image from which it was made.

    Attributes:
        batch: the transformed batch.
        pairs: one pair of original and transformed image for each image of the transformed batch.
        extra: channel of an added class that the original batches do not have; None if no class was added.
    """

    batch: Batch
    pairs: tuple[Pair, ...]
    extra: int | None = None


@dataclass(frozen=True)
class TransformationPlan:
    """Original and transformed batches to compare. Every original image appears once in the transformed batches.

    Attributes:
        how: description of the change, for messages such as "`how`, the overlap is ...".
        sources: the original batches: the given batch, and further batches that the transformation needs.
        changed: transformed batches, whose images and losses must equal those of the original batches.
        unequal: names of the terms and head fields whose losses and gradients the transformation changes; then the
            total is not compared either.
        inexact: True if the transformation rounds, so that exact values differ too: by no more than the reference's.
    """

    how: str
    sources: tuple[Batch, ...]
    changed: tuple[FollowUp, ...]
    unequal: frozenset[str] = frozenset()
    inexact: bool = False


Transformation = Callable[[Batch], Iterator[TransformationPlan]]
"""Function that yields the plans of one relation for a batch; none if the relation does not apply to it."""


def permuted_truths(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: move the first ground truth of each image to the end."""
    rows, mappings = batch.annotations.clone(), []
    for image in range(batch.images):
        places = (batch.annotations[:, 0] == image).nonzero().flatten()  # (M,)
        rows[places] = batch.annotations[places.roll(-1)]
        mapping = unchanged(batch, image)
        # a row that OBB-ANN-2 drops moves none
        moves = len(places) > 0 and bool(with_sides(batch)[places[0]])
        mappings.append(replace(mapping, truths=mapping.truths.roll(1)) if moves else mapping)
    if max(len(mapping.truths) for mapping in mappings) > 1:
        yield TransformationPlan(
            "with the first ground truth of each image moved to its end",
            (batch,),
            (with_pairs(batch, mappings, rows=rows),),
        )


def permuted_images(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: move the first image of the batch to the end."""
    if batch.images > 1:
        order = [(0, image) for image in (*range(1, batch.images), 0)]
        yield TransformationPlan(
            "with the first image moved to the end", (batch,), (gathered((batch,), order),)
        )


def more_padding(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield two transformations that add padding: an image with more ground truths, and rows that ANN-3 drops."""
    most = int(torch.bincount(batch.annotations[:, 0].long(), minlength=1).max())
    sources = (batch, _crowded(batch, most + MORE))
    yield TransformationPlan(
        "with an image appended that has more ground truths, so that padding grows",
        sources,
        (_joined(*sources),),
    )
    if most:
        rows = _with_dropped_rows(batch, (1 << most.bit_length()) - most)
        yield TransformationPlan(
            "with rows that ANN-3 drops added to the fullest image, so that padding grows to a power of two, as on MPS",
            (batch,),
            (with_pairs(batch, mappings_of(batch), rows=rows),),
        )


def _with_dropped_rows(batch: Batch, count: int) -> Tensor:
    """Return the annotations (N, columns) with `count` boxes beyond the top left corner in the fullest image."""
    image = int(torch.bincount(batch.annotations[:, 0].long()).argmax())
    end = int((batch.annotations[:, 0] == image).nonzero()[-1]) + 1
    dropped = torch.zeros_like(batch.annotations[:1].expand(count, -1))
    dropped[:, 0], dropped[:, 2:4], dropped[:, 4:6] = image, -1.0, 0.125
    return torch.cat((batch.annotations[:end], dropped, batch.annotations[end:]))


def split(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: split the batch into its first image and all other images."""
    if batch.images > 1:
        parts = [(0, 0)], [(0, image) for image in range(1, batch.images)]
        yield TransformationPlan(
            "split into its first image and the others",
            (batch,),
            tuple(gathered((batch,), part) for part in parts),
        )


def empty_image(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: append an image without ground truths."""
    sources = (batch, with_pairs(_first_image(batch), [], rows=batch.annotations[:0]).batch)
    yield TransformationPlan("with an image without ground truths after it", sources, (_joined(*sources),))


def mirrored(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield up to two transformations: mirror the batch in x and in y, if every level fills the input on that axis."""
    batch = mirrorable(batch)
    for axis, names in ((0, "left-right"), (1, "top-bottom")):
        extent = batch.size[1 - axis]  # (height, width)
        columns = [grid[1 - axis] for grid in batch.grids]
        if all(count * stride == extent for count, stride in zip(columns, batch.head.strides, strict=True)):
            unequal = OF_MASKS if batch.family.has_masks else frozenset[str]()
            yield TransformationPlan(
                f"mirrored {names}", (batch,), (_mirrored(batch, axis, extent),), unequal
            )


def renamed_classes(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: rename every class to the next, and the last class to the first."""
    classes = batch.head.classes
    if classes > 1:
        rows = batch.annotations.clone()
        rows[:, 1] = (rows[:, 1] + 1) % classes
        mappings = [replace(mapping, classes=mapping.classes.roll(-1)) for mapping in mappings_of(batch)]
        distances, logits, others = head_fields(batch)
        maps = folded(batch, distances, logits.roll(1, dims=2), others)
        yield TransformationPlan(
            "with every class renamed to the next", (batch,), (with_pairs(batch, mappings, maps, rows),)
        )


def unreachable_class(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: insert a first class that has no ground truths, but the largest logits."""
    head = replace(batch.head, classes=batch.head.classes + 1, class_weights=None)
    rows = batch.annotations.clone()
    rows[:, 1] += 1
    mappings = [replace(mapping, classes=mapping.classes + 1) for mapping in mappings_of(batch)]
    distances, logits, others = head_fields(batch)
    logits = torch.cat((logits.amax(2, keepdim=True), logits), dim=2)  # (B, A, C + 1)
    maps = folded(batch, distances, logits, others)
    changed = replace(with_pairs(batch, mappings, maps, rows, head), extra=0)
    yield TransformationPlan(
        "with a class without ground truths inserted before the others", (batch,), (changed,)
    )


def shifted_logits(batch: Batch) -> Iterator[TransformationPlan]:
    """Yield one transformation: add a number to all distance logits of each side; softmax is unchanged (DEC-1)."""
    if batch.head.reg_max == 1:
        return  # a head of one bin has no softmax: its logit is the distance
    rounded = shiftable(batch)
    distances, logits, others = head_fields(rounded)  # (B, A, 4, R), (B, A, C), (B, A, others)
    number = torch.arange(4 * batch.anchors, device=batch.device).view(-1, 4)  # (A, 4)
    shifts = distances.new_tensor(SHIFTS)[number % len(SHIFTS)]  # (A, 4)
    maps = folded(rounded, distances + shifts[..., None], logits, others)
    yield TransformationPlan(
        "with a number added to all distance logits of a side",
        (rounded,),
        (with_pairs(rounded, mappings_of(rounded), maps),),
    )


def shiftable(batch: Batch) -> Batch:
    """Return the batch with distance logits to which any of `SHIFTS` can be added exactly, in float32.

    A second application of this function has no effect.
    """
    distances, logits, others = head_fields(batch)
    largest = 1 / LOGIT_STEP / 2  # a float32 holds multiples of the step up to twice this size
    rounded = (distances / LOGIT_STEP).round() * LOGIT_STEP
    maps = folded(batch, rounded.clamp(-largest, largest), logits, others)
    return changed_batch(batch, maps, batch.annotations)


def head_fields(batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """Return distance logits (B, A, 4, R), class logits (B, A, C), and the other fields (B, A, others) of a batch."""
    return (*flatten(batch.feature_maps, batch.head), other_fields(batch.feature_maps, batch.head))


def folded(batch: Batch, distances: Tensor, logits: Tensor, others: Tensor) -> tuple[Tensor, ...]:
    """Return feature maps of the head fields, the inverse of `head_fields`; the image's fields are the batch's own."""
    return (*fold(distances, logits, batch.grids, others), *batch.feature_maps[len(batch.levels) :])


def gathered(sources: Sequence[Batch], order: Sequence[tuple[int, int]]) -> FollowUp:
    """Return a batch of images from other batches.

    Args:
        sources: the batches to take images from.
        order: for each image of the result, the index of a batch in `sources` and of the image in this batch.
    """
    levels = len(sources[0].feature_maps)
    maps = tuple(
        torch.stack([sources[s].feature_maps[level][i] for s, i in order]) for level in range(levels)
    )
    rows = []
    for number, (source, image) in enumerate(order):
        annotations = sources[source].annotations
        rows.append(annotations[annotations[:, 0] == image].clone())
        rows[-1][:, 0] = number
    pairs = tuple(Pair(s, i, number, unchanged(sources[s], i)) for number, (s, i) in enumerate(order))
    return FollowUp(changed_batch(sources[0], maps, torch.cat(rows)), pairs)


def mirrorable(batch: Batch) -> Batch:
    """Return the batch without properties that break the symmetry. Applying this function twice changes nothing more.

    Ground truths that ANN-3 drops in one orientation are removed; centres and keypoints are rounded to values with an
    exact mirror image.
    """
    rows = batch.annotations.clone()
    rows[:, 2:4] = (rows[:, 2:4] * DYADIC).round() / DYADIC
    if batch.family.has_keypoints:
        batch, rows = mirrorable_keypoints(batch, rows)
    height, width = batch.size
    if batch.turned:
        return changed_batch(batch, batch.feature_maps, rows[_real_in_every_mirror(rows, batch.size)])
    left, top, right, bottom = pixel_boxes(rows.double(), batch.size).unbind(1)  # (N,) each
    across = torch.minimum(left + right, 2 * width - left - right)  # (N,) of both orientations
    down = torch.minimum(top + bottom, 2 * height - top - bottom)
    rounding = 8 * torch.finfo(torch.float32).eps * (width + height)  # of a sum of four coordinates
    return changed_batch(batch, batch.feature_maps, rows[across + down > rounding])


def mirrorable_keypoints(batch: Batch, rows: Tensor) -> tuple[Batch, Tensor]:
    """Return a batch of poses and its annotation rows, with keypoints rounded to values with an exact mirror image."""
    distances, logits, others = head_fields(batch)
    maps = folded(batch, distances, logits, rounded_keypoints(others, batch))
    rows = rows.clone()
    for column in (6, 7):
        rows[:, column::3] = (rows[:, column::3] * DYADIC).round() / DYADIC
    return changed_batch(batch, maps, rows), rows


def _real_in_every_mirror(rows: Tensor, size: tuple[int, int]) -> Tensor:
    """Return (N,) bool: True if OBB-ANN-3 keeps the row of a rotated box, and that of each mirror image."""
    height, width = size
    x, y, w, h = (rows[:, 2:6].double() * rows.new_tensor((width, height, width, height))).unbind(1)
    smallest = torch.minimum(x, width - x) + torch.minimum(y, height - y) + w + h - rows[:, 6].abs()  # (N,)
    # the rounding of a sum of five numbers
    rounding = 8 * torch.finfo(torch.float32).eps * (width + height + rows[:, 6].abs())
    return smallest > rounding


def _mirrored(batch: Batch, axis: int, extent: int) -> FollowUp:
    rows = batch.annotations.clone()
    rows[:, 2 + axis] = 1 - rows[:, 2 + axis]
    if batch.turned:
        rows[:, 6:] = -rows[:, 6:]  # the angle of a rotated box
    places, start = [], 0
    for height, width in batch.grids:
        grid = torch.arange(start, start + height * width, device=batch.device).view(height, width)
        places.append(grid.flip(1 - axis).flatten())
        start += height * width
    anchors = torch.cat(places)  # (A,)
    undo: dict[str, Callable[[Tensor], Tensor]] = {"angle": torch.neg}
    if batch.family.has_keypoints:
        rows[:, 6 + axis :: 3] = 1 - rows[:, 6 + axis :: 3]
        undo = {"keypoints": keypoint_gradients_mirrored(batch, axis)}
    mappings = [
        replace(mapping, anchors=anchors, mirrored=axis, extent=extent, undo=undo)
        for mapping in mappings_of(batch)
    ]
    distances, logits, others = head_fields(batch)  # (B, A, 4, R), (B, A, C), (B, A, others)
    sides = mappings[0].sides(distances)[:, anchors]
    others = others[:, anchors]
    if batch.turned:
        others = -others
    elif batch.family.has_keypoints:
        others = keypoints_mirrored(others, batch, axis)
    maps = folded(batch, sides, logits[:, anchors], others)
    return with_pairs(batch, mappings, maps, rows)


def mappings_of(batch: Batch) -> list[ImageMapping]:
    """Return the identity mapping of every image."""
    return [unchanged(batch, image) for image in range(batch.images)]


def with_pairs(
    batch: Batch,
    mappings: Sequence[ImageMapping],
    maps: tuple[Tensor, ...] | None = None,
    rows: Tensor | None = None,
    head: Head | None = None,
) -> FollowUp:
    """Return the batch with other feature maps, annotations or head, and the same order of images."""
    changed = changed_batch(
        batch,
        batch.feature_maps if maps is None else maps,
        batch.annotations if rows is None else rows,
        head,
    )
    return FollowUp(changed, tuple(Pair(0, image, image, mapping) for image, mapping in enumerate(mappings)))


def changed_batch(batch: Batch, maps: tuple[Tensor, ...], rows: Tensor, head: Head | None = None) -> Batch:
    """Return the batch with other feature maps, annotation rows and head, without hazards."""
    return replace(batch, feature_maps=maps, annotations=rows, head=head or batch.head, hazards=frozenset())


def _joined(batch: Batch, other: Batch) -> FollowUp:
    """Return one batch with the images of `batch`, followed by the images of `other`."""
    return gathered(
        (batch, other), [(s, i) for s, source in enumerate((batch, other)) for i in range(source.images)]
    )


def _first_image(batch: Batch) -> Batch:
    return gathered((batch,), [(0, 0)]).batch


def _crowded(batch: Batch, count: int) -> Batch:
    """Return one image with the first image's predictions and `count` ground truths of half the image's size."""
    step = torch.arange(1, count + 1, device=batch.device)  # (M,)
    rows = torch.zeros(count, batch.annotations.shape[1], device=batch.device)
    rows[:, 1] = step % batch.head.classes
    rows[:, 2], rows[:, 3] = step / (count + 1), (7 * step % count + 1) / (count + 1)
    rows[:, 4:6] = 0.5
    if batch.turned:
        rows[:, 6] = 0.3 * step
    elif batch.family.has_keypoints:
        rows[:, 6::3], rows[:, 7::3], rows[:, 8::3] = rows[:, 2:3], rows[:, 3:4], (step % 3)[:, None].float()
    elif batch.family.has_masks:  # every pixel belongs to one of them
        pixel = torch.arange(rows.shape[1] - 6, device=batch.device)
        rows[:, 6:] = (pixel % count == step[:, None] - 1).float()
    return with_pairs(_first_image(batch), [], rows=rows).batch
