"""Tests of end-to-end heads (E2E-*): values computed by hand, and comparisons with the official loss in float64."""

from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from tests.reference.official import (
    Drawn,
    batch_of,
    double_precision,
    drawn,
    model_of,
    predictions_of,
    relative_difference,
)
from torch import Tensor

from tal_reference import Hyperparameters, Targets, detection_loss
from tal_reference.end_to_end import EndToEndLoss, branch_weights, end_to_end_loss
from tal_reference.rotated import rotated_loss

ROUNDINGS = 64 * 2**-53
BATCHES = 102


def branches_of(seed: int, reg_max: int, rotated: bool = False) -> tuple[Drawn, list[Tensor]]:
    """Return a random batch, whose feature maps are for the branch one2many, and feature maps for one2one."""
    batch = drawn(seed, reg_max, rotated)
    generator = torch.Generator().manual_seed(1000 + seed)
    noise = [torch.randn(level.shape, generator=generator, dtype=torch.float64) for level in batch.maps]
    return batch, [
        (level.detach() + other).requires_grad_() for level, other in zip(batch.maps, noise, strict=True)
    ]


def loss_of(
    batch: Drawn,
    one2one: list[Tensor],
    updates: int = 0,
    epochs: int = 100,
    hyperparameters: Hyperparameters = Hyperparameters(),
    **more: object,
) -> EndToEndLoss:
    numbers = replace(hyperparameters, updates=updates, epochs=epochs)
    return end_to_end_loss(batch.maps, one2one, batch.rows, batch.head, numbers, **more)  # type: ignore[arg-type]


def crowded() -> tuple[Drawn, list[Tensor]]:
    """Return a random batch of 3 images with at least 8 ground truths, and feature maps for the branch one2one."""
    return next(
        pair
        for pair in (branches_of(seed, 1) for seed in range(1, 200))
        if len(pair[0].maps[0]) == 3 and len(pair[0].rows) >= 8
    )


# --- branches


def most_positives(targets: list[Targets]) -> int:
    """Return the largest number of positives that a ground truth has in the targets of all images."""
    return max(int(image.truth_index[image.foreground].bincount(minlength=1).max()) for image in targets)


def test_either_branch_has_its_own_numbers():
    """E2E-2: topk is 10 in one2many; in one2one, topk is 7 and topk2 is 1. Gains, alpha and beta are as given."""
    batch, other = crowded()
    numbers = Hyperparameters(topk=3, alpha=1.0, beta=4.0, topk2=2, box_gain=1.0, cls_gain=2.0, dfl_gain=3.0)
    loss = loss_of(batch, other, hyperparameters=numbers)
    for maps, branch, (topk, topk2) in (
        (batch.maps, loss.one2many, (10, None)),
        (other, loss.one2one, (7, 1)),
    ):
        own = replace(numbers, topk=topk, topk2=topk2)
        alone = detection_loss(maps, batch.rows, batch.head, own)
        assert torch.equal(branch.terms, alone.terms)
    assert most_positives(loss.one2one.targets) == 1
    assert most_positives(loss.one2many.targets) > 7


def test_both_branches_read_the_same_annotations():
    """E2E-2: if both branches have the same maps, no image has more positives in one2one than in one2many."""
    batch, _ = crowded()
    loss = loss_of(batch, batch.maps)
    pairs = zip(loss.one2many.targets, loss.one2one.targets, strict=True)
    assert all(int(one.foreground.sum()) <= int(many.foreground.sum()) for many, one in pairs)
    assert torch.equal(loss.one2many.predictions.logits, loss.one2one.predictions.logits)


def test_stages_are_kept_when_asked_for():
    """E2E-2: with `keep_trace`, both branches store the trace of every image's assignment."""
    batch, other = crowded()
    loss = loss_of(batch, other, keep_trace=True)
    assert all(image.trace for image in loss.one2many.targets + loss.one2one.targets)


def test_fewer_anchors_than_one_branch_takes():
    """E2E-2, TAL-TOPK-2: with 8 anchors, one2many (k = 10) raises ValueError.

    The branch one2one (k = 7) alone would not raise.
    """
    batch = drawn(3, 1, rotated=False)
    maps = [level[:, :, :2, :2] for level in batch.maps]
    with pytest.raises(ValueError, match="k = 10 of 8 anchors"):
        end_to_end_loss(maps, maps, batch.rows, batch.head)


# --- total and items


@pytest.mark.parametrize("updates", [0, 3, 99])
def test_the_total_is_weighted_and_the_items_are_not(updates: int):
    """E2E-3: the total is a x one2many + (1 - a) x one2one, a being the weight; the logged items are one2one's."""
    batch, other = crowded()
    loss = loss_of(batch, other, updates=updates)
    many, one = branch_weights(updates, 100)
    assert many + one == pytest.approx(1, rel=ROUNDINGS)
    expected = [
        many * m + one * o
        for m, o in zip(loss.one2many.terms.tolist(), loss.one2one.terms.tolist(), strict=True)
    ]
    assert loss.terms.tolist() == pytest.approx(expected, rel=ROUNDINGS)
    assert loss.total.item() == pytest.approx(sum(expected), rel=ROUNDINGS)
    assert torch.equal(loss.items, loss.one2one.items)
    assert torch.equal(loss.items * 3, loss.one2one.terms.detach())  # three images


def test_items_depend_neither_on_weights_nor_on_one2many():
    """E2E-3: other branch weights, or other maps of one2many, do not change the logged items."""
    batch, other = crowded()
    zeros = replace(batch, maps=[torch.zeros_like(level) for level in batch.maps])
    assert torch.equal(loss_of(batch, other).items, loss_of(zeros, other, updates=50).items)


# --- weights


@pytest.mark.parametrize(
    ("updates", "epochs", "many"),
    [
        (0, 100, 0.8),
        (0, 1, 0.8),
        (0, 2, 0.8),
        (1, 2, 0.1),
        (1, 5, 0.625),
        (2, 5, 0.45),
        (3, 5, 0.275),
        (4, 5, 0.1),
        (5, 5, 0.1),  # never below
        (77, 5, 0.1),
        (1, 1, 0.1),
        (50, 101, 0.45),
        (0, 0, 0.8),
    ],
)
def test_weights_after_updates(updates: int, epochs: int, many: float):
    """E2E-4: after n of E epochs, one2many's weight is 0.1 + 0.7 max(0, 1 - n / max(E - 1, 1))."""
    assert branch_weights(updates, epochs) == pytest.approx((many, 1 - many), rel=ROUNDINGS)


@pytest.mark.parametrize("epochs", [1, 2, 10, 300])
def test_the_first_and_the_last_weight_are_exact(epochs: int):
    """E2E-4: the weight of one2many is exactly 0.8 before the first update, and exactly 0.1 from the last epoch on."""
    assert branch_weights(0, epochs)[0] == 0.8
    assert [branch_weights(updates, epochs)[0] for updates in (max(epochs - 1, 1), epochs, 2 * epochs)] == [
        0.1
    ] * 3


def test_one_update_an_epoch():
    """E2E-5: the weight of one2many decreases steadily to 0.1 in the last epoch; with one epoch it stays 0.8."""
    many = [branch_weights(epoch, 10)[0] for epoch in range(10)]
    steps = [before - after for before, after in pairwise(many)]
    assert (many[0], many[-1]) == (0.8, 0.1)
    assert steps == pytest.approx([0.7 / 9] * 9, rel=1e-13)
    assert [branch_weights(epoch, 1)[0] for epoch in range(1)] == [0.8]


# --- gradients


def test_gradients_are_the_branches_own_times_their_weights():
    """E2E-6: gradients are those of each branch's loss times its weight, on that branch's feature maps only."""
    batch, other = crowded()
    loss = loss_of(batch, other, updates=30)
    found = torch.autograd.grad(loss.total, batch.maps + other, retain_graph=True)
    many, one = loss.weights
    expected = [many * gradient for gradient in torch.autograd.grad(loss.one2many.total, batch.maps)]
    expected += [one * gradient for gradient in torch.autograd.grad(loss.one2one.total, other)]
    for ours, alone in zip(found, expected, strict=True):
        assert alone.any()
        torch.testing.assert_close(ours, alone, rtol=1e-12, atol=1e-15)


def test_the_same_maps_in_both_branches_add_their_gradients():
    """E2E-6: if both branches have the same maps, the gradients of both add up."""
    batch, _ = crowded()
    loss = loss_of(batch, batch.maps, updates=30)
    found = torch.autograd.grad(loss.total, batch.maps, retain_graph=True)
    parts = [torch.autograd.grad(branch.total, batch.maps) for branch in (loss.one2many, loss.one2one)]
    for ours, many, one in zip(found, *parts, strict=True):
        torch.testing.assert_close(
            ours, loss.weights[0] * many + loss.weights[1] * one, rtol=1e-12, atol=1e-15
        )


def test_gradients_exist_without_ground_truths():
    """E2E-6, LOSS-GRAD-1: without ground truths, box and dfl have gradients on the maps, which are zero."""
    batch, other = branches_of(0, 16)
    assert not len(batch.rows)
    loss = loss_of(batch, other)
    for gradient in torch.autograd.grad(loss.terms[0] + loss.terms[2], batch.maps + other):
        assert not gradient.any()


# --- the official loss


def test_the_official_loss():
    """E2E-2 to E2E-6: values and gradients equal the official loss's, for 1 and 16 bins, and for rotated boxes."""
    losses = pytest.importorskip("ultralytics.utils.loss")
    values, gradients = 0.0, 0.0
    with double_precision():
        for seed in range(BATCHES):
            reg_max, rotated, updates, epochs = (
                (1, 16)[seed % 2],
                seed % 4 > 1,
                seed % 7,
                (1, 2, 10)[seed % 3],
            )
            batch, other = branches_of(seed, reg_max, rotated)
            model = model_of(batch.head, epochs)
            criterion = losses.E2ELoss(model, losses.v8OBBLoss if rotated else losses.v8DetectionLoss)
            for _ in range(updates):
                criterion.update()
            predictions = {
                "one2many": predictions_of(batch.maps, batch.head),
                "one2one": predictions_of(other, batch.head),
            }
            total, items = criterion(predictions, batch_of(batch.rows))
            expected = torch.autograd.grad(total.sum(), batch.maps + other)
            family = {"branch_loss": rotated_loss, "hyperparameters": Hyperparameters()} if rotated else {}
            loss = loss_of(batch, other, updates, epochs, **family)
            found = torch.autograd.grad(loss.total, batch.maps + other)
            values = max(
                values,
                relative_difference(loss.items, torch.stack(list(items.values()))),
                relative_difference(loss.terms.detach(), total.detach()),
            )
            gradients = max(gradients, *map(relative_difference, found, expected))
    assert values < 1e-12
    assert gradients < 1e-11
