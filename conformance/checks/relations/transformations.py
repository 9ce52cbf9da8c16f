"""The changes of specification section 7: batches that an implementation must treat as it treats the given one.

Every change is a function of the batch alone, so that a case file is all it takes to repeat a broken relation.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor

from tal_conformance.checks.relations.views import ImageMapping, unchanged
from tal_conformance.core.batch import Batch
from tal_conformance.core.geometry import flatten, fold, pixel_boxes
from tal_reference import Head

DYADIC = 2.0**20
"""Centres that are multiples of 1 / DYADIC have a mirror image in float32 that is none the less exact."""
MORE = 3
"""Ground truths that the image which makes the padding longer has beyond those of the fullest image."""


class Pair(NamedTuple):
    """One image, before and after.

    Attributes:
        source: index of the batch that it is of.
        image: its index there.
        here: its index in the changed batch.
        look: how it looks in the changed batch.
    """

    source: int
    image: int
    here: int
    look: ImageMapping


@dataclass(frozen=True)
class FollowUp:
    """A changed batch, with every one of its images traced to where it comes from.

    Attributes:
        batch: the batch.
        pairs: one for each image of it.
        extra: channel of a class that no source has; None where there is none.
    """

    batch: Batch
    pairs: tuple[Pair, ...]
    extra: int | None = None


@dataclass(frozen=True)
class TransformationPlan:
    """What is run and compared. All images of the sources appear in the changed batches, each once.

    Attributes:
        how: the change, so that "`how`, the overlap is .." is a sentence.
        sources: the given batch, and those beside it.
        changed: batches whose images and losses must be those of the sources.
    """

    how: str
    sources: tuple[Batch, ...]
    changed: tuple[FollowUp, ...]


Transformation = Callable[[Batch], Iterator[TransformationPlan]]
"""The plans of one relation for a batch; none where the relation says nothing of it."""


def permuted_truths(batch: Batch) -> Iterator[TransformationPlan]:
    """The first ground truth of each image becomes its last."""
    rows, looks = batch.annotations.clone(), []
    for image in range(batch.images):
        places = (batch.annotations[:, 0] == image).nonzero().flatten()  # (M,)
        rows[places] = batch.annotations[places.roll(-1)]
        look = unchanged(batch, image)
        looks.append(replace(look, truths=look.truths.roll(1)))
    if max(len(look.truths) for look in looks) > 1:
        yield TransformationPlan(
            "with the first ground truth of each image moved to its end",
            (batch,),
            (_remade(batch, looks, rows=rows),),
        )


def permuted_images(batch: Batch) -> Iterator[TransformationPlan]:
    """The first image becomes the last."""
    if batch.images > 1:
        order = [(0, image) for image in (*range(1, batch.images), 0)]
        yield TransformationPlan(
            "with the first image moved to the end", (batch,), (gathered((batch,), order),)
        )


def more_padding(batch: Batch) -> Iterator[TransformationPlan]:
    """An image with more ground truths than any other follows, so that all others are padded further."""
    most = int(torch.bincount(batch.annotations[:, 0].long(), minlength=1).max())
    sources = (batch, _crowded(batch, most + MORE))
    yield TransformationPlan(
        "with a fuller image after it, and so longer padding", sources, (_joined(*sources),)
    )


def split(batch: Batch) -> Iterator[TransformationPlan]:
    """The first image alone, and the others together."""
    if batch.images > 1:
        parts = [(0, 0)], [(0, image) for image in range(1, batch.images)]
        yield TransformationPlan(
            "split into its first image and the others",
            (batch,),
            tuple(gathered((batch,), part) for part in parts),
        )


def empty_image(batch: Batch) -> Iterator[TransformationPlan]:
    """An image without ground truths follows."""
    sources = (batch, _remade(_first_image(batch), [], rows=batch.annotations[:0]).batch)
    yield TransformationPlan("with an image without ground truths after it", sources, (_joined(*sources),))


def mirrored(batch: Batch) -> Iterator[TransformationPlan]:
    """Left and right change places, and top and bottom in another batch; where every level fills the input."""
    batch = mirrorable(batch)
    for axis, names in ((0, "left-right"), (1, "top-bottom")):
        extent = batch.size[1 - axis]  # (height, width)
        columns = [grid[1 - axis] for grid in batch.grids]
        if all(count * stride == extent for count, stride in zip(columns, batch.head.strides, strict=True)):
            yield TransformationPlan(f"mirrored {names}", (batch,), (_mirrored(batch, axis, extent),))


def renamed_classes(batch: Batch) -> Iterator[TransformationPlan]:
    """Every class becomes the next one, the last one the first."""
    classes = batch.head.classes
    if classes > 1:
        rows = batch.annotations.clone()
        rows[:, 1] = (rows[:, 1] + 1) % classes
        looks = [replace(look, classes=look.classes.roll(-1)) for look in _looks(batch)]
        distances, logits = flatten(batch.feature_maps, batch.head)
        maps = fold(distances, logits.roll(1, dims=2), batch.grids)
        yield TransformationPlan(
            "with every class renamed to the next", (batch,), (_remade(batch, looks, maps, rows),)
        )


def unreachable_class(batch: Batch) -> Iterator[TransformationPlan]:
    """A class without ground truths comes before the others; it is predicted as strongly as any other."""
    head = Head(batch.head.strides, batch.head.classes + 1, batch.head.reg_max)
    rows = batch.annotations.clone()
    rows[:, 1] += 1
    looks = [replace(look, classes=look.classes + 1) for look in _looks(batch)]
    distances, logits = flatten(batch.feature_maps, batch.head)
    logits = torch.cat((logits.amax(2, keepdim=True), logits), dim=2)  # (B, A, C + 1)
    changed = replace(_remade(batch, looks, fold(distances, logits, batch.grids), rows, head), extra=0)
    yield TransformationPlan("with a class that no ground truth has before the others", (batch,), (changed,))


def gathered(sources: Sequence[Batch], order: Sequence[tuple[int, int]]) -> FollowUp:
    """A batch of images of other batches: `order` names the source and the image there of each."""
    levels = len(sources[0].feature_maps)
    maps = tuple(
        torch.stack([sources[s].feature_maps[level][i] for s, i in order]) for level in range(levels)
    )
    rows = []
    for here, (source, image) in enumerate(order):
        annotations = sources[source].annotations
        rows.append(annotations[annotations[:, 0] == image].clone())
        rows[-1][:, 0] = here
    pairs = tuple(Pair(s, i, here, unchanged(sources[s], i)) for here, (s, i) in enumerate(order))
    return FollowUp(_with(sources[0], maps, torch.cat(rows)), pairs)


def mirrorable(batch: Batch) -> Batch:
    """The batch without what breaks the symmetry; does nothing to its own result.

    That is ground truths that ANN-3 drops in some orientation, and centres that have no exact mirror image.
    """
    rows = batch.annotations.clone()
    rows[:, 2:4] = (rows[:, 2:4] * DYADIC).round() / DYADIC
    height, width = batch.size
    left, top, right, bottom = pixel_boxes(rows.double(), batch.size).unbind(1)  # (N,) each
    across = torch.minimum(left + right, 2 * width - left - right)  # (N,) of both orientations
    down = torch.minimum(top + bottom, 2 * height - top - bottom)
    rounding = 8 * torch.finfo(torch.float32).eps * (width + height)  # of a sum of four coordinates
    return _with(batch, batch.feature_maps, rows[across + down > rounding])


def _mirrored(batch: Batch, axis: int, extent: int) -> FollowUp:
    rows = batch.annotations.clone()
    rows[:, 2 + axis] = 1 - rows[:, 2 + axis]
    places, start = [], 0
    for height, width in batch.grids:
        grid = torch.arange(start, start + height * width, device=batch.device).view(height, width)
        places.append(grid.flip(1 - axis).flatten())
        start += height * width
    anchors = torch.cat(places)  # (A,)
    looks = [replace(look, anchors=anchors, mirrored=axis, extent=extent) for look in _looks(batch)]
    distances, logits = flatten(batch.feature_maps, batch.head)  # (B, A, 4, R), (B, A, C)
    maps = fold(looks[0].sides(distances)[:, anchors], logits[:, anchors], batch.grids)
    return _remade(batch, looks, maps, rows)


def _looks(batch: Batch) -> list[ImageMapping]:
    return [unchanged(batch, image) for image in range(batch.images)]


def _remade(
    batch: Batch,
    looks: Sequence[ImageMapping],
    maps: tuple[Tensor, ...] | None = None,
    rows: Tensor | None = None,
    head: Head | None = None,
) -> FollowUp:
    """The batch with other feature maps, annotations or head; image i stays image i."""
    made = _with(
        batch,
        batch.feature_maps if maps is None else maps,
        batch.annotations if rows is None else rows,
        head,
    )
    return FollowUp(made, tuple(Pair(0, image, image, look) for image, look in enumerate(looks)))


def _with(batch: Batch, maps: tuple[Tensor, ...], rows: Tensor, head: Head | None = None) -> Batch:
    return replace(batch, feature_maps=maps, annotations=rows, head=head or batch.head, hazards=frozenset())


def _joined(batch: Batch, other: Batch) -> FollowUp:
    """One batch of the images of two."""
    return gathered(
        (batch, other), [(s, i) for s, source in enumerate((batch, other)) for i in range(source.images)]
    )


def _first_image(batch: Batch) -> Batch:
    return gathered((batch,), [(0, 0)]).batch


def _crowded(batch: Batch, count: int) -> Batch:
    """One image with the first one's predictions and so many ground truths, spread over it, of half its size."""
    step = torch.arange(1, count + 1, device=batch.device)  # (M,)
    rows = torch.zeros(count, 6, device=batch.device)
    rows[:, 1] = step % batch.head.classes
    rows[:, 2], rows[:, 3] = step / (count + 1), (7 * step % count + 1) / (count + 1)
    rows[:, 4:] = 0.5
    return _remade(_first_image(batch), [], rows=rows).batch
