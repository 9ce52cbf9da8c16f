"""Tests of the stages "cls", "box", "dfl" and "total" (LOSS-*), computed by hand in float64."""

import math
from fractions import Fraction

import pytest
import torch
from torch import Tensor

from tal_reference import (
    ARTICLE,
    Anchors,
    BatchTargets,
    DetectionLoss,
    GroundTruths,
    Head,
    Hyperparameters,
    Predictions,
    Targets,
    assign,
    detection_loss,
)
from tal_reference.loss import (
    box_loss,
    cls_loss,
    dfl_loss,
    distances_to,
    l1_loss,
    loss_items,
    read_predictions,
    stacked,
)

EPS = Fraction(1, 10**7)
# No value here takes more than 128 float64 operations, each off by at most one rounding.
ROUNDINGS = 128 * 2**-53
LN2, LN3 = math.log(2), math.log(3)
CE = [-math.log(p) for p in (0.1, 0.2, 0.3, 0.4)]  # cross-entropies of four bins with these probabilities


def near(*values: float | Fraction) -> object:
    return pytest.approx([float(value) for value in values], rel=ROUNDINGS, abs=ROUNDINGS)


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


# --- the terms


def test_cls_of_a_logit_of_zero():
    """LOSS-CLS-1: 30 logits of zero have the class loss 30 ln 2, for random target scores."""
    scores = torch.rand(2, 3, 5, dtype=torch.float64)
    loss = cls_loss(torch.zeros_like(scores), scores.nonzero(as_tuple=True), scores.flatten())
    assert loss.item() == pytest.approx(30 * LN2, rel=ROUNDINGS)


@pytest.mark.parametrize(
    ("logit", "score", "expected"),
    [
        (LN3, 0.75, -0.75 * math.log(0.75) - 0.25 * math.log(0.25)),  # sigmoid 3/4
        (LN3, 0, -math.log(0.25)),
        (LN3, 1, -math.log(0.75)),
        (-LN3, 0.25, -0.25 * math.log(0.25) - 0.75 * math.log(0.75)),  # sigmoid 1/4
        (-1000, 1, 1000),  # no overflow
        (-1000, 0, 0),
    ],
)
def test_cls(logit: float, score: float, expected: float):
    """LOSS-CLS-1: the loss of a logit with sigmoid p and target score y is - y ln p - (1 - y) ln(1 - p)."""
    only = torch.zeros(1, dtype=torch.long)
    loss = cls_loss(doubles([[logit]]), (only, only, only), doubles(score))
    assert loss.item() == pytest.approx(expected, rel=ROUNDINGS)


def test_cls_of_logits_without_a_target():
    """LOSS-CLS-1: the loss of a logit with sigmoid p and target score 0 is - ln (1 - p)."""
    nothing = torch.zeros(0, dtype=torch.long)
    loss = cls_loss(doubles([[LN3, 0.0]]), (nothing, nothing, nothing), doubles())
    assert loss.item() == pytest.approx(math.log(4) + LN2, rel=ROUNDINGS)


def test_cls_of_each_logit_where_it_stands():
    """LOSS-CLS-1: on logits (2, 3, 2) with three target scores y, the gradient of each logit x is sigmoid(x) - y."""
    logits = torch.linspace(-2, 3, 12, dtype=torch.float64).reshape(2, 3, 2).requires_grad_()
    scores = torch.zeros(2, 3, 2, dtype=torch.float64)
    scores[0, 1, 0], scores[1, 2, 1], scores[1, 0, 1] = 0.75, 0.25, 0.5
    at = scores.nonzero(as_tuple=True)
    (gradient,) = torch.autograd.grad(cls_loss(logits, at, scores[at]), logits)
    assert torch.allclose(gradient, logits.detach().sigmoid() - scores, rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("logit", [30.0, 39.9, 40.0, 40.1, 80.0, 1000.0])
def test_cls_of_a_large_logit(logit: float, dtype: torch.dtype):
    """LOSS-CLS-1: the loss of a logit x from 30 to 1000, target score 0, is log(1 + e^x) to two roundings."""
    nothing = torch.zeros(0, dtype=torch.long)
    loss = cls_loss(
        torch.full((1, 1, 1), logit, dtype=dtype), (nothing, nothing, nothing), torch.zeros(0, dtype=dtype)
    )
    expected = logit + math.log1p(math.exp(-logit))
    assert loss.item() == pytest.approx(expected, rel=2 * torch.finfo(dtype).eps, abs=0)


def test_box():
    """LOSS-BOX-1: the box loss is 1 - CIoU.

    The cases are two overlapping 4 x 2 boxes, the same boxes at a quarter of the size, and two boxes without overlap.
    """
    predicted = doubles([0, 0, 4, 2], [0, 0, 1, 0.5], [0, 0, 4, 2])
    target = doubles([2, 0, 6, 2], [0.5, 0, 1.5, 0.5], [8, 0, 12, 2])
    large = 4 / (12 + 9 * EPS) - 4 / (40 + EPS)
    small = Fraction(1, 4) / (Fraction(3, 4) + 3 * EPS) - Fraction(1, 4) / (Fraction(5, 2) + EPS)
    apart = -64 / (148 + EPS)
    assert box_loss(predicted, target).tolist() == near(1 - large, 1 - small, 1 - apart)


def test_target_distances():
    """LOSS-DFL-1: target distances are in the order left, top, right, bottom.

    Some target distances are negative if the anchor lies outside its target box.
    """
    distances = distances_to(doubles([1, 2, 7, 11], [3, 0, 4, 1]), doubles([2.5, 3.5], [2, 2]))
    assert distances.tolist() == [[1.5, 1.5, 4.5, 7.5], [-1, 2, 2, -1]]


def dfl_of(*distances: float) -> float:
    """Return the DFL of one anchor for the given target distances.

    Each side has bin probabilities 0.1, 0.2, 0.3, 0.4.
    """
    logits = doubles([math.log(p) for p in (0.1, 0.2, 0.3, 0.4)] * 4)
    return dfl_loss(logits, doubles(distances), 4).item()


@pytest.mark.parametrize(
    ("distance", "expected"),
    [
        (1.25, 0.75 * CE[1] + 0.25 * CE[2]),
        (0.5, 0.5 * CE[0] + 0.5 * CE[1]),
        (2.75, 0.25 * CE[2] + 0.75 * CE[3]),
        (0, CE[0]),  # integer distances lie on one bin
        (1, CE[1]),
        (2, CE[2]),
        (2.99, 0.01 * CE[2] + 0.99 * CE[3]),
        (2.995, 0.01 * CE[2] + 0.99 * CE[3]),  # clamped to R - 1 - 0.01 = 2.99
        (3, 0.01 * CE[2] + 0.99 * CE[3]),
        (40, 0.01 * CE[2] + 0.99 * CE[3]),
        (-0.5, CE[0]),  # clamped to 0
        (-40, CE[0]),
    ],
)
def test_dfl_of_one_distance(distance: float, expected: float):
    """LOSS-DFL-1: DFL is the cross-entropy at the two bins around the target distance, weighted by nearness."""
    assert dfl_of(*[distance] * 4) == pytest.approx(expected, rel=ROUNDINGS)


def test_dfl_is_the_mean_of_the_sides():
    """LOSS-DFL-1: DFL is the mean over the four sides, here with target distances 1.25, 2, 5 and -1."""
    expected = (0.75 * CE[1] + 0.25 * CE[2] + CE[2] + 0.01 * CE[2] + 0.99 * CE[3] + CE[0]) / 4
    assert dfl_of(1.25, 2, 5, -1) == pytest.approx(expected, rel=ROUNDINGS)


def test_dfl_gives_each_side_its_own_bins():
    """PRE-1, LOSS-DFL-1: each side reads its own bins.

    The four sides have the probabilities 0.1, 0.2, 0.3, 0.4 at bin 0.
    """
    logits = doubles([math.log(x) for p in (0.1, 0.2, 0.3, 0.4) for x in (p, 1 - p)])
    assert dfl_loss(logits, doubles([0, 0, 0, 0]), 2).item() == pytest.approx(sum(CE) / 4, rel=ROUNDINGS)
    first = dfl_loss(logits, doubles([0.5, 0, 0, 0]), 2).item()  # left: half of each bin
    assert first == pytest.approx((sum(CE) + 0.5 * (-math.log(0.9) - CE[0])) / 4, rel=ROUNDINGS)


def test_l1():
    """LOSS-DFL-1 with R = 1: the L1 loss is the mean error in pixels over the input's sides, 64 x 32 pixels."""
    distances, target = doubles([1, 2, 3, 4], [-1, 0, 0, 0]), doubles([0, 2, 5, 1], [1, 0, 0, 90])
    loss = l1_loss(distances, target, doubles([8], [16]), (32, 64))
    # the second anchor: errors 2 and 90 grid units of 16 pixels; nothing is clamped
    assert loss.tolist() == [(1 / 8 + 0 + 2 / 8 + 3 / 4) / 4, (2 / 4 + 90 / 2) / 4]


# --- their weighted sum

# Two images, three anchors: two of stride 8, one of stride 16. C = 2, R = 4 with the probabilities above.
HEAD = Head((8, 16), classes=2, reg_max=4)
ANCHORS = Anchors(doubles([0.5, 0.5], [1.5, 0.5], [0.5, 0.5]), doubles([8], [8], [16]))
ONES = Hyperparameters(box_gain=1.0, cls_gain=1.0, dfl_gain=1.0)


def predictions() -> Predictions:
    logits = torch.zeros(2, 3, 2, dtype=torch.float64)
    logits[0, 1, 0], logits[1, 0, 1] = LN3, -LN3
    sides = doubles([math.log(p) for p in (0.1, 0.2, 0.3, 0.4)] * 4)  # each 2: boxes of 4 x 4
    distances = sides.expand(2, 3, 16)
    return Predictions(distances, logits, ANCHORS, (8, 16))


def targets(first: float, second: float) -> BatchTargets:
    """Return targets of two images: positives with scores `first` and `second`, and a positive with score 0."""
    foreground = torch.tensor([[False, True, False], [True, False, True]])
    boxes, scores = torch.zeros(2, 3, 4, dtype=torch.float64), torch.zeros(2, 3, 2, dtype=torch.float64)
    boxes[0, 1] = doubles(2, -12, 52, -4)  # 0.25, -1.5, 6.5, -0.5 in grid units: distances 1.25, 2, 5, -1
    boxes[1, 0] = doubles(0, 0, 3, 3)
    boxes[1, 2] = doubles(8, 0, 32, 56)  # 0.5, 0, 2, 3.5 in grid units: distances 0, 0.5, 1.5, 3
    scores[0, 1, 0], scores[1, 2, 1] = first, second
    return BatchTargets(foreground, boxes, scores)


def box_term(width: Fraction, height: Fraction, shared: Fraction, apart: Fraction, around: Fraction) -> float:
    """Return 1 - CIoU (IOU-1) of a box and the 4 x 4 prediction.

    `shared` is the area of the intersection, `apart` the squared distance of the centres, and `around` the squared
    diagonal of the enclosing box without e.
    """
    iou = shared / (width * (height + EPS) + 4 * (4 + EPS) - shared + EPS)
    v = 4 / math.pi**2 * (math.atan(4 / (4 + EPS)) - math.atan(width / (height + EPS))) ** 2
    return 1 - float(iou) + float(apart / (around + EPS)) + v**2 / (1 - float(iou) + v + float(EPS))


# 6.25 x 1 from (0.25, -1.5), 4 x 4 around (1.5, 0.5): 3.25 x 1 shared, centres (1.875, 1.5) apart, 7 x 4 around both
FIRST_BOX = box_term(*map(Fraction, ("6.25", "1", "3.25", "5.765625", "65")))
# 1.5 x 3.5 from (0.5, 0), 4 x 4 around (0.5, 0.5): 1.5 x 2.5 shared, centres (0.75, 1.25) apart, 4 x 5 around both
SECOND_BOX = box_term(*map(Fraction, ("1.5", "3.5", "3.75", "2.125", "41")))
FIRST_DFL = (0.75 * CE[1] + 0.25 * CE[2] + CE[2] + 0.01 * CE[2] + 0.99 * CE[3] + CE[0]) / 4
SECOND_DFL = (CE[0] + 0.5 * (CE[0] + CE[1]) + 0.5 * (CE[1] + CE[2]) + 0.01 * CE[2] + 0.99 * CE[3]) / 4
# ten logits of 0, one of ln 3 with the first score, one of -ln 3 with score 0


def cls_sum(first: float) -> float:
    return 10 * LN2 - first * math.log(0.75) - (1 - first) * math.log(0.25) - math.log(0.75)


def test_terms_are_weighted_and_divided_by_the_score_sum():
    """LOSS-SUM-1, LOSS-BOX-1, LOSS-CLS-1, LOSS-DFL-1: terms are divided by the sum 1.25 of scores 0.75 and 0.5."""
    items = loss_items(predictions(), targets(0.75, 0.5), HEAD, ONES)
    box = (0.75 * FIRST_BOX + 0.5 * SECOND_BOX) / 1.25
    dfl = (0.75 * FIRST_DFL + 0.5 * SECOND_DFL) / 1.25
    assert items.tolist() == near(box, cls_sum(0.75) / 1.25, dfl)


def test_a_score_sum_below_one_does_not_divide():
    """LOSS-SUM-1: for target scores 0.25 and 0.5, whose sum is below 1, the loss terms are divided by 1."""
    items = loss_items(predictions(), targets(0.25, 0.5), HEAD, ONES)
    box = 0.25 * FIRST_BOX + 0.5 * SECOND_BOX
    assert items.tolist() == near(box, cls_sum(0.25), 0.25 * FIRST_DFL + 0.5 * SECOND_DFL)


def test_gains():
    """LOSS-GAIN-1: the default gains of box, cls and dfl are 7.5, 0.5 and 1.5."""
    plain = loss_items(predictions(), targets(0.75, 0.5), HEAD, ONES).tolist()
    default = loss_items(predictions(), targets(0.75, 0.5), HEAD, Hyperparameters())
    assert default.tolist() == near(7.5 * plain[0], 0.5 * plain[1], 1.5 * plain[2])
    other = Hyperparameters(box_gain=2.0, cls_gain=3.0, dfl_gain=5.0)
    scaled = loss_items(predictions(), targets(0.75, 0.5), HEAD, other)
    assert scaled.tolist() == near(2 * plain[0], 3 * plain[1], 5 * plain[2])


def test_a_positive_with_score_zero_costs_no_more_than_background():
    """TAL-CONF-1, LOSS-BOX-1, LOSS-DFL-1: a positive with target score 0 changes no item, compared with background."""
    with_it, without = targets(0.75, 0.5), targets(0.75, 0.5)
    without.foreground[1, 0] = False
    both = [loss_items(predictions(), each, HEAD, ONES).tolist() for each in (with_it, without)]
    assert both[0] == both[1]


def test_targets_are_stacked_image_by_image():
    """TAL-TGT-1: the targets of B images are stacked: foreground (B, A), boxes (B, A, 4), scores (B, A, C)."""
    one = Targets(
        torch.tensor([True, False]),
        torch.tensor([1, 0]),
        torch.tensor([2, 0]),
        doubles([1, 2, 3, 4], [0] * 4),
        doubles(0.5, 0),
    )
    none = assign(
        *(torch.zeros(2, n).double() for n in (3, 4, 2)),
        GroundTruths(torch.zeros(0).long(), torch.zeros(0, 4)),
        (8,),
    )
    batch = stacked([none, one], 3)
    assert batch.foreground.tolist() == [[False, False], [True, False]]
    assert batch.boxes.tolist() == [[[0] * 4] * 2, [[1, 2, 3, 4], [0] * 4]]
    assert batch.scores.tolist() == [[[0] * 3] * 2, [[0, 0, 0.5], [0] * 3]]


# --- from feature maps to the loss


def by_hand(map_images: int = 1) -> DetectionLoss:
    """Return the loss of 1 x 2 cells of 8 pixels with R = 1, C = 1, k = 2, and a ground truth as large as the input.

    Anchor 0 predicts the ground truth itself with score 1/4, anchor 1 its right half with score 1/2. Further images
    have the same predictions without a ground truth.
    """
    sides = [[0.5, 0.5, 1.5, 0.5], [0.5, 0.5, 0.5, 0.5]]  # left, top, right, bottom of either anchor
    cells = doubles(*([*side, logit] for side, logit in zip(sides, (-LN3, 0.0), strict=True)))  # (A, 5)
    feature_map = cells.T.reshape(1, 5, 1, 2).repeat(map_images, 1, 1, 1)
    rows = torch.tensor([[0, 0, 0.5, 0.5, 1, 1]])
    return detection_loss([feature_map], rows, Head((8,), 1, 1), Hyperparameters(topk=2), keep_trace=True)


def right_half(w: int, h: int) -> float:
    """Return the CIoU of the boxes (0, 0, 2 w, h) and (w, 0, 2 w, h), computed by hand from IOU-1."""
    overlap = w * h / (3 * w * (h + 1e-7) - w * h + 1e-7)
    distance = w**2 / 4 / (4 * w**2 + h**2 + 1e-7)
    v = 4 / math.pi**2 * (math.atan(w / (h + 1e-7)) - math.atan(2 * w / (h + 1e-7))) ** 2
    return overlap - distance - v**2 / (1 - overlap + v + 1e-7)


def hand_weights() -> tuple[float, float]:
    """Return the target weights of both anchors of `by_hand`, from their overlaps and scores 1/4 and 1/2."""
    u = float(128 / (128 + 33 * EPS)), right_half(8, 8)
    t = 0.5 * u[0] ** 6, math.sqrt(0.5) * u[1] ** 6
    assert t[0] > t[1]
    return t[0] * u[0] / (t[0] + 1e-9), t[1] * u[0] / (t[0] + 1e-9)


def test_the_whole_loss():
    """TAL-MET-1 to TAL-NORM-1 and LOSS-SUM-1 to LOSS-GAIN-1: weights and items of `by_hand` equal hand computations."""
    w = hand_weights()
    n = max(1, w[0] + w[1])
    assert n > 1
    loss = by_hand()
    box = w[0] * (1 - float(2 / (2 + 5 * EPS))) + w[1] * (
        1 - right_half(1, 1)
    )  # in grid units: 2 x 1 and 1 x 1
    cls = -w[0] * math.log(0.25) - (1 - w[0]) * math.log(0.75) + LN2
    side = w[1] * (1 * 8 / 16) / 4  # anchor 1's left side is off by one grid unit, half of the input's width
    assert loss.targets[0].weights.tolist() == near(*w)
    assert loss.items.tolist() == near(7.5 * box / n, 0.5 * cls / n, 1.5 * side / n)


@pytest.mark.parametrize("images", [1, 2, 5])
def test_what_is_differentiated_is_the_items_times_the_batch_size(images: int):
    """LOSS-GAIN-1: the differentiated loss terms are the logged items times the number of images."""
    loss = by_hand(images)
    assert loss.terms.tolist() == [images * item for item in loss.items.tolist()]
    assert loss.total.item() == pytest.approx(sum(loss.terms.tolist()), rel=ROUNDINGS)


def test_the_score_sum_is_the_whole_batchs():
    """LOSS-SUM-1, LOSS-CLS-1: a second image without ground truths adds to cls, and not to the score sum."""
    one, two = by_hand(1), by_hand(2)
    n = max(1, sum(hand_weights()))
    more = 0.5 * (-math.log(0.75) + LN2) / n  # predicted scores 1/4 and 1/2, whose targets are 0
    box, cls, side = one.items.tolist()
    assert two.items.tolist() == near(box, cls + more, side)


# --- gradients


def maps(reg_max: int, images: int = 2) -> list[Tensor]:
    generator = torch.Generator().manual_seed(5)
    sizes = [(4, 6), (2, 3)]
    shapes = [(images, 4 * reg_max + 3, *size) for size in sizes]
    return [torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_() for shape in shapes]


ROWS = torch.tensor([[0, 1, 0.5, 0.5, 0.7, 0.8], [0, 2, 0.3, 0.4, 0.4, 0.5], [1, 0, 0.6, 0.6, 0.6, 0.6]])


def gradients(loss: DetectionLoss, term: int, feature_maps: list[Tensor]) -> list[Tensor]:
    """Return the gradients of box, cls or dfl on the feature maps; each must depend on every map."""
    return list(torch.autograd.grad(loss.terms[term], feature_maps, retain_graph=True))


@pytest.mark.parametrize("reg_max", [1, 4])
def test_which_channels_have_which_gradients(reg_max: int):
    """LOSS-GRAD-1: box and dfl have gradients only on the distances, and cls only on the logits, in every level.

    Target scores depend on distances and logits; a gradient through them would be found here.
    """
    feature_maps = maps(reg_max)
    loss = detection_loss(feature_maps, ROWS, Head((8, 16), 3, reg_max), Hyperparameters(topk=5))
    assert all(image.weights.sum() > 0 for image in loss.targets)
    for term, name in enumerate(("box", "cls", "dfl")):
        for gradient in gradients(loss, term, feature_maps):
            distances, logits = gradient.split((4 * reg_max, 3), dim=1)
            assert (distances.any(), logits.any()) == (name != "cls", name == "cls"), name


def test_the_gradient_is_that_of_fixed_targets():
    """LOSS-GRAD-1: with detached targets, the gradients of the loss are bitwise the same.

    Therefore no gradient flows through the assignment.
    """
    feature_maps, head, numbers = maps(4), Head((8, 16), 3, 4), Hyperparameters(topk=5)
    loss = detection_loss(feature_maps, ROWS, head, numbers)
    fixed = loss_items(read_predictions(feature_maps, head), stacked(loss.targets, 3), head, numbers) * 2
    assert torch.equal(fixed, loss.terms)
    for ours, other in zip(
        torch.autograd.grad(loss.total, feature_maps),
        torch.autograd.grad(fixed.sum(), feature_maps),
        strict=True,
    ):
        assert torch.equal(ours, other)


@pytest.mark.parametrize("reg_max", [1, 4])
@pytest.mark.parametrize(
    "rows",
    [
        torch.zeros(0, 6),
        torch.tensor([[1, 2, 3.0, 3.0, 0.5, 0.5]]),  # outside
        torch.tensor([[0, 2, 0.0, 0.0, 0.5, 0.5]]),  # its corner coordinates add up to 0: not real (ANN-3)
        torch.tensor([[0, 2, 1 / 6, 0.25, 1 / 12, 0.25]]),  # 4 x 8 pixels, on the edge between four cells
    ],
    ids=["no rows", "outside", "not real", "between centres"],
)
def test_a_batch_without_positives(rows: Tensor, reg_max: int):
    """TAL-EMPTY-1, LOSS-SUM-1, LOSS-GRAD-1: box and dfl are exactly zero, and their gradients exist and are zero."""
    feature_maps = maps(reg_max)
    loss = detection_loss(feature_maps, rows, Head((8, 16), 3, reg_max), Hyperparameters(topk=3), ARTICLE)
    assert not any(image.foreground.any() for image in loss.targets)
    assert loss.items[[0, 2]].tolist() == [0, 0]
    for term in (0, 2):
        for gradient in gradients(loss, term, feature_maps):
            assert not gradient.any()
    logits = torch.cat([level.detach()[:, 4 * reg_max :].flatten(1) for level in feature_maps], dim=1)
    background = torch.nn.functional.softplus(logits).sum().item()  # - ln(1 - sigmoid(x)), N = 1
    assert loss.items[1].item() == pytest.approx(0.5 * background, rel=ROUNDINGS)
    assert all(gradient[:, 4 * reg_max :].all() for gradient in gradients(loss, 1, feature_maps))


def test_items_are_for_the_log():
    """LOSS-GAIN-1: the logged loss items do not require gradients; the loss terms do."""
    loss = detection_loss(maps(4), ROWS, Head((8, 16), 3, 4), Hyperparameters(topk=5))
    assert loss.terms.requires_grad
    assert loss.total.requires_grad
    assert not loss.items.requires_grad


def test_a_trace_of_every_image_is_kept_when_asked_for():
    head, numbers = Head((8, 16), 3, 4), Hyperparameters(topk=5)
    assert all(image.trace for image in detection_loss(maps(4), ROWS, head, numbers, keep_trace=True).targets)
    assert not any(image.trace for image in detection_loss(maps(4), ROWS, head, numbers).targets)


def test_the_loss_has_the_maps_dtype():
    """ANN-1: the loss has the dtype of the feature maps, although annotation rows are float32."""
    single = [level.detach().float() for level in maps(4)]
    head, numbers = Head((8, 16), 3, 4), Hyperparameters(topk=5)
    assert detection_loss(single, ROWS, head, numbers).terms.dtype == torch.float32
    assert detection_loss(maps(4), ROWS, head, numbers).terms.dtype == torch.float64


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_ground_truths_are_not_rounded_to_half_precision(dtype: torch.dtype):
    """ANN-1, TAL-TGT-1: class 257 and box edges such as 47.734375 px stay exact with 16-bit maps."""
    level = torch.zeros(1, 300 + 4, 8, 8, dtype=dtype)
    level[:, :4] = 2
    row = [0, 257, 0.5, 0.5, (64 - 2 * 16.265625) / 64, 0.5]
    loss = detection_loss([level], torch.tensor([row]), Head((8,), 300, 1))
    found = loss.targets[0].foreground
    assert found.any()
    assert loss.targets[0].labels[found].unique().tolist() == [257]
    assert loss.targets[0].boxes[found].unique(dim=0).tolist() == [[16.265625, 16, 47.734375, 48]]


def test_more_anchors_asked_for_than_there_are():
    """TAL-TOPK-2: topk above the number of anchors, here 30, raises ValueError."""
    with pytest.raises(ValueError, match="k = 31 of 30 anchors"):
        detection_loss(maps(4), ROWS, Head((8, 16), 3, 4), Hyperparameters(topk=31))
