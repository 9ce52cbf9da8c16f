"""Test that training with an implementation's loss leads to the same weights as training with the reference's loss.

Two correct losses round differently, so that the weights that they lead to differ too, and every step
enlarges or reduces the differences. The allowed difference is measured, on the same model, images and steps,
with **control trainings**: they use the reference's loss with a random rounding error of `ROUGHNESS` eps in
every operation of the forward and backward pass (`RoundingNoise`), much larger than correct rounding causes.

Let d be the distance between a training's last weights and the last weights of the reference's training, and rms the
root mean square of the d of K controls. As long as distances are small, the difference of the weights is a sum of very
many small independent contributions, and therefore normally distributed in every direction. In the worst case, in which
the steps stretch one direction only, d / rms of one more such training is distributed as the absolute value of
Student's t with K degrees of freedom; in other cases it varies less. So a loss that rounds like the controls stays
below

    bound = t(K, 1 - FALSE_ALARM / 2) rms

except for one training in 1 / FALSE_ALARM. The error of an IEEE 754 operation is at most half an eps, and the error of
a library function at most two eps. A correct loss therefore rounds less than the controls, and stays far below the
bound.

The bound grows with the number of steps, because distances do: training is chaotic. From random weights, at
the rate of the recorded training, the distance of the controls is 1e-5 of the distance travelled after one
step, 1e-2 after four and 0.3 after six: two equally valid trainings soon have nothing in common. Therefore
the comparison begins where the recorded training ends, with trained weights, and at a lower learning rate, as
at the end of a schedule: there, ten steps double a distance of 1e-5. A box gain of 7.49 in place of 7.5 then
exceeds the bound thirty times. (A factor on the whole loss has no effect here, because the gradient is clipped
to a fixed norm, as in Ultralytics' trainer; the stage "total" detects it.)

If two anchors are equally good up to rounding, the two losses may assign different positives (ambiguities T1, T2 and T4
of the specification). Then the implementation's result of that step is judged like its result on any batch. If the
judgement does not fail, the reference's training adopts the implementation's positives and continues.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cache, partial

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import CheckedAssignment, Outcome
from tal_conformance.core.reference_inputs import predictions_of
from tal_conformance.core.verdicts import Divergence
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_conformance.judgement.oracle.admissible import Ownership
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
"""Number of steps of a comparison."""
RATE = 0.003
"""Learning rate of a comparison."""
CONTROLS = 4
"""Number of control trainings of a comparison."""
FALSE_ALARM = 1e-4
"""Probability that a correct loss fails the comparison if its roundings are as large as those of the controls."""
ROUGHNESS = 2.0
"""Rounding of each operation of a control, in eps: four times the largest error of a correct rounding, and the largest
error of a library function (2 ulp). Another correct loss may therefore also use a few more operations.
"""
MOST_STEPS = 1_000_000
"""Maximum number of steps. It keeps the seeds of all steps of all controls distinct."""

Positives = list[Tensor]
"""Mask (M, A) bool for each image: positives of each ground truth whose target score is not zero."""


@dataclass(frozen=True)
class TrainingComparison:
    """Result of training the same model twice: with an implementation's loss, and with the reference's loss.

    Attributes:
        implementation: name of the implementation that was compared with the reference.
        steps: number of steps of each training.
        bound: largest allowed distance of the weights, as a share of the distance that the reference's training
            travelled.
        worst: distance of the weights after the last step, as a share of the same distance.
        agrees: True if the distance is within the bound, and all positives of the implementation are allowed.
        followed: number of steps at which the positives of the two losses differ, both are allowed, and the reference's
            training adopted the implementation's.
        summary: the result in one or two sentences.
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
    """Result of a training with the reference's loss.

    Attributes:
        weights: all trained weights after the last step.
        choices: masks of the reference's positives at each step.
    """

    weights: Tensor
    choices: list[Positives]


@dataclass(frozen=True, eq=False)
class Start:
    """The common start of all compared trainings: weights, images, number of steps and device.

    Attributes:
        recorded: the training that provides the initial weights and the images.
        steps: number of steps to train.
        device: device of the trainings.
    """

    recorded: RecordedTraining
    steps: int
    device: str

    def weights(self) -> Tensor:
        """All trained weights before the first step."""
        return train(self.recorded.weights, self.recorded.schedule, 0, 0, lambda step, batch: ())

    def train(self, gradients: "Subject | Reference | Control") -> Tensor:
        """Return all trained weights (P,) after training with the loss that `gradients` differentiates."""
        schedule = replace(self.recorded.schedule, rate=RATE)
        return train(self.recorded.weights, schedule, schedule.steps, self.steps, gradients, self.device)


@dataclass
class Subject:
    """The loss of the implementation under test, as a function that returns its gradients.

    Attributes:
        implementation: implementation under test.
        batches: input of the loss at each step.
        outcomes: what the implementation returned at each step.
        choices: positives of the implementation at each step.
    """

    implementation: Implementation
    batches: list[Batch] = field(default_factory=list)
    outcomes: list[Outcome] = field(default_factory=list)
    choices: list[Positives] = field(default_factory=list)

    def __call__(self, step: int, batch: Batch) -> Sequence[Tensor]:
        """Return the gradients of the implementation's total loss with respect to the feature maps.

        Raises:
            ImplementationFailed: the implementation raised, or violated the protocol.
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
    """The reference's loss, as a function that returns its gradients.

    Attributes:
        dialect: dialect of the reference.
        subject: loss whose positives the reference adopts at steps at which several assignments are allowed; None to
            use the reference's own positives at every step.
        choices: positives at each step.
        followed: number of steps at which the reference adopted the positives of `subject`.
        problem: description of the first assignment of `subject` that is not allowed; "" if all are allowed.
    """

    dialect: Dialect
    subject: Subject | None = None
    choices: list[Positives] = field(default_factory=list)
    followed: int = 0
    problem: str = ""

    def __call__(self, step: int, batch: Batch) -> Sequence[Tensor]:
        """Return the gradients of the reference's total loss with respect to the feature maps.

        The positives are the reference's own, or those of `subject` if they differ and the specification allows them.
        """
        maps = [level.clone().requires_grad_() for level in batch.feature_maps]
        loss = detection_loss(maps, batch.annotations, batch.head, batch.hyperparameters, self.dialect)
        choice = choice_of(loss.targets, batch)
        followed = self.followed_choice(step, choice)
        self.choices.append(followed or choice)
        if followed is None:
            return torch.autograd.grad(loss.total, maps)
        return gradient_on(batch, followed)

    def followed_choice(self, step: int, own: Positives) -> Positives | None:
        """Return the positives of `subject` at a step if they differ from `own` and are allowed, else None."""
        if self.subject is None or same_choice(own, self.subject.choices[step]):
            return None
        outcome = self.subject.outcomes[step]
        if outcome.from_loss:  # else the reference made this choice, on the subject's feature maps
            try:
                judge(outcome, Expectation(self.subject.batches[step], self.dialect))
            except Divergence as error:
                self.problem = (
                    self.problem
                    or f"at step {step + 1} the implementation diverges from the reference: {error}"
                )
                return None
        self.followed += 1
        return self.subject.choices[step]


@dataclass
class Control:
    """The reference's loss with random rounding errors, which are larger than the rounding errors of any correct loss.

    Attributes:
        choices: the positives at each step. They are given: a control training varies rounding errors, not positives.
        seed: seed of the rounding errors.
    """

    choices: list[Positives]
    seed: int

    def __call__(self, step: int, batch: Batch) -> Sequence[Tensor]:
        """Return the gradients of the total loss with respect to the feature maps, with random rounding errors."""
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
    """Train a model twice, with an implementation's and with the reference's loss, and compare the final weights.

    Args:
        implementation: an implementation with a loss.
        recorded: the training that both losses continue; the suite's own if None.
        steps: number of steps to train.
        controls: number of control trainings.
        device: device of the trainings.
        rms: result of `rms_of_controls` for the same training, steps, controls and device; if None, it is computed.
        ended: result of `reference_training` for the implementation's dialect, if an earlier process computed it. A
            distance beyond the bound is then confirmed by a new reference training in this process.

    Raises:
        ImplementationFailed: the implementation raised, or violated the protocol.
        UnknownImplementation: ultralytics, which builds the model, is not installed.
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
    """Return a `Reference` that adopts the implementation's positives where allowed, and the weights that it leads to.

    Args:
        start: the common start of the trainings.
        subject: the implementation's loss, after its training.
        ended: an earlier result of the reference's training. The training is repeated if the implementation assigned
            other positives than `ended` has.
    """
    dialect = subject.implementation.dialect
    if all(same_choice(*pair) for pair in zip(ended.choices, subject.choices, strict=True)):
        return Reference(dialect, choices=ended.choices), ended.weights
    reference = Reference(dialect, subject)
    return reference, start.train(reference)


def rms_of_controls(
    recorded: RecordedTraining, steps: int = STEPS, controls: int = CONTROLS, device: str = "cpu"
) -> float:
    """Return the root mean square distance of control trainings' last weights from the reference's.

    The result does not depend on the implementation under test.
    """
    return _rms_of_controls(_start(recorded, steps, device), controls)


def reference_training(
    recorded: RecordedTraining, dialect: Dialect, steps: int = STEPS, device: str = "cpu"
) -> Ended:
    """Return the result of the training with the reference's loss, with which all other trainings are compared."""
    return _reference_training(_start(recorded, steps, device), dialect)


def factor(controls: int) -> float:
    """Return the largest distance of a correct training, as a multiple of the control trainings' rms (Student's t)."""
    from scipy.special import stdtrit  # takes half a second to import

    return float(stdtrit(controls, 1 - FALSE_ALARM / 2))


def _summary(name: str, start: Start, worst: float, allowed: float, reference: Reference) -> str:
    relation = "within" if worst <= allowed else "NOT within"
    where = "" if start.device == "cpu" else f" on {start.device}"
    text = (
        f"after {start.steps} steps{where}, the weights trained with the loss of {name} differ from those trained with "
        f"the reference's loss by {worst:.1e} of the distance travelled, {relation} the bound {allowed:.1e}"
    )
    if reference.followed:
        text += (
            f"; in {reference.followed} step{'s' * (reference.followed > 1)} the reference adopted the choice of "
            f"{name}"
        )
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
    """Return the root mean square distance of the control trainings' weights from the reference's.

    The growth of a distance over the steps depends on model and images, not on the dialect: one dialect represents all
    dialects.
    """
    reference = _reference_training(start, NEWEST)
    ends = [start.train(Control(reference.choices, seed)) for seed in range(1, controls + 1)]
    return (sum(_length(end - reference.weights) ** 2 for end in ends) / controls) ** 0.5


def _length(vector: Tensor) -> float:
    return float(vector.double().norm())


def own_targets(batch: Batch, dialect: Dialect) -> list[Targets]:
    """Return the reference's own assignment of each image of a batch."""
    return Expectation(batch, dialect).assignment


def choice_of(assigned: CheckedAssignment | list[Targets], batch: Batch) -> Positives:
    """Return, for each image, the mask (M, A) of positives with a target score above 0: only these affect the loss."""
    if isinstance(assigned, CheckedAssignment):
        rows = list(zip(assigned.foreground, assigned.truth_index, assigned.scores.sum(-1), strict=True))
    else:
        rows = [(image.foreground, image.truth_index, image.weights) for image in assigned]
    counts = torch.bincount(batch.annotations[:, 0].long(), minlength=batch.images).tolist()
    return [
        Ownership(foreground & (weights > 0), index.long().where(foreground, 0)).positives(count)
        for (foreground, index, weights), count in zip(rows, counts, strict=True)
    ]


def same_choice(first: Positives, second: Positives) -> bool:
    """Return True if two lists of positives are equal in every image."""
    return all(torch.equal(*masks) for masks in zip(first, second, strict=True))


def gradient_on(batch: Batch, choice: Positives) -> Sequence[Tensor]:
    """Return the gradients of the reference's total loss with respect to the feature maps, for given positives."""
    maps = [level.clone().requires_grad_() for level in batch.feature_maps]
    predictions = predictions_of(replace(batch, feature_maps=tuple(maps)))
    items = loss_items(predictions, replayed(batch, choice), batch.head, batch.hyperparameters)
    return torch.autograd.grad((items * batch.images).sum(), maps)


@torch.no_grad()
def replayed(batch: Batch, choice: Positives) -> BatchTargets:
    """Return the targets of a batch's anchors for the positives `choice` of each image (TAL-NORM-1, TAL-TGT-1)."""
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
