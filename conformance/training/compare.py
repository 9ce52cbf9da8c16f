"""Does training with an implementation's loss lead to the same weights as training with the reference's?

Two correct losses round differently, so the weights that they lead to differ too, and every step passes the
differences on, larger or smaller. How much is not to be guessed but measured, on the same model, images and
steps, with **control trainings**: the reference's loss, in which every single operation, forwards and
backwards, rounds at random and much worse than it has to (`RoundingNoise`): by `ROUGHNESS` eps of the dtype.

Let d be the distance of a training's last weights from those of the reference's training, and rms the root
mean square of the d of K controls. As long as distances are small, d is a sum of very many small
contributions that have nothing to do with each other: in every direction it is normally distributed. With the
least favourable shape, in which the steps stretch one direction only, d / rms of one more such training is
distributed as the absolute value of Student's t with K degrees of freedom; other shapes scatter less. So a
loss that rounds like the controls stays below

    bound = t(K, 1 - FALSE_ALARM / 2) rms

but for one training in 1 / FALSE_ALARM. An operation that is computed as IEEE 754 asks errs by half an eps at
most, a library's function by two, so a correct loss rounds less than the controls do, and stays far below the
bound.

The bound grows with the number of steps, because distances do: training is chaotic. From random weights, at
the rate of the recorded training, controls end 1e-5 of the way travelled apart after one step, 1e-2 after
four and 0.3 after six: two equally valid trainings soon have nothing in common. Therefore the comparison
begins where the recorded training ends, with weights that have learnt something, and at a lower rate, as
schedules end: there, ten steps double a distance of 1e-5. Then a box gain of 7.49 in place of 7.5 leads
thirty times as far as the bound allows. (A factor on the whole loss is not seen, because the gradient is
clipped to a fixed norm, as Ultralytics' trainer does it; the stage "total" tells it.)

Where two anchors are equally good up to rounding, the two trainings may choose differently (ambiguities T1,
T2, T4). Then the implementation's outcome of that step is judged as that of any batch is; if it does not
fail, the reference takes the same choice and goes on.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import Assignment, Outcome
from tal_conformance.core.reference_inputs import predictions_of
from tal_conformance.core.verdicts import Divergence
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.admissible import Ownership
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_conformance.training.rounding_noise import RoundingNoise
from tal_conformance.training.yolov8n import RecordedTraining, recorded_training, train
from tal_reference import (
    NEWEST,
    BatchTargets,
    Dialect,
    Targets,
    assign,
    detection_loss,
)
from tal_reference.assignment import alignment_metric, normalised, overlaps_of, targets_of
from tal_reference.loss import loss_items, stacked

STEPS = 10
"""Steps of a comparison."""
RATE = 0.003
"""Learning rate of a comparison."""
CONTROLS = 4
"""Control trainings of a comparison."""
FALSE_ALARM = 1e-4
"""Share of correct losses that would be called wrong if they rounded as badly as they are allowed to."""
ROUGHNESS = 2.0
"""Eps by which each operation of a control rounds: four times what a correct rounding errs by at most, and
what the worst of a library's functions may (2 ulp). So another loss may also take a few more operations to
the same result."""
MOST_STEPS = 1_000_000
"""So that no two steps of two controls share their seed."""

Positives = list[Tensor]
"""Which ground truth learns from which anchor, (M, A) of each image; not where the target score is zero."""


@dataclass(frozen=True)
class TrainingComparison:
    """What became of training the same model with two losses.

    Attributes:
        implementation: whose loss stood against the reference's.
        steps: N.
        bound: how far the weights may lie apart, as a share of the distance that the reference's training
            travelled.
        worst: how far they lie apart, as the same share.
        agrees: they lie within the bound, and no choice of the implementation was wrong.
        followed: steps at which the specification leaves a choice and the reference followed the
            implementation's.
        summary: one or two sentences.
    """

    implementation: str
    steps: int
    bound: float
    worst: float
    agrees: bool
    followed: int
    summary: str


@dataclass(frozen=True, eq=False)
class Ended:
    """What came of a training with the reference's loss.

    Attributes:
        weights: all learnt weights after the last step.
        choices: what it chose at each step.
    """

    weights: Tensor
    choices: list[Positives]


@dataclass(frozen=True, eq=False)
class Start:
    """Where the trainings that are compared begin.

    Attributes:
        recorded: the training whose last weights they begin with, and whose images they go on with.
        steps: N.
        device: where they run.
    """

    recorded: RecordedTraining
    steps: int
    device: str

    def weights(self) -> Tensor:
        """All learnt weights before the first step."""
        return train(self.recorded.weights, self.recorded.schedule, 0, 0, lambda step, batch: ())

    def train(self, gradients: "Subject | Reference | Control") -> Tensor:
        """All learnt weights after N steps with this loss."""
        schedule = replace(self.recorded.schedule, rate=RATE)
        return train(self.recorded.weights, schedule, schedule.steps, self.steps, gradients, self.device)


@dataclass
class Subject:
    """The loss of the implementation under test.

    Attributes:
        implementation: it.
        batches, outcomes, choices: what it was given, returned and chose at each step.
    """

    implementation: Implementation
    batches: list[Batch] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    choices: list[Positives] = field(default_factory=list)

    def __call__(self, step: int, batch: Batch) -> Sequence[Tensor]:
        """Its gradient.

        Raises:
            ImplementationFailed: it raised, or broke the protocol.
        """
        outcome = execute(self.implementation, batch)
        assert outcome.loss is not None
        self.batches.append(batch)
        self.outcomes.append(outcome)
        shown = outcome.assignment if outcome.from_loss else None
        self.choices.append(choice_of(shown or own_targets(batch, self.implementation.dialect), batch))
        return outcome.loss.gradients


@dataclass
class Reference:
    """The reference's loss.

    Attributes:
        dialect: whose choices it makes.
        subject: a training whose open choices it follows; None to make its own.
        choices: what it chose at each step.
        followed: steps at which it followed.
        problem: what was wrong with the first choice that it would not follow.
    """

    dialect: Dialect
    subject: Subject | None = None
    choices: list[Positives] = field(default_factory=list)
    followed: int = 0
    problem: str = ""

    def __call__(self, step: int, batch: Batch) -> Sequence[Tensor]:
        """The gradient of `tal_reference.detection_loss`, or of its later stages on a choice that it follows."""
        maps = [level.clone().requires_grad_() for level in batch.feature_maps]
        loss = detection_loss(maps, batch.annotations, batch.head, batch.hyperparameters, self.dialect)
        choice = choice_of(loss.targets, batch)
        followed = self.followed_choice(step, choice)
        self.choices.append(followed or choice)
        if followed is None:
            return torch.autograd.grad(loss.total, maps)
        return gradient_on(batch, followed)

    def followed_choice(self, step: int, own: Positives) -> Positives | None:
        """The subject's choice, where it is another than our own, and allowed."""
        if self.subject is None or same_choice(own, self.subject.choices[step]):
            return None
        outcome = self.subject.outcomes[step]
        if outcome.from_loss:  # else the choice is the reference's own, on the subject's feature maps
            try:
                judge(outcome, Expectation(self.subject.batches[step], self.dialect))
            except Divergence as error:
                self.problem = self.problem or f"at step {step + 1} the loss itself diverges: {error}"
                return None
        self.followed += 1
        return self.subject.choices[step]


@dataclass
class Control:
    """The reference's loss with roundings as bad as a correct loss may have.

    Attributes:
        choices: what it takes at each step: a control is about roundings, not about choices.
        seed: of its roundings.
    """

    choices: list[Positives]
    seed: int

    def __call__(self, step: int, batch: Batch) -> Sequence[Tensor]:
        """The gradient, computed with noise."""
        with RoundingNoise(self.seed * MOST_STEPS + step, ROUGHNESS):
            return gradient_on(batch, self.choices[step])


def compare_training(
    implementation: Implementation,
    recorded: RecordedTraining | None = None,
    steps: int = STEPS,
    controls: int = CONTROLS,
    device: str = "cpu",
    rms: float | None = None,
    ended: Ended | None = None,
) -> TrainingComparison:
    """Train the same model with an implementation's loss and with the reference's, and compare the weights.

    Args:
        implementation: one with a loss.
        recorded: the training that both go on with; the suite's own if None.
        steps: N.
        controls: number of control trainings K.
        device: where to train.
        rms: what `rms_of_controls` says of all this, if it is known already.
        ended: what `reference_training` says for the implementation's dialect, if an earlier process computed it. What
            is not within the bound of that is compared with a training of this process before it is called wrong.

    Raises:
        ImplementationFailed: the implementation raised, or broke the protocol.
        UnknownImplementation: there is no ultralytics to build the model.
    """
    start = _start(recorded or recorded_training(), steps, device)
    subject = Subject(implementation)
    weights = start.train(subject)
    allowed = factor(controls) * (_rms_of_controls(start, controls) if rms is None else rms)
    fresh = partial(_reference_training, start, implementation.dialect)
    reference, expected = _followed(start, subject, ended or fresh())
    if ended is not None and not _length(weights - expected) <= allowed:
        reference, expected = _followed(start, subject, fresh())
    travelled = _length(expected - start.weights())
    worst, allowed = _length(weights - expected) / travelled, allowed / travelled
    agrees = worst <= allowed and not reference.problem
    summary = _summary(implementation.name, start, worst, allowed, reference)
    return TrainingComparison(implementation.name, steps, allowed, worst, agrees, reference.followed, summary)


def _followed(start: Start, subject: Subject, ended: Ended) -> tuple[Reference, Tensor]:
    """The reference and its last weights; trained again where the subject made an open choice otherwise."""
    dialect = subject.implementation.dialect
    if all(same_choice(one, other) for one, other in zip(ended.choices, subject.choices, strict=True)):
        return Reference(dialect, choices=ended.choices), ended.weights
    reference = Reference(dialect, subject)
    return reference, start.train(reference)


def rms_of_controls(
    recorded: RecordedTraining, steps: int = STEPS, controls: int = CONTROLS, device: str = "cpu"
) -> float:
    """Root mean square of the distances at which control trainings end from the reference's; no implementation's."""
    return _rms_of_controls(_start(recorded, steps, device), controls)


def reference_training(
    recorded: RecordedTraining, dialect: Dialect, steps: int = STEPS, device: str = "cpu"
) -> Ended:
    """The training with the reference's loss that all others are compared with; no implementation's."""
    return _reference_training(_start(recorded, steps, device), dialect)


def factor(controls: int) -> float:
    """How many times the controls' root mean square a correct training may end away: Student's quantile."""
    from scipy.special import stdtrit  # takes half a second to import

    return float(stdtrit(controls, 1 - FALSE_ALARM / 2))


def _summary(name: str, start: Start, worst: float, allowed: float, reference: Reference) -> str:
    relation = "within" if worst <= allowed else "NOT within"
    where = "" if start.device == "cpu" else f" on {start.device}"
    text = (
        f"after {start.steps} steps{where} the weights that the loss of {name} leads to lie {worst:.1e} of the "
        f"way travelled from those of the reference's loss, {relation} the bound {allowed:.1e}"
    )
    if reference.followed:
        text += f"; the reference followed {reference.followed} open choice{'s' * (reference.followed > 1)}"
    return text + (f"; {reference.problem}" if reference.problem else "")


@cache
def _start(recorded: RecordedTraining, steps: int, device: str) -> Start:
    return Start(recorded, steps, device)


@cache
def _reference_training(start: Start, dialect: Dialect) -> Ended:
    reference = Reference(dialect)
    return Ended(start.train(reference), reference.choices)


@cache
def _rms_of_controls(start: Start, controls: int) -> float:
    """Root mean square of the distances at which the control trainings end from the reference's.

    How far the steps stretch a distance is a matter of the model and the images: one dialect tells it for
    all.
    """
    reference = _reference_training(start, NEWEST)
    ends = [start.train(Control(reference.choices, seed)) for seed in range(1, controls + 1)]
    return (sum(_length(end - reference.weights) ** 2 for end in ends) / controls) ** 0.5


def _length(vector: Tensor) -> float:
    return float(vector.double().norm())


def own_targets(batch: Batch, dialect: Dialect) -> list[Targets]:
    """The reference's own assignment of a batch."""
    return Expectation(batch, dialect).assignment


def choice_of(assigned: Assignment | list[Targets], batch: Batch) -> Positives:
    """Who learns from which anchor, so far as the loss can see it."""
    if isinstance(assigned, Assignment):
        rows = list(zip(assigned.foreground, assigned.truth_index, assigned.scores.sum(-1), strict=True))
    else:
        rows = [(image.foreground, image.truth_index, image.weights) for image in assigned]
    counts = torch.bincount(batch.annotations[:, 0].long(), minlength=batch.images).tolist()
    return [
        Ownership(foreground & (weights > 0), index.long().where(foreground, 0)).positives(count)
        for (foreground, index, weights), count in zip(rows, counts, strict=True)
    ]


def same_choice(one: Positives, other: Positives) -> bool:
    """Whether two choices are the same, image by image."""
    return all(torch.equal(mine, theirs) for mine, theirs in zip(one, other, strict=True))


def gradient_on(batch: Batch, choice: Positives) -> Sequence[Tensor]:
    """The gradient of the reference's total on the feature maps, for given positives."""
    maps = [level.clone().requires_grad_() for level in batch.feature_maps]
    predictions = predictions_of(replace(batch, feature_maps=tuple(maps)))
    items = loss_items(predictions, replayed(batch, choice), batch.head, batch.hyperparameters)
    return torch.autograd.grad((items * batch.images).sum(), maps)


@torch.no_grad()
def replayed(batch: Batch, choice: Positives) -> BatchTargets:
    """The targets that follow from given positives (TAL-NORM-1, TAL-TGT-1)."""
    expected = Expectation(batch, NEWEST)
    inputs, truths = expected.inputs, expected.rounded_truths
    targets = []
    for image, positives in enumerate(choice):
        here, scores, boxes = truths[image], inputs.scores[image], inputs.boxes[image]
        if not len(here):
            targets.append(assign(scores, boxes, inputs.anchors, here, batch.head.strides))  # TAL-EMPTY-1
            continue
        overlap = overlaps_of(here.boxes, boxes, positives)  # (M, A)
        metric = alignment_metric(scores.T[here.labels], overlap, batch.hyperparameters)  # (M, A)
        targets.append(targets_of(here, positives, normalised(metric, overlap, positives)))
    return stacked(targets, batch.head.classes)
