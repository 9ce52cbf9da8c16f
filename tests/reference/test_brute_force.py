"""Compare the reference with another algorithm: Python floats, one image, anchor and ground truth at a time.

The other algorithm is written from the specification only: no torch, no masks, no broadcasting. If the k-th place is
tied (ambiguity T1), it raises `TiedError` instead of choosing.
"""

import math
from collections import defaultdict
from dataclasses import dataclass
from itertools import product

import pytest
import torch

from tal_reference import (
    ARTICLE,
    NEWEST,
    DetectionLoss,
    Dialect,
    Head,
    Hyperparameters,
    SmallBoxFloor,
    detection_loss,
)

# A loss takes some 4096 float64 operations, each off by at most one rounding. t raises an overlap to the
# power beta (6), which makes a relative error six times larger, and overlaps are differences of numbers below
# 1.
ROUNDINGS = 6 * 4096 * 2**-53
FIRST = Dialect("first", SmallBoxFloor.BELOW_FIRST_STRIDE)

Box = tuple[float, float, float, float]
Nested = list[list[list[list[float]]]]  # one feature map


class TiedError(Exception):
    """Raised if the k-th and the next largest metric are equal, so that several selections are correct."""


@dataclass(frozen=True)
class Prediction:
    """The prediction of one cell: centre and box in grid units, and logits of the sides' bins and of the classes."""

    x: float
    y: float
    stride: int
    sides: list[list[float]]
    logits: list[float]
    box: Box


@dataclass(frozen=True)
class Truth:
    """A ground truth: class, and box in pixels."""

    label: int
    box: Box


@dataclass(frozen=True)
class Learns:
    """The target of a positive anchor: index of its ground truth, and weight."""

    truth: int
    weight: float


def read(image: int, maps: list[Nested], head: Head) -> list[Prediction]:
    """Return the decoded predictions of all cells of an image, level by level (PRE-1, ANC-1, DEC-1, DEC-2)."""
    found = []
    for level, stride in zip(maps, head.strides, strict=True):
        for y, x in product(range(len(level[image][0])), range(len(level[image][0][0]))):
            channels = [channel[y][x] for channel in level[image]]
            sides = [channels[side * head.reg_max :][: head.reg_max] for side in range(4)]
            left, top, right, bottom = (distance(side) for side in sides)
            box = (x + 0.5 - left, y + 0.5 - top, x + 0.5 + right, y + 0.5 + bottom)
            found.append(Prediction(x + 0.5, y + 0.5, stride, sides, channels[4 * head.reg_max :], box))
    return found


def distance(side: list[float]) -> float:
    """Return the distance of a side: the mean of the bins under their softmax (DEC-1)."""
    if len(side) == 1:
        return side[0]
    shares = [math.exp(logit) for logit in side]
    return math.fsum(k * share for k, share in enumerate(shares)) / math.fsum(shares)


def truths_of(image: int, rows: list[list[float]], size: tuple[int, int]) -> list[Truth]:
    """Return the ground truths of an image from the annotation rows of the batch (ANN-1, ANN-2)."""
    found = []
    for index, label, cx, cy, w, h in rows:
        if int(index) == image:
            x, y, half_w, half_h = cx * size[1], cy * size[0], w * size[1] / 2, h * size[0] / 2
            found.append(Truth(int(label), (x - half_w, y - half_h, x + half_w, y + half_h)))
    return found


def scaled(box: Box, factor: float) -> Box:
    x1, y1, x2, y2 = (side * factor for side in box)
    return x1, y1, x2, y2


def ciou(g: Box, b: Box) -> float:
    """Return the CIoU of two boxes (IOU-1)."""
    e = 1e-7
    w1, h1, w2, h2 = g[2] - g[0], g[3] - g[1] + e, b[2] - b[0], b[3] - b[1] + e
    shared = max(0, min(g[2], b[2]) - max(g[0], b[0])) * max(0, min(g[3], b[3]) - max(g[1], b[1]))
    overlap = shared / (w1 * h1 + w2 * h2 - shared + e)
    c2 = (max(g[2], b[2]) - min(g[0], b[0])) ** 2 + (max(g[3], b[3]) - min(g[1], b[1])) ** 2 + e
    rho2 = ((g[0] + g[2]) / 2 - (b[0] + b[2]) / 2) ** 2 + ((g[1] + g[3]) / 2 - (b[1] + b[3]) / 2) ** 2
    v = 4 / math.pi**2 * (math.atan(w2 / h2) - math.atan(w1 / h1)) ** 2
    return overlap - rho2 / c2 - v / (1 - overlap + v + e) * v


def widened(box: Box, strides: tuple[int, ...], dialect: Dialect) -> Box:
    """Return a box with small sides widened (TAL-CAND-2)."""
    first, second = strides[0], (strides + strides)[1]
    below, to = {"article": (0, 0), "first": (first, second)}.get(dialect.name, (second, second))
    sides = list(box)
    for low in (0, 1):
        if box[low + 2] - box[low] < below:
            middle = (box[low] + box[low + 2]) / 2
            sides[low], sides[low + 2] = middle - to / 2, middle + to / 2
    return sides[0], sides[1], sides[2], sides[3]


def is_candidate(truth: Truth, anchor: Prediction, strides: tuple[int, ...], dialect: Dialect) -> bool:
    """Return True if the anchor is a candidate of the ground truth (ANN-3, TAL-CAND-1)."""
    x, y = anchor.x * anchor.stride, anchor.y * anchor.stride
    x1, y1, x2, y2 = widened(truth.box, strides, dialect)
    return sum(truth.box) > 0 and min(x - x1, y - y1, x2 - x, y2 - y) > 1e-9


def best(metric: dict[int, float], k: int, anchors: int) -> set[int]:
    """Return the anchors with the k largest metrics of one ground truth, from a dict from candidate to metric.

    Non-candidates, which are not in `metric`, count as zeros and are not returned.

    Raises:
        TiedError: the k-th and the next metric are equal, and the result depends on the choice.
    """
    row = sorted(((t, a) for a, t in metric.items()), reverse=True)
    row += [(0.0, -1)] * (anchors - len(row))
    if k < anchors and row[k - 1][0] == row[k][0] and any(t == row[k][0] and a >= 0 for t, a in row):
        raise TiedError
    return {a for _, a in row[:k] if a >= 0}


def assign(
    anchors: list[Prediction], truths: list[Truth], head: Head, numbers: Hyperparameters, dialect: Dialect
) -> dict[int, Learns]:
    """Return the positives of one image, as a dict from the anchor's index to its target (TAL-*)."""
    overlap: dict[int, dict[int, float]] = defaultdict(dict)  # by ground truth and candidate
    metric: dict[int, dict[int, float]] = defaultdict(dict)
    for (g, truth), (a, anchor) in product(enumerate(truths), enumerate(anchors)):
        if is_candidate(truth, anchor, head.strides, dialect):
            score = 1 / (1 + math.exp(-anchor.logits[truth.label]))
            overlap[g][a] = max(0.0, ciou(truth.box, scaled(anchor.box, anchor.stride)))
            metric[g][a] = score**numbers.alpha * overlap[g][a] ** numbers.beta
    takers: dict[int, list[int]] = defaultdict(list)
    for g in range(len(truths)):
        for a in best(metric[g], numbers.topk, len(anchors)):
            takers[a].append(g)
    owned: dict[int, dict[int, float]] = defaultdict(dict)
    for a, by in takers.items():
        owner = by[0] if len(by) == 1 else max(range(len(truths)), key=lambda g: overlap[g].get(a, 0.0))
        owned[owner][a] = metric[owner].get(a, 0.0)
    learns = {}
    for g, row in owned.items():
        kept = best(row, numbers.topk2, len(anchors)) if numbers.topk2 is not None else set(row)
        top_t, top_u = max(row[a] for a in kept), max(overlap[g].get(a, 0.0) for a in kept)
        learns |= {a: Learns(g, row[a] * top_u / (top_t + 1e-9)) for a in kept}
    return learns


def side_loss(anchor: Prediction, target: Box, head: Head, size: tuple[int, int]) -> float:
    """Return the loss of the distances of an anchor; the target is in grid units (LOSS-DFL-1)."""
    wanted = anchor.x - target[0], anchor.y - target[1], target[2] - anchor.x, target[3] - anchor.y
    if head.reg_max == 1:
        shares = [anchor.stride / extent for extent in (size[1], size[0], size[1], size[0])]
        return sum(abs(side[0] - d) * s for side, d, s in zip(anchor.sides, wanted, shares, strict=True)) / 4
    total = 0.0
    for side, exact in zip(anchor.sides, wanted, strict=True):
        d = min(max(exact, 0), head.reg_max - 1.01)
        low = math.floor(d)
        log_sum = math.log(math.fsum(math.exp(logit) for logit in side))
        total += (low + 1 - d) * (log_sum - side[low]) + (d - low) * (log_sum - side[low + 1])
    return total / 4


def bce(logit: float, score: float) -> float:
    """Return the binary cross-entropy of a logit and a target score (LOSS-CLS-1)."""
    return math.log1p(math.exp(-logit)) + (1 - score) * logit


@dataclass(frozen=True)
class Answer:
    """Result of the brute-force algorithm: positives by image, and the logged items (box, cls, dfl)."""

    positives: list[dict[int, Learns]]
    items: tuple[float, float, float]


def brute_force(
    maps: list[Nested], rows: list[list[float]], head: Head, numbers: Hyperparameters, dialect: Dialect
) -> Answer:
    """Return positives and loss items of a batch, computed in plain Python (LOSS-*)."""
    size = len(maps[0][0][0]) * head.strides[0], len(maps[0][0][0][0]) * head.strides[0]
    box = cls = side = score_sum = 0.0
    positives = []
    for image in range(len(maps[0])):
        anchors, truths = read(image, maps, head), truths_of(image, rows, size)
        learns = assign(anchors, truths, head, numbers, dialect)
        positives.append(learns)
        for a, anchor in enumerate(anchors):
            scores = [0.0] * head.classes
            if a in learns:
                truth, weight = truths[learns[a].truth], learns[a].weight
                target = scaled(truth.box, 1 / anchor.stride)
                scores[truth.label] = weight
                score_sum += weight
                box += weight * (1 - ciou(target, anchor.box))
                side += weight * side_loss(anchor, target, head, size)
            cls += sum(bce(logit, score) for logit, score in zip(anchor.logits, scores, strict=True))
    n = max(1.0, score_sum)
    return Answer(
        positives, (numbers.box_gain * box / n, numbers.cls_gain * cls / n, numbers.dfl_gain * side / n)
    )


@dataclass(frozen=True)
class Case:
    """Parameters of small random batches on which the reference and the brute-force algorithm are compared."""

    name: str
    strides: tuple[int, ...] = (8, 16)
    cells: tuple[int, int] = (4, 6)
    classes: int = 2
    reg_max: int = 4
    images: int = 2
    truths: int = 3
    numbers: Hyperparameters = Hyperparameters(topk=3)
    dialect: Dialect = NEWEST
    sides: tuple[float, float] = (0.1, 1.0)  # of a ground truth, as shares of the input
    middle: tuple[float, float] = (0.1, 0.9)


# All 4 x 6 + 2 x 3 anchors: no top-k is tied. Of equal overlaps, all 0, both algorithms take the first (T2).
ALL = Hyperparameters(topk=30)

CASES = [
    Case("plain"),
    Case("one level", strides=(8,)),
    Case("four levels", strides=(4, 8, 16, 32), cells=(5, 7)),
    Case("strides that are no powers of two", strides=(6, 10)),
    Case("one class", classes=1),
    Case("one bin", reg_max=1),
    Case("two bins", reg_max=2),
    Case(
        "sixteen bins, default numbers",
        reg_max=16,
        numbers=Hyperparameters(),
        sides=(0.7, 1.0),
        middle=(0.4, 0.6),
    ),
    Case("one image", images=1),
    Case("crowded", truths=8, numbers=Hyperparameters(topk=6), sides=(0.6, 1.0)),
    Case("every anchor taken", truths=5, numbers=ALL),
    Case("one place", truths=4, numbers=Hyperparameters(topk=1)),
    Case("topk2 1", numbers=Hyperparameters(topk=4, topk2=1)),
    Case("topk2 2, crowded", truths=6, numbers=Hyperparameters(topk=4, topk2=2)),
    Case("other exponents and gains", numbers=Hyperparameters(3, 1.5, 2.0, None, 2.0, 3.0, 5.0)),
    Case("small boxes, newest", sides=(0.02, 0.35), truths=5, numbers=ALL),
    Case("small boxes, older", sides=(0.02, 0.35), truths=5, numbers=ALL, dialect=FIRST),
    Case("small boxes, none widened", sides=(0.02, 0.35), truths=5, numbers=ALL, dialect=ARTICLE),
    Case("partly outside, some not real", middle=(-0.4, 0.6), sides=(0.3, 1.0)),
    Case("large", sides=(0.9, 1.6), truths=2),
]
SEEDS = 6


def draw(case: Case, seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return random feature maps and rows, with large boxes, so that few overlaps are zero and few metrics are tied."""
    generator = torch.Generator().manual_seed(seed)
    height, width = (side * case.strides[0] for side in case.cells)
    head = Head(case.strides, case.classes, case.reg_max)
    maps = []
    for stride in case.strides:
        level = torch.randn(
            (case.images, head.channels, -(-height // stride), -(-width // stride)),
            generator=generator,
            dtype=torch.float64,
        )
        if case.reg_max == 1:
            level[:, :4] = (level[:, :4].abs() + 0.5) * 16 / stride
        else:  # most of each distribution lies around 1.5 cells
            near = -(torch.arange(case.reg_max) - 1.5).square()
            level[:, : 4 * case.reg_max] += near.repeat(4)[:, None, None]
        maps.append(level)
    counts = torch.randint(0, case.truths + 1, (case.images,), generator=generator).tolist()
    rows = [[float(i)] for i, count in enumerate(counts) for _ in range(count)]
    drawn = torch.rand((len(rows), 5), generator=generator, dtype=torch.float64)
    labels = (drawn[:, :1] * case.classes).floor()
    middle = case.middle[0] + drawn[:, 1:3] * (case.middle[1] - case.middle[0])
    sides = case.sides[0] + drawn[:, 3:] * (case.sides[1] - case.sides[0])
    image = torch.tensor(rows, dtype=torch.float64).reshape(-1, 1)
    return maps, torch.cat((image, labels, middle, sides), dim=1)


def both(case: Case, seed: int) -> tuple[Answer, DetectionLoss]:
    maps, rows = draw(case, seed)
    head = Head(case.strides, case.classes, case.reg_max)
    answer = brute_force([level.tolist() for level in maps], rows.tolist(), head, case.numbers, case.dialect)
    return answer, detection_loss(maps, rows, head, case.numbers, case.dialect)


def check(answer: Answer, loss: DetectionLoss) -> int:
    """Assert that the reference's positives, weights and items equal `answer`.

    Return the number of positives.
    """
    assert len(answer.positives) == len(loss.targets)
    for expected, image in zip(answer.positives, loss.targets, strict=True):
        found = image.foreground.nonzero().flatten().tolist()
        assert found == sorted(expected)
        assert image.truth_index[found].tolist() == [expected[a].truth for a in found]
        weights = [expected[a].weight for a in found]
        assert image.weights[found].tolist() == pytest.approx(weights, rel=ROUNDINGS, abs=ROUNDINGS)
    assert loss.items.tolist() == pytest.approx(answer.items, rel=ROUNDINGS, abs=ROUNDINGS)
    return sum(map(len, answer.positives))


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_the_reference_agrees_with_plain_loops(case: Case):
    """TAL-CAND-1 to TAL-TGT-1, LOSS-SUM-1 to LOSS-GAIN-1: equal results on random batches without ties."""
    positives, compared = 0, 0
    for seed in range(SEEDS):
        try:
            answer, loss = both(case, seed)
        except TiedError:
            continue
        positives += check(answer, loss)
        compared += 1
    assert compared >= SEEDS // 2
    assert positives >= 2 * compared
