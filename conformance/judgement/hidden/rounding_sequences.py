"""Judging the items of a loss that hides its assignment under autocast, by one sequence of roundings after the other.

Under autocast, the weights of a hidden assignment are known only to the roundings of the boxes and scores that the
assigner read. The enclosures of `mixed_precision` hold every sequence of roundings at once, so that each weight may lie
anywhere between two ends, independently of the others. An implementation, however, computes each operation in one dtype
and in one order for all anchors. Given the sequence, every weight is known nearly to float32, unless a number lies next
to a rounding boundary. So at least one sequence must explain class loss and DFL.

The sequences decide on weights alone. Items are judged only where the gradients leave no doubt about the assignment.

B images, A anchors, R bins, P positives of the whole batch, G ground truths with positives, S sequences, D sequences of
the log-softmax.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property

import torch
from torch import Tensor
from torch.nn import functional

from tal_conformance.core.outcome import LossOutcome
from tal_conformance.core.reference_inputs import predictions_of
from tal_conformance.core.task import DETECT, StageName
from tal_conformance.core.verdicts import Agreement, Judgement, Mismatch, Value
from tal_conformance.judgement.comparators import all_finite
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.oracle.oracle import ImageOracle
from tal_conformance.judgement.rounding.bounds import ROUNDINGS, bound, metric_unit, smallest
from tal_conformance.judgement.rounding.detection import rounding_units
from tal_conformance.judgement.rounding.exact_loss import class_factors_of, compute_loss, fields_of
from tal_conformance.judgement.rounding.loss_rounding import of_labels, share_error
from tal_conformance.judgement.rounding.mixed_precision import (
    FLOAT32_EPS,
    Interval,
    box_sequences,
    distance_sequences,
    hull,
    is_coarse,
    log_probability_sequences,
)
from tal_reference import SingleBin, Targets, WeightBroadcast
from tal_reference.assignment import NORMALISATION_EPS
from tal_reference.loss import LAST_BIN_MARGIN, Positives, distances_to, l1_loss, positives_of, stacked

MAX_PAIRS = 2**20
"""Largest number of pairs of a sequence and a positive that are computed: batches with more are not judged here."""
JUDGED = (StageName.CLS, StageName.DFL)
"""Stages whose items are judged by sequence: their remaining errors are those of float32. The box loss keeps the bound
of its own roundings, which is as wide as the roundings of the weights."""


def judge_by_sequence(
    judgement: Judgement,
    loss: LossOutcome,
    expected: Expectation,
    targets: list[Targets],
    oracles: list[ImageOracle | None],
) -> None:
    """Judge that one sequence of roundings explains class loss and DFL of a loss under autocast (TAL-NORM-1).

    Nothing is judged if the judgement fails already, or if the assignment is not certain.

    Args:
        judgement: the judgement of the batch, to which the result is added.
        loss: loss and gradients of the implementation.
        expected: expectation of the batch.
        targets: the assignment of each image that explains the loss with bounds for all sequences together.
        oracles: the admissible values and choices of each image; None for an image without ground truths.
    """
    if judgement.verdict.fails or not _applies(loss, expected):
        return
    learns = (fields_of(loss.gradients, expected.batch)[0] != 0).any(-1)  # (B, A)
    if not _is_certain(learns, targets, oracles):
        return
    found = SequencedItems(expected, targets, learns)
    if not found.positives or found.positives * len(found.pairs) > MAX_PAIRS:
        return
    misses = found.misses(loss.items.double())  # (S, 2)
    best = int(misses.amax(1).argmin())
    for place, stage in enumerate(JUDGED):
        judgement.note(stage, _assert_explained, found, stage, best, float(misses[best, place]), loss.items)


def _applies(loss: LossOutcome, expected: Expectation) -> bool:
    """Return True if the dtypes of all operations are known and the loss shows finite items and gradients."""
    batch, dialect = expected.batch, expected.dialect
    known = batch.autocast and is_coarse(batch.dtype) and not dialect.is_varied and batch.task == DETECT.name
    plain = dialect.weights_meet is WeightBroadcast.PER_POSITIVE and not dialect.signed_overlap
    return known and plain and loss.shows_items and bool(loss.gradients) and all_finite(loss.items)


def _is_certain(learns: Tensor, targets: list[Targets], oracles: list[ImageOracle | None]) -> bool:
    """Return True if the loss can have used no other assignment than `targets`, but for positives without gradient.

    Each anchor with a gradient must be a positive and certainly a candidate of its owner, and no other ground truth may
    own it.

    Args:
        learns: (B, A) bool: the anchor has a gradient on its distance logits.
        targets: the assignment of each image.
        oracles: the admissible values and choices of each image; None for an image without ground truths.
    """
    for own, oracle, visible in zip(targets, oracles, learns, strict=True):
        if (visible & ~own.foreground).any():
            return False
        if oracle is None:
            continue
        anchor = visible.nonzero()[:, 0]  # (P,)
        truth = own.truth_index[anchor]  # (P,)
        several = oracle.selection.may.sum(0)[anchor] > 1  # (P,)
        owners = (oracle.selection.may & oracle.owners)[:, anchor].sum(0)  # (P,)
        if (several & (owners != 1)).any() or not oracle.candidate[truth, anchor].all():
            return False
    return True


def _assert_explained(
    found: "SequencedItems", stage: str, best: int, miss: float, items: Tensor
) -> Agreement:
    """Assert that the item of a stage lies within the interval of the best sequence.

    Args:
        found: intervals of the items.
        stage: name of the stage.
        best: index of the sequence that explains the items best.
        miss: distance of the item from the interval of this sequence, as a share of the interval's half length.
        items: (3,) items of the implementation.

    Raises:
        Mismatch: the item lies outside.
    """
    if miss <= 1:
        return Agreement(miss, exact=False)
    name = found.expected.batch.family.terms[found.place(stage)].quantity
    value, near = float(items[found.place(stage)]), found.nearest(stage, best, items.double())
    clause = found.expected.batch.family.clauses[stage]
    middle, radius = float(near.middle), float(near.radius)
    raise Mismatch(
        f"{name} is {value:.9g}, and no sequence of roundings to 16 bits explains it: the nearest gives {middle:.9g} "
        f"within {radius:.2g}",
        clause,
        [Value("the whole batch", name, f"{middle:.9g}", f"{value:.9g}", f"{radius:.2g}")],
    )


def pixel_sequences(
    distances: Tensor, centres: Tensor, strides: Tensor, reg_max: int, dtype: torch.dtype
) -> list[Interval]:
    """Return the intervals of decoded boxes (P, 4) in pixels, one for each sequence of roundings (DEC-2).

    A box is multiplied by its stride as a whole, or centre and distances are multiplied first.

    Args:
        distances: (P, 4R) distance logits, float64.
        centres: (P, 2) anchor centres in grid units, float64.
        strides: (P, 1) strides, float64.
        reg_max: number R of bins.
        dtype: dtype of the feature maps.
    """
    boxes = box_sequences(distances, centres, reg_max, dtype)
    factors = [strides]
    if not torch.equal(strides.to(dtype).double(), strides):
        factors.append(strides.to(dtype).double())
    scaled = [_rounded_to_float32(box.low * factor, box.high * factor) for box in boxes for factor in factors]
    if not bool((strides.log2() % 1 == 0).all()):  # the product with a power of two commutes with rounding
        scaled += list(_pixels_first(distances, centres, strides, reg_max, dtype))
    return [interval for each in scaled for interval in each.stored_or_not(dtype)]


def _pixels_first(
    distances: Tensor, centres: Tensor, strides: Tensor, reg_max: int, dtype: torch.dtype
) -> Iterator[Interval]:
    """Yield the intervals of boxes (P, 4) of which centre and distances are multiplied by the stride separately."""
    middle = torch.cat((centres, centres), dim=-1)  # (P, 4)
    stored = Interval(middle, middle).stored(dtype).low * strides
    # a coarse dtype rounds far centres
    middles = hull(
        [
            *Interval(middle * strides, middle * strides).stored_or_not(dtype),
            Interval(stored, stored).stored(dtype),
        ]
    )
    for distance in distance_sequences(distances, reg_max, dtype):
        product = Interval(distance.low * strides, distance.high * strides)
        for side in product.stored_or_not(dtype):
            low = torch.cat((-side.high[..., :2], side.low[..., 2:]), dim=-1) + middles.low
            high = torch.cat((-side.low[..., :2], side.high[..., 2:]), dim=-1) + middles.high
            yield _rounded_to_float32(low, high)


def _rounded_to_float32(low: Tensor, high: Tensor) -> Interval:
    """Return [low, high] widened by a rounding to float32, which leaves numbers of float32 as they are."""
    exact = (low.float().double() == low) & (high.float().double() == high)
    error = (FLOAT32_EPS * torch.maximum(low.abs(), high.abs())).where(~exact, 0)
    return Interval(low - error, high + error)


def power_sequences(logits: Tensor, alpha: float, dtype: torch.dtype) -> list[Interval]:
    """Return the intervals of s^alpha (P,), one for each sequence of roundings of score and power (TAL-MET-1).

    Args:
        logits: (P,) class logits, float64.
        alpha: exponent of the score.
        dtype: dtype of the feature maps.
    """
    score = logits.sigmoid()
    found: list[Interval] = []
    for own in Interval.around(score, 4 * FLOAT32_EPS * score).stored_or_not(dtype):
        power = Interval(own.low.clamp(min=0) ** alpha, own.high**alpha)
        found += power.stored_or_not(dtype)
    tiny = torch.finfo(dtype).tiny
    # a subnormal number may be flushed to zero
    return [Interval(each.low.where(each.low >= tiny, 0), each.high) for each in found]


@dataclass(frozen=True)
class SequencedItems:
    """Intervals of class loss and DFL for each sequence of roundings, given the assignment.

    Attributes:
        expected: expectation of the batch.
        targets: the assignment of each image.
        learns: (B, A) bool: True if the anchor has a gradient. Other positives of `targets` have tiny weights, or the
            loss did not use them.
    """

    expected: Expectation
    targets: list[Targets]
    learns: Tensor

    @cached_property
    def own(self) -> Positives:
        """The positives of the batch."""
        return positives_of(self.targets)

    @property
    def positives(self) -> int:
        """Number P of positives."""
        return len(self.own.anchor)

    @cached_property
    def owner(self) -> Tensor:
        """(P,) index of the ground truth of each positive, counted over the batch."""
        truth = torch.stack([image.truth_index for image in self.targets])[self.own.image, self.own.anchor]
        return torch.stack((self.own.image, truth)).unique(dim=1, return_inverse=True)[1]

    @cached_property
    def edges(self) -> Tensor:
        """(P,) largest error in pixels of the edges of each positive's ground truth."""
        errors = [each.amax(1) if len(each) else each.new_zeros(1) for each in self.expected.truth_errors]
        truth = [image.truth_index for image in self.targets]  # (A,) each
        return torch.stack([each[index] for each, index in zip(errors, truth, strict=True)])[
            self.own.image, self.own.anchor
        ].double()

    @cached_property
    def distances(self) -> Tensor:
        """(P, 4R) distance logits of the positives, float64."""
        return self.expected.predictions.distances[self.own.image, self.own.anchor]

    @cached_property
    def learning(self) -> Tensor:
        """(P,) class logits of the positives at their labels, float64."""
        return self.expected.predictions.logits[self.own.image, self.own.anchor, self.own.labels]

    @cached_property
    def centres(self) -> Tensor:
        """(P, 2) anchor centres of the positives in grid units."""
        return self.expected.predictions.anchors.centres[self.own.anchor]

    @cached_property
    def strides(self) -> Tensor:
        """(P, 1) strides of the positives."""
        return self.expected.predictions.anchors.strides[self.own.anchor]

    @cached_property
    def overlaps(self) -> list[Interval]:
        """Overlaps u (P,), one interval for each sequence of roundings of the boxes."""
        expected, truth = self.expected, self.own.boxes.double()  # (P, 4)
        geometry, dialect = expected.geometry, expected.dialect
        numbers = self.centres, self.strides, expected.batch.head.reg_max, expected.dtype
        found = []
        for box in pixel_sequences(self.distances, *numbers):
            boxes = truth, box.middle
            value = geometry.overlap(*boxes, dialect)  # (P,)
            naive = geometry.overlap(truth.float(), box.middle.float(), dialect)  # (P,)
            moved = box.radius.amax(1) + self.edges  # (P,)
            error = geometry.overlap_error(naive, value, boxes, moved, True, torch.float32, dialect)
            found.append(Interval((value - error).clamp(min=0), (value + error).clamp(min=0)))
        return found

    @cached_property
    def pairs(self) -> list[tuple[Interval, Interval]]:
        """S pairs of overlaps u and powers of the score, (P,) each."""
        alpha = self.expected.settled.batch.hyperparameters.alpha
        powers = power_sequences(self.learning, alpha, self.expected.dtype)
        return [(overlap, power) for overlap in self.overlaps for power in powers]

    @cached_property
    def weights(self) -> Interval:
        """Weights w (S, P) of the positives (TAL-NORM-1)."""
        numbers = self.expected.settled.batch.hyperparameters
        u, power = (
            Interval(torch.stack([each.low for each in parts]), torch.stack([each.high for each in parts]))
            for parts in zip(*self.pairs, strict=True)
        )
        score = self.learning.sigmoid().expand_as(u.high)  # (S, P)
        unit = metric_unit(score, u.high, numbers.alpha, numbers.beta, FLOAT32_EPS)  # (S, P)
        nothing = torch.zeros_like(unit)
        fine = bound(nothing, nothing, unit, torch.float32, "metric t")
        surely = self.learns[self.own.image, self.own.anchor]  # (P,)
        low = (power.low * u.low**numbers.beta - fine).clamp(min=0) * surely
        high = power.high * u.high**numbers.beta + fine
        best = Interval(self._best(low), self._best(high))
        best_overlap = Interval(self._best(u.low * surely), self._best(u.high))
        least = low * best_overlap.low / (best.high + NORMALISATION_EPS)
        largest = high * best_overlap.high / (best.low + NORMALISATION_EPS)
        largest = torch.minimum(largest, best_overlap.high)
        unit = 4 * FLOAT32_EPS * largest + smallest(torch.float32) / NORMALISATION_EPS
        error = bound(nothing, nothing, unit, torch.float32, "target score w")
        return Interval((least - error).clamp(min=0), largest + error)

    def _best(self, values: Tensor) -> Tensor:
        """Return the largest value (S, P) of each positive's ground truth, given the values (S, P)."""
        index = self.owner.expand_as(values)
        groups = values.new_zeros(len(values), self.positives).scatter_reduce(1, index, values, "amax")
        return groups.gather(1, index)

    @cached_property
    def score_sums(self) -> Interval:
        """N (S,) of each sequence (LOSS-SUM-1)."""
        floor = self.expected.dialect.score_sum_floor
        return Interval(self.weights.low.sum(1).clamp(min=floor), self.weights.high.sum(1).clamp(min=floor))

    @cached_property
    def fine(self) -> Tensor:
        """(3,) bounds of box, cls and dfl for the roundings of their operations to float32.

        They are those of a loss that reads the same feature maps in float32.
        """
        batch, dialect, predictions = self.expected.batch, self.expected.dialect, self.expected.predictions
        plain = replace(batch.to(dtype=torch.float32), autocast=False)
        targets = stacked(self.targets, batch.head.classes)
        exact = compute_loss(plain, targets, torch.float64, dialect, predictions)
        naive = compute_loss(plain, targets, torch.float32, dialect, predictions_of(plain))
        edges = exact.items.new_zeros(targets.foreground.shape)  # (B, A)
        edges[self.own.image, self.own.anchor] = self.edges
        unit = rounding_units(plain, targets, exact, dialect, edges).items  # (3,)
        names = [term.quantity for term in batch.family.terms]
        return torch.stack(
            [
                bound(naive.items[place], exact.items[place], unit[place], torch.float32, name)
                for place, name in enumerate(names)
            ]
        )

    def place(self, stage: str) -> int:
        """Return the index of a stage's item."""
        return self.expected.batch.family.item_of[stage]

    @cached_property
    def intervals(self) -> dict[str, list[Interval]]:
        """Intervals (S,) of the items of each judged stage: several, one for each way to compute the stage itself."""
        return {StageName.CLS: self._class_items(), StageName.DFL: self._side_items()}

    def _divided(self, low: Tensor, high: Tensor, stage: str, gain: float) -> Interval:
        """Return the item's interval (S,) of sums [low, high] (S,), before division by N and multiplication by gain."""
        ends = torch.stack(
            [sums / whole for sums in (low, high) for whole in (self.score_sums.low, self.score_sums.high)]
        )  # (4, S)
        own = self.fine[self.place(stage)]
        return Interval(gain * ends.amin(0) - own, gain * ends.amax(0) + own)

    def _class_items(self) -> list[Interval]:
        """Return the intervals of the class loss: of scores in float32, and of scores in 16 bits (LOSS-CLS-1)."""
        batch, logits = self.expected.batch, self.expected.predictions.logits
        factors = class_factors_of(batch, logits)  # (C,), or a scalar
        whole = (functional.softplus(logits, threshold=100.0) * factors).sum()
        learning = self.learning * of_labels(factors, self.own.labels)  # (P,)
        found = []
        for scores in self.weights.stored_or_not(batch.dtype):
            ends = torch.stack((learning * scores.low, learning * scores.high))  # (2, S, P)
            low, high = whole - ends.amax(0).sum(1), whole - ends.amin(0).sum(1)  # (S,) twice
            found.append(self._divided(low, high, StageName.CLS, batch.hyperparameters.cls_gain))
        return found

    def _side_items(self) -> list[Interval]:
        """Return the intervals of DFL, one for each sequence of roundings of the log-softmax (LOSS-DFL-1)."""
        batch, gain = self.expected.batch, self.expected.batch.hyperparameters.dfl_gain
        found = []
        for side in self._sides():
            low = (self.weights.low * side.low.clamp(min=0)).sum(1)
            high = (self.weights.high * side.high).sum(1)
            found.append(self._divided(low, high, StageName.DFL, gain))
        assert found, batch.describe()
        return found

    def _sides(self) -> Iterator[Interval]:
        """Yield the intervals of the loss (P,) of each positive's distances."""
        batch, reg_max = self.expected.batch, self.expected.batch.head.reg_max
        wanted = distances_to(self.own.boxes.double() / self.strides, self.centres)  # (P, 4)
        if reg_max == 1:
            yield self._shares(wanted)
            return
        clamped = wanted.clamp(0, reg_max - 1 - LAST_BIN_MARGIN)  # (P, 4)
        share = clamped - clamped.floor()  # (P, 4) of the upper bin
        at = clamped.floor().long()[..., None]  # (P, 4, 1)
        for values in log_probability_sequences(self.distances, reg_max, batch.dtype):
            ends = []
            for log_probability in (values.high, values.low):
                below, above = (log_probability.gather(-1, at + step)[..., 0] for step in (0, 1))  # (P, 4)
                ends.append(-((1 - share) * below + share * above).mean(1))  # (P,)
            yield Interval(*ends)

    def _shares(self, wanted: Tensor) -> Interval:
        """Return the interval of the loss (P,) of distances (P, 4) of one bin, whose shares of the input are rounded.

        Args:
            wanted: (P, 4) target distances in grid units.
        """
        size = self.expected.predictions.size
        value = l1_loss(self.distances, wanted, self.strides, size)  # (P,)
        if self.expected.dialect.single_bin is not SingleBin.L1:
            return Interval(torch.zeros_like(value), torch.zeros_like(value))
        of_input = self.strides / self.strides.new_tensor(size).flip(0).repeat(2)  # (P, 4)
        error = share_error(self.distances, of_input, self.expected.dtype) * of_input  # (P, 4)
        return Interval.around(value, ROUNDINGS * error.mean(1))

    def misses(self, items: Tensor) -> Tensor:
        """Return distances (S, 2) of the items of cls and dfl from the middle of the nearest interval.

        They are shares of half of the interval's length: up to 1 the sequence explains the item.
        """
        return torch.stack([self._misses(stage, items).amin(0) for stage in JUDGED], dim=1)

    def _misses(self, stage: str, items: Tensor) -> Tensor:
        """Return the distances (D, S) of an item from the middles of all intervals of its stage, as `misses` does."""
        value = items[self.place(stage)]
        return torch.stack([(value - each.middle).abs() / each.radius for each in self.intervals[stage]])

    def nearest(self, stage: str, sequence: int, items: Tensor) -> Interval:
        """Return the interval () of a stage and a sequence of weights that is nearest to the item."""
        which = int(self._misses(stage, items)[:, sequence].argmin())
        chosen = self.intervals[stage][which]
        return Interval(chosen.low[sequence], chosen.high[sequence])
