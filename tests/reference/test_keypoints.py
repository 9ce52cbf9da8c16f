"""Tests of the loss of poses (POSE-*, P26-*, RLE-*): values computed by hand, plain loops, and the official loss."""

import math
from dataclasses import dataclass, replace
from typing import Any

import pytest
import torch
from tests.reference.official import Drawn
from tests.reference.official_families import LOSS_ROUNDINGS, Comparison, compare, random_batch, with_channels
from torch import Tensor

from tal_reference import GroundTruths, Head, Hyperparameters, flow, keypoints
from tal_reference.flow import Flow, rle_term
from tal_reference.keypoints import (
    COCO,
    COCO_WEIGHTS,
    PositiveKeypoints,
    decode_keypoints,
    decode_without_factor,
    gated,
    pose_loss,
    pose_term,
    sigmas_of,
    similarity,
    true_keypoints,
    visibility_term,
)
from tal_reference.loss import DetectionLoss

BATCHES = 24


def doubles(*values: object) -> Tensor:
    return torch.tensor(values, dtype=torch.float64)


@dataclass(frozen=True)
class Posed:
    """A random batch with keypoints.

    Attributes:
        batch: feature maps with keypoints and raw sigmas, and rows.
        shape: number of keypoints K, and of numbers per keypoint D.
        keypoints: (N, K, 3), or (N, K, 2), of the rows.
        sigmas: standard deviations of the keypoints; None: those of the head's shape.
        flow: the official flow, with random parameters; None without a flow.
    """

    batch: Drawn
    shape: tuple[int, int]
    keypoints: Tensor
    sigmas: tuple[float, ...] | None
    flow: Any

    def reference(self, v26: bool = False, topk: int = 10, topk2: int | None = None) -> DetectionLoss:
        return pose_loss(
            self.batch.maps, self.batch.rows, self.batch.head, Hyperparameters(topk=topk, topk2=topk2),
            keypoints=self.keypoints, keypoints_assign=v26,
            flow=None if self.flow is None else Flow(dict(self.flow.named_parameters())),
        )  # fmt: skip


def posed(
    seed: int,
    reg_max: int = 16,
    shape: tuple[int, int] = (4, 3),
    numbers: int = 3,
    own_sigmas: bool = False,
    with_flow: bool = False,
) -> Posed:
    """Return a random batch with keypoints; `numbers` is 3 or 2 per true keypoint."""
    count, dimensions = shape
    channels = count * (dimensions + 2 * with_flow)
    batch = with_channels(random_batch(seed, reg_max), channels, seed, scale=1.5)
    generator = torch.Generator().manual_seed(8000 + seed)

    def uniform(*sizes: int) -> Tensor:
        return torch.rand(sizes, generator=generator, dtype=torch.float64)

    rows = len(batch.rows)
    points = batch.rows[:, None, 2:4] + (uniform(rows, count, 2) - 0.5) * batch.rows[:, None, 4:6] * 1.2
    visibilities = (uniform(rows, count, 1) * 3).floor() * (uniform(rows, 1, 1) > 0.2)  # some rows have none
    keypoints = torch.cat((points, visibilities), dim=2)[..., :numbers]
    sigmas = tuple((uniform(count) + 0.1).to(torch.float32).tolist()) if own_sigmas else None
    density = None
    if with_flow:
        density = pytest.importorskip("ultralytics.nn.modules.block").RealNVP().double()
        for value in density.parameters():
            torch.nn.init.normal_(value, std=0.2, generator=generator)
    head = replace(batch.head, keypoints=shape, keypoint_sigmas=sigmas)
    return Posed(replace(batch, head=head), shape, keypoints, sigmas, density)


def compared(drawn: Posed, name: str, topk: int = 10, topk2: int | None = None) -> Comparison:
    """Return the differences from the official loss of the given class."""
    losses = pytest.importorskip("ultralytics.utils.loss")
    loss = drawn.reference(name == "PoseLoss26", topk, topk2)
    flat = torch.cat([level.flatten(2) for level in drawn.batch.maps], dim=2)  # (B, channels, A)
    count, dimensions = drawn.shape
    first = drawn.batch.head.channels
    predictions = {"kpts": flat[:, first : first + count * dimensions]}
    head: dict[str, Any] = {"kpt_shape": list(drawn.shape)}
    leaves = list(drawn.batch.maps)
    if drawn.flow is not None:
        predictions["kpts_sigma"] = flat[:, first + count * dimensions :]
        head["flow_model"] = drawn.flow
        leaves += drawn.flow.parameters()
    own = None if drawn.sigmas is None else doubles(*drawn.sigmas)

    def official(model: Any) -> Any:
        """Return the official loss, whose sigmas are squared in the dtype of the other numbers, not in float32."""
        criterion = getattr(losses, name)(model, topk, topk2)
        for owner in (criterion.keypoint_loss, criterion.assigner):
            if hasattr(owner, "sigmas"):
                owner.sigmas = owner.sigmas.double()
        return criterion

    return compare(
        official,
        drawn.batch,
        predictions,
        {"keypoints": drawn.keypoints},
        leaves,
        loss,
        {"pose": 12.0, "kobj": 1.0, "rle": 1.0},
        head,
        {} if own is None else {"kpt_oks_sigmas": own},
    )


KINDS: dict[str, dict[str, Any]] = {
    "COCO": {"shape": COCO},
    "four keypoints": {},
    "without visibilities": {"shape": (4, 2)},
    "rows without visibilities": {"numbers": 2},
    "own sigmas, one bin": {"own_sigmas": True, "reg_max": 1},
    "one keypoint": {"shape": (1, 3)},
}
CLASSES = {"v8PoseLoss": False, "PoseLoss26": False, "PoseLoss26 with flow": True}
"""Official losses, and whether their head has a flow."""


# --- the official loss


@pytest.mark.parametrize(("topk", "topk2"), [(10, None), (7, 1)])
@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("kind", KINDS)
def test_the_official_loss(kind: str, name: str, topk: int, topk2: int | None):
    """POSE-SUM-1, P26-SUM-1: items, total and all gradients equal those of the official loss on random batches."""
    found = [
        compared(posed(seed, **KINDS[kind], with_flow=CLASSES[name]), name.partition(" ")[0], topk, topk2)
        for seed in range(1, BATCHES)
    ]
    assert sum(each.positives for each in found) > BATCHES
    assert max(each.values for each in found) < LOSS_ROUNDINGS
    assert max(each.gradients for each in found) < LOSS_ROUNDINGS


@pytest.mark.parametrize("name", CLASSES)
def test_the_official_loss_without_positives(name: str):
    """POSE-SUM-1, P26-SUM-1, P26-4: without ground truths only cls is not zero, and the same leaves have gradients."""
    drawn = posed(0, with_flow=CLASSES[name])
    assert not len(drawn.batch.rows)
    found = compared(drawn, name.partition(" ")[0])
    assert (found.positives, found.values < LOSS_ROUNDINGS, found.gradients < LOSS_ROUNDINGS) == (
        0,
        True,
        True,
    )


def flipped(name: str) -> Any:
    original = getattr(flow.Flow, name)
    return lambda self, points: original(self, points.flip(-1))


DIFFERENCES: dict[str, tuple[str, Any, str, Any]] = {
    "POSE-2, the centre": ("v8PoseLoss", keypoints, "decode_keypoints", lambda raw, c: decode_keypoints(raw, c + 0.5)),
    "POSE-3, the factor 8": (
        "v8PoseLoss", keypoints, "similarity", lambda a, b, area, sigmas: similarity(a, b, area / 4, sigmas)
    ),
    "POSE-3, sigmas": ("v8PoseLoss", keypoints, "sigmas_of", lambda *more, like: sigmas_of(*more, like=like) * 2),
    "POSE-4, invisible keypoints": ("v8PoseLoss", keypoints, "COUNT_EPS", 1.0),
    "POSE-5, visible keypoints alone": (
        "v8PoseLoss", keypoints, "visibility_term", lambda found: visibility_term(found) * found.visible.double().mean()
    ),
    "P26-1, a factor": (
        "PoseLoss26", keypoints, "decode_without_factor", lambda raw, c: decode_without_factor(2 * raw, c)
    ),
    "P26-2, no gate": ("PoseLoss26", keypoints, "gated", lambda candidates, *_: candidates),
    "P26-3, the box's area": ("PoseLoss26", keypoints, "SHARE_OF_BOX", 1.0),
    "RLE-2, no limit": ("PoseLoss26 with flow", flow, "FARTHEST", 1e4),
    "RLE-4, equal weights": ("PoseLoss26 with flow", keypoints, "COCO_WEIGHTS", (1.0,) * 17),
    "RLE-5, exchanged components": ("PoseLoss26 with flow", flow.Flow, "log_density", flipped("log_density")),
}  # fmt: skip


@pytest.mark.parametrize("difference", DIFFERENCES)
def test_planted_differences_are_found(difference: str, monkeypatch: pytest.MonkeyPatch):
    """POSE-2 to POSE-5, P26-1 to P26-3, RLE-2 to RLE-5: each change of the reference differs from the official loss."""
    name, owner, attribute, value = DIFFERENCES[difference]
    monkeypatch.setattr(owner, attribute, value)
    shape = COCO if difference.startswith(("RLE", "POSE-3")) else (4, 3)
    found = [
        compared(posed(s, shape=shape, with_flow=CLASSES[name]), name.partition(" ")[0])
        for s in range(1, BATCHES)
    ]
    assert max(each.values for each in found) > 1e-4


# --- values computed by hand


def test_keypoints_of_rows():
    """POSE-IN-2: points are normalised by width and height; rows with two numbers are visible."""
    rows = doubles([0, 0, 0.5, 0.5, 1, 1], [2, 0, 0.5, 0.5, 1, 1])
    given = doubles([[0.5, 0.25, 2], [1.5, -1, 0]], [[0, 0, 1], [0, 1, 0.5]])
    found = true_keypoints(given, rows, 3, (40, 80))
    assert [image.tolist() for image in found] == [
        [[[40, 10, 2], [120, -40, 0]]],
        [],
        [[[0, 0, 1], [0, 40, 0.5]]],
    ]
    assert true_keypoints(given[..., :2], rows, 3, (40, 80))[2][..., 2].tolist() == [[1, 1]]
    with pytest.raises(ValueError, match="expected \\(2, K, 3\\)"):
        true_keypoints(given[:1], rows, 3, (40, 80))


def test_sigmas():
    """POSE-IN-3: given sigmas first, then COCO's for 17 keypoints with visibilities, else 1 / K."""
    like, head = doubles(0), Head((8,), 1)
    assert sigmas_of(replace(head, keypoints=(4, 3)), like).tolist() == [0.25] * 4
    assert sigmas_of(replace(head, keypoints=(17, 2)), like).tolist() == pytest.approx([1 / 17] * 17)
    coco = replace(head, keypoints=COCO)
    assert sigmas_of(coco, like)[[0, 6, 16]].tolist() == pytest.approx([0.026, 0.079, 0.089])
    assert sigmas_of(replace(coco, keypoint_sigmas=(0.5,) * 17), like).tolist() == [0.5] * 17
    for wrong in ((0.5,) * 3, (0.5, 0, 0.5, 0.5)):
        with pytest.raises(ValueError, match="expected 4 positive numbers"):
            replace(head, keypoints=(4, 3), keypoint_sigmas=wrong)
    with pytest.raises(ValueError, match="2 or 3 numbers"):
        replace(head, keypoints=(4, 4))
    with pytest.raises(ValueError, match="a head with keypoints"):
        sigmas_of(head, like)


def test_decoding():
    """POSE-2, P26-1: a raw 0 is the corner of the cell in v8 heads, and its centre in Pose26 heads."""
    centre, raw = doubles([2.5, 0.5]), doubles([[0, 0], [1, -1]])
    assert decode_keypoints(raw, centre).tolist() == [[[2, 0], [4, -2]]]
    assert decode_without_factor(raw, centre).tolist() == [[[2.5, 0.5], [3.5, -0.5]]]


def keypoints_at(*errors: float, visible: list[bool], area: float = 16.0) -> PositiveKeypoints:
    wanted = torch.zeros(1, len(errors), 2, dtype=torch.float64)
    predicted = torch.stack((doubles(*errors), torch.zeros(len(errors), dtype=torch.float64)), dim=1)[None]
    return PositiveKeypoints(
        predicted.requires_grad_(),
        doubles([0.0] * len(errors)),
        wanted,
        torch.tensor([visible]),
        doubles(area),
    )


def test_the_keypoint_loss_in_plain_numbers():
    """POSE-3, POSE-4: the mean of 1 - exp(-d^2 / (8 sigma^2 area)) over the visible keypoints."""
    found = keypoints_at(2.0, 1.0, 100.0, visible=[True, True, False])
    expected = sum(1 - math.exp(-(d**2) / (8 * sigma**2 * 16)) for d, sigma in ((2.0, 0.5), (1.0, 0.25))) / 2
    loss = pose_term(found, doubles(0.5, 0.25, 0.125))
    assert loss.item() == pytest.approx(expected, rel=1e-8)
    (gradient,) = torch.autograd.grad(loss, found.predicted)
    assert gradient[0, :2, 0].abs().min() > 0
    assert not gradient[0, 2].any()


def test_a_ground_truth_without_visible_keypoints():
    """POSE-4, POSE-5: its loss is 0, but its invisible keypoints count in kobj."""
    found = keypoints_at(2.0, 1.0, visible=[False, False])
    assert pose_term(found, doubles(0.5, 0.5)).item() == 0
    assert visibility_term(found).item() == pytest.approx(math.log(2))


@pytest.mark.parametrize(
    ("side", "kept"),
    [(15.9, [1, 0, 0]), (16.0, [1, 0, 0]), (32.0, [1, 1, 0]), (96.0, [1, 1, 1]), (97.0, [0, 1, 1])],
)
def test_the_level_gate(side: float, kept: list[int]):
    """P26-2: a level learns ground truths of 2 to 12 strides; the finest smaller, the coarsest larger ones, too."""
    truths = GroundTruths(torch.tensor([0]), doubles([0.0, 0.0, side, side]))
    found = gated(torch.ones(1, 3, dtype=torch.bool), truths, doubles(8.0, 16.0, 32.0))
    assert found.int().tolist() == [kept]


def test_a_gate_that_leaves_nothing():
    """P26-2: a ground truth whose candidates would all be dropped keeps all."""
    truths = GroundTruths(torch.tensor([0, 0]), doubles([0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 8.0, 8.0]))
    candidates = torch.tensor([[False, True, True], [True, True, True]])
    found = gated(candidates, truths, doubles(8.0, 16.0, 32.0))
    assert found.int().tolist() == [[0, 1, 1], [1, 0, 0]]


def test_the_overlap_is_that_of_keypoints_where_they_are_visible():
    """P26-3: OKS for ground truths with a visible keypoint, whatever their boxes; CIoU for others."""
    drawn = posed(16)
    invisible = drawn.keypoints.clone()
    invisible[..., 2] = 0
    loss = pose_loss(
        drawn.batch.maps, drawn.batch.rows, drawn.batch.head, keypoints=invisible,
        keypoints_assign=True, keep_trace=True,
    )  # fmt: skip
    moved = [level.detach().clone() for level in drawn.batch.maps]
    for level in moved:
        level[:, : 4 * drawn.batch.head.reg_max] += 100 * torch.randn(1, 64, 1, 1).double()
    with_points = [
        pose_loss(
            maps, drawn.batch.rows, drawn.batch.head, keypoints=drawn.keypoints[..., :2],
            keypoints_assign=True, keep_trace=True,
        )
        for maps in (drawn.batch.maps, moved)
    ]  # fmt: skip
    first, second = ([image.trace for image in each.targets] for each in with_points)
    for one, other, boxes in zip(first, second, loss.targets, strict=True):
        assert one is not None
        assert other is not None
        assert boxes.trace is not None
        torch.testing.assert_close(one.overlap, other.overlap, rtol=0, atol=0)
        assert (one.overlap - boxes.trace.overlap).abs().max() > 0.01


def identity() -> Flow:
    """Return a flow whose networks return 0, so that its density is the normal distribution."""
    names = [f"{kind}.{j}.{layer}" for kind in "st" for j in range(6) for layer in (0, 2, 4)]
    sizes = {0: (64, 2), 2: (64, 64), 4: (2, 64)}
    parameters: dict[str, Tensor] = {}
    for name in names:
        size = sizes[int(name[-1])]
        parameters |= {
            f"{name}.weight": torch.zeros(size).double(),
            f"{name}.bias": torch.zeros(size[0]).double(),
        }
    return Flow(parameters)


def test_the_density_is_a_density():
    """RLE-5: phi is positive and its integral over the plane is 1, for random networks."""
    torch.manual_seed(0)
    flow_of_random_numbers = Flow(
        {name: torch.randn_like(value) * 0.2 for name, value in identity().parameters.items()}
    )
    axis = torch.arange(-8, 8, 0.1).double()
    points = torch.cartesian_prod(axis, axis)
    density = flow_of_random_numbers.log_density(points).exp()
    assert density.sum().item() * 0.1**2 == pytest.approx(1, abs=1e-3)
    assert (density - identity().log_density(points).exp()).abs().max() > 0.01


def rle_of(error: float, raw: float, weight: float = 1.0) -> Tensor:
    errors, sigmas = doubles([[error, error]]), doubles([[raw, raw]])
    return rle_term(errors, sigmas, torch.ones(1, 1, dtype=torch.bool), doubles(weight), identity())


def test_the_likelihood_in_plain_numbers():
    """RLE-2, RLE-3, RLE-4: minus the logarithms of a Laplace density for x and y and of phi, counted twice."""
    sigma = 1 / (1 + math.exp(-0.5))
    eps = 3.0 / (sigma + 1e-9)
    log_phi = -(eps**2) - math.log(2 * math.pi)
    expected = 2 * (2 * math.log(sigma) + math.log(2) + eps - log_phi)
    assert rle_of(3.0, 0.5).item() == pytest.approx(expected, rel=1e-13)
    assert rle_of(3.0, 0.5, weight=1.5).item() == pytest.approx(1.5 * expected, rel=1e-13)
    assert COCO_WEIGHTS[9] == 1.5


def test_good_predictions_teach_nothing():
    """RLE-3: below zero the term is zero, and so is its gradient (finding F3)."""
    raw = doubles([[-9.0, -9.0]]).requires_grad_()
    term = rle_term(doubles([[0.0, 0.0]]), raw, torch.ones(1, 1, dtype=torch.bool), doubles(1.0), identity())
    assert term.item() == 0
    assert not torch.autograd.grad(term, raw)[0].any()


def test_errors_that_are_not_finite_are_left_out():
    """RLE-2: other keypoints decide the mean; an error beyond 100 deviations counts as 100."""
    errors = doubles([[math.nan, 0.0], [3.0, 3.0], [0.0, math.inf]])
    raw, visible = torch.full((1, 3, 2), 0.5).double(), torch.ones(1, 3, dtype=torch.bool)
    term = rle_term(errors, raw, visible, doubles(1.0, 1.0, 1.0), identity())
    assert term.item() == pytest.approx(rle_of(3.0, 0.5).item(), rel=1e-14)
    assert rle_of(1e6, 0.0).item() == pytest.approx(rle_of(50.0, 0.0).item(), rel=1e-6)
    assert rle_of(0.0, -800.0).isfinite()  # the deviation is the dtype's smallest normal number


def test_a_head_without_sigmas_has_an_item():
    """RLE-1: in validation the head predicts no sigmas; rle is then 0."""
    drawn = posed(3)
    loss = pose_loss(
        drawn.batch.maps, drawn.batch.rows, drawn.batch.head, keypoints=drawn.keypoints,
        keypoints_assign=True, flow=identity(),
    )  # fmt: skip
    assert len(loss.items) == 6
    assert loss.items[5].item() == 0


def test_maps_with_other_channels_are_refused():
    """POSE-IN-1: the maps have K D channels after those of detection, and 2 K more with sigmas."""
    drawn = posed(3)
    with pytest.raises(ValueError, match="4R \\+ C \\+ K D"):
        keypoints.read_keypoints(drawn.batch.maps, replace(drawn.batch.head, keypoints=(5, 3)))


def test_keypoints_in_the_rows():
    """POSE-IN-2: rows of 6 + 3K columns hold the keypoints, with the same result; other rows raise an error."""
    drawn = posed(7)
    rows = torch.cat((drawn.batch.rows, drawn.keypoints.flatten(1)), dim=1)
    loss = pose_loss(drawn.batch.maps, rows, drawn.batch.head)
    assert loss.items.tolist() == drawn.reference().items.tolist()
    with pytest.raises(ValueError, match="expected 6 \\+ 3K = 18"):
        pose_loss(drawn.batch.maps, rows[:, :-1], drawn.batch.head)


def test_the_assignment_of_the_v8_loss_is_that_of_boxes():
    """POSE-1, P26-5: other keypoints leave the targets of the v8 loss unchanged."""
    drawn = posed(7)
    other = drawn.keypoints.clone()
    other[..., :2] += 0.3
    losses = [
        pose_loss(drawn.batch.maps, drawn.batch.rows, drawn.batch.head, keypoints=points)
        for points in (drawn.keypoints, other)
    ]
    for first, second in zip(losses[0].targets, losses[1].targets, strict=True):
        assert torch.equal(first.weights, second.weights)
    assert losses[0].items[1] != losses[1].items[1]
