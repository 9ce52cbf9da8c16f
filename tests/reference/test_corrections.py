"""Tests of the corrections COR-1, COR-3 and COR-7, including comparisons with the official loss in float64."""

import math
from dataclasses import replace

import pytest
import torch
from tests.reference.four_anchors import AWAY, PREFER_0_0_1, THIRD, WIDE, run, taken, truths
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

from tal_reference import Head, Hyperparameters, detection_loss
from tal_reference.assignment import top_k
from tal_reference.loss import DetectionLoss, cls_loss, l1_loss

ROUNDINGS = 128 * 2**-53
BATCHES = 102
SETTINGS = [(16, 10, None), (1, 10, None), (1, 7, 1)]
"""(number of bins R, topk, topk2) of the random batches, in turn."""


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- COR-1: one bin


def test_distances_below_zero_are_not_clamped():
    """COR-1: the L1 loss of distances -1 and 3 with targets -2 and 1 is (1 + 2) x 8 / 128 / 4, without clamping."""
    loss = l1_loss(doubles([-1, 2, 3, 4]), doubles([-2, 2, 1, 4]), doubles([8]), (64, 128))
    assert loss.item() == (1 + 2) * 8 / 128 / 4


def test_top_and_bottom_are_shares_of_the_height():
    """COR-1: errors of left and right are divided by the input's width, of top and bottom by its height."""
    loss = l1_loss(
        doubles([0, 1, 0, 0], [0, 0, 0, 1], [1, 0, 0, 0]),
        torch.zeros(3, 4).double(),
        doubles([8], [8], [8]),
        (64, 128),
    )
    assert loss.tolist() == [8 / 64 / 4, 8 / 64 / 4, 8 / 128 / 4]


def test_an_exact_hit_has_no_gradient():
    """COR-1: the gradient of the L1 loss is 0 if distances equal their targets."""
    distances = doubles([1, 2, -3, 0]).requires_grad_()
    loss = l1_loss(distances, distances.detach().clone(), doubles([8]), (64, 128))
    assert not torch.autograd.grad(loss.sum(), distances)[0].any()


# --- COR-3: topk2


@pytest.mark.parametrize("topk2", [None, 0, 3])
def test_topk2_that_keeps_all(topk2: int | None):
    """COR-3: topk2 = None, 0 or k keeps all three positives of a ground truth."""
    numbers = Hyperparameters(topk=3, topk2=topk2)
    assert numbers.effective_topk2 is None
    _, trace = run(truths(WIDE), [WIDE] * 4, [[0.1], [0.9], [0.5], [0.3]], topk=3, topk2=topk2)  # type: ignore[arg-type]
    assert taken(trace.positives) == [[1, 2, 3]]


def test_topk2_equal_to_k_keeps_more_than_k():
    """COR-3: with topk2 = k = 1, a ground truth keeps the anchor that it selected and another that it won."""
    _, trace = run(THIRD, [WIDE] * 4, PREFER_0_0_1, topk=1, topk2=1)
    assert taken(trace.selected) == [[0], [0], [1]]
    assert taken(trace.positives) == [[], [], [0, 1]]


def test_positives_of_metric_zero_compete_with_every_other_zero():
    """COR-3: if every metric is zero, topk2 = 1 selects any one of four anchors.

    No positive remains, or exactly one.
    """
    _, trace = run(truths((0, 0, 16, 8)), [AWAY] * 4, [[0.5]] * 4, topk=4, topk2=1)
    assert taken(trace.selected) == [[0, 1]]
    best = top_k(torch.zeros(1, 4).double(), 1)
    assert taken(trace.positives) == taken(best & trace.selected)


def test_topk2_above_the_number_of_anchors_is_refused():
    """COR-3: topk2 above the number of anchors raises ValueError, just as k does."""
    with pytest.raises(ValueError, match="k = 5 of 4 anchors"):
        run(truths(WIDE), [WIDE] * 4, [[0.5]] * 4, topk=2, topk2=5)


# --- COR-7: class weights


def test_every_class_has_its_weight():
    """COR-7: with logits 0, 2 images, 3 anchors, class weights 0.5, 1, 2, the class loss is 6 x 3.5 ln 2."""
    at = tuple(torch.tensor([index]) for index in (1, 2, 0))
    loss = cls_loss(torch.zeros(2, 3, 3).double(), at, doubles(0.75), doubles(0.5, 1, 2))
    assert loss.item() == pytest.approx(6 * 3.5 * math.log(2), rel=ROUNDINGS)


def test_the_weight_of_a_positive_is_its_labels():
    """COR-7: for a positive of class 1, with class weight 2, both parts of the cross-entropy are doubled."""
    at = tuple(torch.tensor([index]) for index in (0, 0, 1))
    loss = cls_loss(doubles([[math.log(3)] * 2]), at, doubles(0.25), doubles(0.5, 2))
    towards_one, towards_zero = -math.log(0.75), -math.log(0.25)
    expected = 0.5 * towards_zero + 2 * (0.25 * towards_one + 0.75 * towards_zero)
    assert loss.item() == pytest.approx(expected, rel=ROUNDINGS)


def loss_of(batch: Drawn, topk: int, topk2: int | None, head: Head) -> DetectionLoss:
    return detection_loss(batch.maps, batch.rows, head, Hyperparameters(topk=topk, topk2=topk2))


def test_class_weights_change_cls_alone():
    """COR-7: class weights of 3 multiply the item cls by 3, and leave box, dfl and the target scores unchanged."""
    batch = drawn(3, 16, rotated=False)
    plain, ones, threes = (
        loss_of(batch, 10, None, replace(batch.head, class_weights=weights))
        for weights in (None, (1.0,) * batch.head.classes, (3.0,) * batch.head.classes)
    )
    assert torch.equal(plain.items, ones.items)
    torch.testing.assert_close(threes.items, plain.items * doubles(1, 3, 1), rtol=ROUNDINGS, atol=0)
    assert all(
        torch.equal(one.weights, other.weights)
        for one, other in zip(plain.targets, threes.targets, strict=True)
    )


# --- the official loss


def test_the_official_detection_loss():
    """COR-1, COR-3, COR-7, LOSS-GAIN-1: items and gradients equal those of the official loss in float64."""
    losses = pytest.importorskip("ultralytics.utils.loss")
    values, gradients = 0.0, 0.0
    with double_precision():
        for seed in range(BATCHES):
            reg_max, topk, topk2 = SETTINGS[seed % 3]
            batch = drawn(seed, reg_max, rotated=False)
            criterion = losses.v8DetectionLoss(model_of(batch.head), topk, topk2)
            total, items = criterion(predictions_of(batch.maps, batch.head), batch_of(batch.rows))
            expected = torch.autograd.grad(total.sum(), batch.maps)
            loss = loss_of(batch, topk, topk2, batch.head)
            found = torch.autograd.grad(loss.total, batch.maps)
            values = max(
                values,
                relative_difference(loss.items, torch.stack(list(items.values()))),
                relative_difference(loss.terms.detach(), total.detach()),
            )
            gradients = max(gradients, *map(relative_difference, found, expected))
    assert values < 1e-12
    assert gradients < 1e-11
