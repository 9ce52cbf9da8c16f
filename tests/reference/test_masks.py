"""Tests of the loss of masks (SEG-*, SEM-*, S26-*): values computed by hand, plain loops, and the official loss."""

import math
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from tests.reference.official import Drawn
from tests.reference.official_families import LOSS_ROUNDINGS, Comparison, compare, random_batch, with_channels
from torch import Tensor

from tal_reference import Head, Hyperparameters, masks
from tal_reference.loss import DetectionLoss
from tal_reference.masks import (
    TrueMasks,
    inside,
    mask_loss,
    mask_overlap,
    segmentation_loss,
    semantic_term,
    true_masks,
)

BATCHES = 24


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Masked:
    """A random batch with masks.

    Attributes:
        batch: feature maps with n coefficients, and rows.
        prototypes: (B, n, h_p, w_p), a leaf.
        pictures: (B, h_m, w_m) overlapping masks, or (N, h_m, w_m) instance masks.
        overlapping: encoding of the masks.
        semantic: (B, C, h_s, w_s), a leaf; None without semantic logits.
        classes: (B, h_m, w_m) class of every pixel; None without semantic logits.
    """

    batch: Drawn
    prototypes: Tensor
    pictures: Tensor
    overlapping: bool
    semantic: Tensor | None
    classes: Tensor | None

    def reference(
        self, masks_assign: bool = False, topk: int = 10, topk2: int | None = None
    ) -> DetectionLoss:
        return segmentation_loss(
            self.batch.maps, self.batch.rows, self.batch.head, Hyperparameters(topk=topk, topk2=topk2),
            prototypes=self.prototypes, masks=self.pictures, overlapping=self.overlapping,
            semantic=self.semantic, classes=self.classes, masks_assign=masks_assign,
        )  # fmt: skip


def masked(
    seed: int, reg_max: int = 16, overlapping: bool = True, size: float = 1.0, semantic: float = 0.0
) -> Masked:
    """Return a random batch with masks.

    Args:
        seed: seed of the batch.
        reg_max: number of bins R.
        overlapping: encoding of the masks.
        size: height and width of the masks, relative to the prototypes.
        semantic: height and width of the semantic logits, relative to the prototypes; 0: no semantic logits.
    """
    channels = 1 + seed % 4
    batch = with_channels(random_batch(seed, reg_max), channels, seed)
    generator = torch.Generator().manual_seed(9000 + seed)
    images, (rows, columns) = len(batch.maps[0]), batch.maps[0].shape[2:]
    height, width = 2 * rows, 2 * columns  # stride 8, prototypes at stride 4
    shape = images, channels, height, width
    prototypes = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
    mask_size = round(height * size), round(width * size)
    rows_of = batch.rows[:, 0].long()
    most = int(rows_of.bincount(minlength=1).max())
    if overlapping:
        pictures = torch.randint(
            0, most + 2, (images, *mask_size), generator=generator
        )  # also numbers above the rows
    else:
        pictures = (
            torch.randint(0, 9, (len(rows_of), *mask_size), generator=generator) / 8
        )  # 4 / 8 is not above 0.5
    logits = classes = None
    if semantic:
        shape = images, batch.head.classes, round(height * semantic), round(width * semantic)
        logits = torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()
        classes = torch.randint(0, batch.head.classes, (images, *mask_size), generator=generator)
    return Masked(batch, prototypes, pictures.double(), overlapping, logits, classes)


def compared(drawn: Masked, name: str, topk: int = 10, topk2: int | None = None) -> Comparison:
    """Return the differences from the official loss of the given class."""
    losses = pytest.importorskip("ultralytics.utils.loss")
    loss = drawn.reference(name == "SegmentLoss26", topk, topk2)
    head = drawn.batch.head
    flat = torch.cat([level.flatten(2) for level in drawn.batch.maps], dim=2)  # (B, channels, A)
    pair = drawn.prototypes if drawn.semantic is None else (drawn.prototypes, drawn.semantic)
    leaves = [*drawn.batch.maps, drawn.prototypes, *([] if drawn.semantic is None else [drawn.semantic])]
    labels = {"masks": drawn.pictures}
    if drawn.classes is not None:
        labels["sem_masks"] = drawn.classes
    return compare(
        lambda model: getattr(losses, name)(model, topk, topk2),
        drawn.batch,
        {"mask_coefficient": flat[:, head.channels :], "proto": pair},
        labels,
        leaves,
        loss,
        {"overlap_mask": drawn.overlapping},
    )


KINDS: dict[str, dict[str, Any]] = {
    "overlapping": {},
    "instances": {"overlapping": False},
    "larger masks": {"size": 2.0},
    "smaller instances, one bin": {"size": 0.5, "overlapping": False, "reg_max": 1},
    "semantics": {"semantic": 1.0},
    "semantics of another size, instances": {"semantic": 0.5, "overlapping": False, "size": 2.0},
}


# --- the official loss


@pytest.mark.parametrize(("topk", "topk2"), [(10, None), (7, 1)])
@pytest.mark.parametrize("name", ["v8SegmentationLoss", "SegmentLoss26"])
@pytest.mark.parametrize("kind", KINDS)
def test_the_official_loss(kind: str, name: str, topk: int, topk2: int | None):
    """SEG-SUM-1, S26-1: items, total and all gradients equal those of the official loss on random batches."""
    found = [compared(masked(seed, **KINDS[kind]), name, topk, topk2) for seed in range(1, BATCHES)]
    assert sum(each.positives for each in found) > BATCHES
    assert max(each.values for each in found) < LOSS_ROUNDINGS
    assert max(each.gradients for each in found) < LOSS_ROUNDINGS


def test_the_official_loss_without_positives():
    """SEG-SUM-1, SEM-3, S26-4: without ground truths only cls is not zero, and the same leaves have gradients."""
    for name in ("v8SegmentationLoss", "SegmentLoss26"):
        drawn = masked(0, semantic=1.0)
        assert not len(drawn.batch.rows)
        found = compared(drawn, name)
        assert (found.positives, found.values < LOSS_ROUNDINGS, found.gradients < LOSS_ROUNDINGS) == (
            0,
            True,
            True,
        )
        loss = drawn.reference()
        assert loss.items[[0, 1, 3, 4]].tolist() == [0, 0, 0, 0]
        for gradient in torch.autograd.grad(loss.terms[1], [*drawn.batch.maps, drawn.prototypes]):
            assert not gradient.any()


DIFFERENCES: dict[str, tuple[str, Any]] = {
    "SEG-2, an edge": ("inside", lambda boxes, size: inside(boxes - 1, size)),
    "SEG-2, no crop": ("inside", lambda boxes, size: torch.ones_like(inside(boxes, size))),
    "SEG-2, the mean in the box": (
        "mask_loss",
        lambda logits, true, boxes: mask_loss(logits, true, boxes) * 1.001,
    ),
    "SEG-3, weights": (
        "mask_term",
        lambda given, found, *more: right_mask_term(given, found, *more) * found.weights.mean(),
    ),
    "SEM-2, no smoothing": ("SMOOTHING", 0.0),
    "S26-2, k for 3k": ("RANKED", 1),
    "S26-3, a threshold": (
        "mask_overlap",
        lambda logits, boxes, true: mask_overlap(logits - 0.5, boxes, true),
    ),
    "S26-3, soft masks": ("TRUE_PIXEL", 0.25),
}
right_mask_term = masks.mask_term


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_planted_differences_are_found(difference: str, monkeypatch: pytest.MonkeyPatch):
    """SEG-2, SEG-3, SEM-2, S26-2, S26-3: each change of the reference gives a difference from the official loss."""
    attribute, value = DIFFERENCES[difference]
    monkeypatch.setattr(masks, attribute, value)
    name = "SegmentLoss26" if difference.startswith("S26") else "v8SegmentationLoss"
    options = {"overlapping": False, "semantic": 1.0}
    found = [compared(masked(seed, **options), name) for seed in range(1, BATCHES)]
    assert max(each.values for each in found) > 1e-4


# --- values computed by hand


def test_masks_of_either_encoding():
    """SEG-IN-2, SEM-1: number i + 1 is the image's i-th row; a number above the rows only covers pixels."""
    rows = doubles([0, 0, 0.5, 0.5, 1, 1], [1, 0, 0.5, 0.5, 1, 1], [1, 0, 0.5, 0.5, 1, 1])
    pictures = doubles([[0, 1], [2, 0]], [[2, 1], [0, 9]])
    found = true_masks(pictures, rows, 2, True, None)
    assert [own.tolist() for own in found.instances] == [
        [[[0, 1], [0, 0]]],
        [[[0, 1], [0, 0]], [[1, 0], [0, 0]]],
    ]
    assert found.covered.tolist() == [[[False, True], [True, False]], [[True, True], [False, True]]]
    soft = doubles([[0, 0.25], [0, 0]], [[0, 0], [0, 0]], [[0, 0], [0.5, 0]])
    found = true_masks(soft, rows, 3, False, None)
    assert [len(own) for own in found.instances] == [1, 2, 0]
    assert found.covered.int().tolist() == [[[0, 1], [0, 0]], [[0, 0], [1, 0]], [[0, 0], [0, 0]]]


def test_masks_that_do_not_fit_the_rows():
    """SEG-IN-2: the number of masks is that of the images or of the rows; any other raises an error."""
    rows = doubles([0, 0, 0.5, 0.5, 1, 1], [0, 0, 0.5, 0.5, 1, 1])
    with pytest.raises(ValueError, match="expected 1: one per image"):
        true_masks(torch.zeros(2, 4, 4), rows, 1, True, None)
    with pytest.raises(ValueError, match="expected 2: one per row"):
        true_masks(torch.zeros(1, 4, 4), rows, 1, False, None)


@pytest.mark.parametrize(
    ("box", "pixels"),
    [
        ((0, 0, 4, 3), 12),
        ((0.5, 0, 4, 3), 9),  # the column 0 begins left of the box
        ((0, 0, 3.5, 3), 12),  # the column 3 begins in the box
        ((1.2, 0, 1.8, 3), 0),
        ((1.0, 0, 1.2, 3), 3),
        ((-2, -2, 1, 1), 1),
        ((3, 2, 9, 9), 1),
        ((2, 2, 2, 2), 0),
    ],
)
def test_the_crop(box: tuple[float, ...], pixels: int):
    """SEG-2: a pixel counts if its index lies in the box, not if it overlaps the box."""
    assert int(inside(doubles(box), (3, 4)).sum()) == pixels


def test_a_loss_in_plain_numbers():
    """SEG-2: cross-entropy of the pixels in the box, over all pixels, over the box's share of them."""
    logits = doubles([1.0, -2.0], [0.5, 3.0])
    mask = doubles([1.0, 0.0], [0.0, 0.5])
    box = doubles(0.0, 0.0, 1.5, 2.0)

    def cross_entropy(x: float, y: float) -> float:
        return math.log1p(math.exp(x)) - x * y

    every = [
        cross_entropy(x, y) for x, y in zip(logits.flatten().tolist(), mask.flatten().tolist(), strict=True)
    ]
    expected = sum(every) / 4 / (1.5 / 2 * 2 / 2)
    assert mask_loss(logits[None], mask[None], box[None]).item() == pytest.approx(expected, rel=1e-14)


def test_thin_boxes_cost_more():
    """SEG-2: a box whose width goes to zero while it has a column costs more and more (finding F2)."""
    logits, true = torch.zeros(3, 4, 4, dtype=torch.float64), torch.ones(3, 4, 4, dtype=torch.float64)
    losses = mask_loss(logits, true, doubles([1, 0, 2, 4], [1, 0, 1.1, 4], [1.1, 0, 1.9, 4]))
    assert losses.tolist() == pytest.approx([math.log(2), 10 * math.log(2), 0])
    assert mask_loss(logits[:1], true[:1], doubles([1, 0, 1, 4])).isnan().all()  # 0 / 0


def test_the_semantic_loss_in_plain_numbers():
    """SEG-IN-3, SEM-1, SEM-2: an uncovered pixel belongs to no class; Dice adds 1 above and below."""
    logits = torch.zeros(1, 2, 1, 2, dtype=torch.float64)
    covered = torch.tensor([[[True, False]]])
    of_pixels = torch.tensor([[[1, 0]]])
    loss = semantic_term(logits, TrueMasks([], covered, of_pixels))
    dice = (1 - 1 / 2, 1 - (2 * 0.5 + 1) / (1 + 1 + 1))  # class 0 has no pixel
    assert loss.item() == pytest.approx(math.log(2) / 2 + sum(dice) / 4, rel=1e-14)
    with pytest.raises(ValueError, match=r"outside \[0, 2\)"):
        semantic_term(logits, TrueMasks([], covered, of_pixels + 1))
    with pytest.raises(ValueError, match="None"):
        semantic_term(logits, TrueMasks([], covered, None))
    semantic_term(logits, TrueMasks([], covered, torch.tensor([[[1, 77]]])))  # not read where uncovered


def test_the_overlap_of_masks():
    """S26-3: pixels with a logit above 0 in the PREDICTED box, against all pixels of the true mask."""
    logits = doubles([1.0, 1.0, 0.0], [1.0, -1.0, 1.0])
    true = torch.tensor([[True, False, True], [True, True, False]])
    box = doubles([0, 0, 2, 2])
    assert mask_overlap(logits[None], box, true[None]).tolist() == [2 / 5]
    assert mask_overlap(-logits.abs()[None], box, torch.zeros_like(true)[None]).tolist() == [0]


def test_a_mask_alone_makes_an_overlap():
    """S26-2: a candidate whose box has CIoU 0 is compared, too, and its overlap is half of that of the masks."""
    head = Head((8, 16), 1, 1)
    maps = [torch.full((1, 6, 4, 4), -9.0).double(), torch.full((1, 6, 2, 2), -9.0).double()]
    for level in maps:
        level[:, 5] = 1.0  # the coefficient
    pictures = torch.ones(1, 8, 8).double()
    rows = doubles([0, 0, 0.5, 0.5, 1, 1])
    loss = segmentation_loss(
        maps,
        rows,
        head,
        keep_trace=True,
        prototypes=torch.ones(1, 1, 8, 8).double(),
        masks=pictures,
        masks_assign=True,
    )
    trace = loss.targets[0].trace
    assert trace is not None
    assert trace.overlap.unique().tolist() == [0.0]  # inverted boxes crop everything
    maps[0][:, :4] = 9.0
    loss = segmentation_loss(
        maps,
        rows,
        head,
        keep_trace=True,
        prototypes=torch.ones(1, 1, 8, 8).double(),
        masks=pictures,
        masks_assign=True,
    )
    trace = loss.targets[0].trace
    assert trace is not None
    assert 0.5 < trace.overlap.max().item() < 1


def test_weights_do_not_count():
    """COR-2, SEG-3, SEG-4: class logits of -200 make all weights tiny; seg is the same, and only seg reaches masks."""
    drawn = masked(7)
    losses = []
    for logit in (0.0, -200.0):
        maps = [level.detach().clone() for level in drawn.batch.maps]
        classes = slice(4 * drawn.batch.head.reg_max, drawn.batch.head.channels)
        for level in maps:
            level[:, classes] = logit
            level.requires_grad_()
        losses.append((maps, segmentation_loss(
            maps, drawn.batch.rows, drawn.batch.head, prototypes=drawn.prototypes, masks=drawn.pictures
        )))  # fmt: skip
    (_, first), (maps, second) = losses
    assert second.targets[0].weights.max() < 1e-20
    assert second.items[1].item() == pytest.approx(first.items[1].item(), rel=1e-12)
    of_seg = torch.autograd.grad(second.terms[1], maps)
    assert not any(gradient[:, : drawn.batch.head.channels].any() for gradient in of_seg)
    assert any(gradient[:, drawn.batch.head.channels :].any() for gradient in of_seg)


def test_prototypes_of_another_size():
    """SEG-1, SEG-IN-1: prototypes are interpolated to the size of the masks; wrong channels raise an error."""
    drawn = masked(3, size=2.0)
    assert drawn.reference().items[1] > 0
    resized = masks.resized_prototypes(drawn.prototypes, drawn.pictures.shape[1:])
    assert resized.shape[2:] == drawn.pictures.shape[1:]
    assert masks.resized_prototypes(drawn.prototypes, drawn.prototypes.shape[2:]) is drawn.prototypes
    with pytest.raises(ValueError, match=r"4R \+ C \+ n"):
        masks.read_masks(
            drawn.batch.maps, torch.zeros(len(drawn.prototypes), 9, 4, 4).double(), None, drawn.batch.head
        )
