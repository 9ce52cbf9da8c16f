"""Train a YOLOv8n on photographs, and record the batches that its loss receives.

Ultralytics builds the model from its bundled description, with random weights: nothing is downloaded. It
trains on the photographs of `training.photographs` with the official loss. The inputs of the loss at some of
the steps are the suite's recorded batches: the predictions of a network, which are at first like noise and
later near the ground truth.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.core.batch import Batch
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.ultralytics_environment import configure_ultralytics
from tal_conformance.training.capture import Call, feature_maps_of, listening
from tal_conformance.training.photographs import Images, augmented, images_of
from tal_reference import Head, Hyperparameters, detection_loss

MODEL = "yolov8n.yaml"
"""File name of the model's description in the ultralytics package."""
CLASSES = 80
"""Number of classes of COCO, which the labels use."""

Predictions = Mapping[str, Any]
"""Type of the head's output in training: "boxes" (B, 4R, A), "scores" (B, C, A), and "feats" with the grids."""
Gradients = Callable[[int, Batch], Sequence[Tensor]]
"""Function that takes a step's number and the input of the loss, and returns the gradient of the loss's total on each
feature map."""


@dataclass(frozen=True)
class Schedule:
    """Schedule of the training.

    Attributes:
        steps: number of steps.
        recorded: steps whose batch is recorded.
        sizes: heights and widths of the input in pixels, used in turn; multiples of 32.
        pool: number of different image batches, used in turn.
        seed: seed of the initial weights and of the images.
        rate: learning rate.
        momentum: momentum of SGD (Nesterov's).
        clip: norm to which the gradient of all weights is clipped.
    """

    steps: int = 60
    recorded: tuple[int, ...] = (0, 7, 16, 29, 42, 59)
    sizes: tuple[tuple[int, int], ...] = ((192, 256), (256, 192))
    pool: int = 6
    seed: int = 0
    rate: float = 0.01
    momentum: float = 0.9
    clip: float = 10.0

    def images(self, step: int) -> Images:
        """Return the images and annotations of a training step."""
        return _images(self.seed + step % self.pool, self.sizes[step % self.pool % len(self.sizes)])


@dataclass(frozen=True)
class Progress:
    """Quality of the trained model's predictions at a recorded step.

    Attributes:
        step: number of the step.
        total: the value of the loss that is differentiated.
        overlap: mean CIoU of the positives with their ground truths (TAL-MET-1).
        score: mean over the ground truths of the largest score that one of its positives has for the right class.
    """

    step: int
    total: float
    overlap: float
    score: float


@dataclass(frozen=True, eq=False)
class RecordedTraining:
    """Result of a training of a YOLOv8n with the official loss.

    Attributes:
        schedule: schedule of the training.
        head: head of the model.
        batches: inputs of the loss at the recorded steps.
        progress: quality of the model at the recorded steps.
        losses: the total of the loss at every step.
        weights: the model's state after the last step.
    """

    schedule: Schedule
    head: Head
    batches: list[Batch]
    progress: list[Progress]
    losses: list[float]
    weights: dict[str, Tensor]


@cache
def _images(seed: int, size: tuple[int, int]) -> Images:
    return images_of(augmented(seed), size)


def build_model(seed: int = 0) -> nn.Module:
    """Return a YOLOv8n in training mode on the CPU, with random weights that depend only on the seed.

    Raises:
        UnknownImplementation: ultralytics is not installed, or cannot be imported.
    """
    configure_ultralytics()
    with untouched():
        torch.default_generator.manual_seed(seed)
        try:
            from ultralytics.nn.tasks import DetectionModel
            from ultralytics.utils import ROOT
        except ImportError as error:
            raise UnknownImplementation(
                f"cannot import ultralytics, which builds the model: {error}"
            ) from error
        # the full path, because a file of this name in the working directory would take precedence
        model: nn.Module = DetectionModel(
            str(ROOT / "cfg" / "models" / "v8" / MODEL), nc=CLASSES, verbose=False
        )
    return model.train()


@contextmanager
def untouched() -> Iterator[None]:
    """Restore torch's random state and print options, which building a model changes, when the `with` block ends."""
    printing = dict(vars(torch._tensor_str.PRINT_OPTS))
    try:
        with torch.random.fork_rng(devices=()):
            yield
    finally:
        torch.set_printoptions(**printing)


@contextmanager
def one_thread() -> Iterator[None]:
    """Compute on one thread, so that the order of sums does not depend on the number of cores.

    Two threads would be a third faster on an idle machine, and many times slower on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def head_of(model: Any) -> Head:
    """Return the strides, classes and bins of an Ultralytics detection model's head."""
    detect = model.model[-1]
    return Head(tuple(int(stride) for stride in detect.stride.tolist()), detect.nc, detect.reg_max)


def official_criterion(model: Any, hyperparameters: Hyperparameters = Hyperparameters()) -> Any:
    """Return the model's own loss object, made in the same way as by Ultralytics' trainer."""
    numbers = hyperparameters
    model.args = SimpleNamespace(box=numbers.box_gain, cls=numbers.cls_gain, dfl=numbers.dfl_gain)
    return model.init_criterion()


class Trainee:
    """A model that is trained, with its optimiser."""

    def __init__(self, model: nn.Module, schedule: Schedule) -> None:
        self.model, self.clip = model, schedule.clip
        self.weights = [weight for weight in model.parameters() if weight.requires_grad]
        self.optimiser = torch.optim.SGD(self.weights, schedule.rate, schedule.momentum, nesterov=True)

    def predict(self, images: Images) -> Predictions:
        """Return the head's predictions for the images, in training mode."""
        predictions: Predictions = self.model(images.pixels)
        return predictions

    def learn(self, differentiate: Callable[[], None]) -> None:
        """Take one step of SGD with the gradients of the weights, which `differentiate` computes."""
        self.optimiser.zero_grad()
        differentiate()
        nn.utils.clip_grad_norm_(self.weights, self.clip)
        self.optimiser.step()

    def vector(self) -> Tensor:
        """Return a copy of all trained weights as one vector (P,)."""
        return torch.cat([weight.detach().flatten() for weight in self.weights])


@cache
@one_thread()
def recorded_training(schedule: Schedule = Schedule()) -> RecordedTraining:
    """Train a model with the official loss from random weights, and return the training with its recorded batches.

    The result is cached in the process.

    Raises:
        UnknownImplementation: ultralytics is not installed, cannot be imported, or its photographs differ from the
            labelled ones.
    """
    model = build_model(schedule.seed)
    criterion, head, trainee = official_criterion(model), head_of(model), Trainee(model, schedule)
    batches: list[Batch] = []
    progress: list[Progress] = []
    losses: list[float] = []
    heard: list[Call] = []
    for step in range(schedule.steps):
        images = schedule.images(step)
        predictions = trainee.predict(images)
        rows = images.annotations
        with listening(lambda call: heard.append(call.detached())):
            terms, _ = criterion(
                predictions, {"batch_idx": rows[:, 0], "cls": rows[:, 1], "bboxes": rows[:, 2:]}
            )
        call = heard.pop()
        total = terms.sum()
        losses.append(float(total.detach()))
        if step in schedule.recorded:
            batch = call.batch()
            progress.append(progress_of(step, losses[-1], batch))
            batches.append(
                dataclasses.replace(batch, origin=_origin(schedule, progress[-1]), hazards=hazards_of(batch))
            )
        trainee.learn(total.backward)
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    return RecordedTraining(schedule, head, batches, progress, losses, weights)


def batch_of(predictions: Predictions, images: Images, head: Head) -> Batch:
    """Return the predictions and annotations as a batch that shares no memory with the model."""
    maps = tuple(level.detach().clone() for level in feature_maps_of(predictions))
    return Batch(maps, images.annotations.clone(), head)


def progress_of(step: int, total: float, batch: Batch) -> Progress:
    """Return the quality of a batch's predictions: overlap and score of the reference's positives."""
    with torch.no_grad():
        loss = detection_loss(batch.feature_maps, batch.annotations, batch.head, keep_trace=True)
    traces = [image.trace for image in loss.targets if image.trace]
    overlaps = torch.cat([trace.overlap[trace.positives] for trace in traces])  # (P,)
    scores = torch.cat(
        [(trace.score * trace.positives).amax(1) for trace in traces]
    )  # (G,) of the ground truths
    return Progress(step, total, float(overlaps.mean()), float(scores.mean()))


def _origin(schedule: Schedule, progress: Progress) -> str:
    name = MODEL.removesuffix(".yaml")
    return (
        f"recorded: {name} in training, step {progress.step} of {schedule.steps}, seed {schedule.seed}: "
        f"loss {progress.total:.1f}, positives' mean overlap {progress.overlap:.2f}, "
        f"ground truths' mean best score {progress.score:.4f}"
    )


@one_thread()
def train(
    weights: Mapping[str, Tensor],
    schedule: Schedule,
    first: int,
    steps: int,
    gradients: Gradients,
    device: str = "cpu",
) -> Tensor:
    """Train a YOLOv8n with any loss from given weights, and return the trained weights.

    Args:
        weights: the model's state at the start.
        schedule: the images and the optimiser's settings; its momentum starts at zero.
        first: number of the first step, which selects the images.
        steps: number of steps.
        gradients: the loss, as a function that returns the gradients of its total with respect to the feature maps.
        device: device of the training.

    Returns:
        (P,) all trained weights, on the CPU.
    """
    model = build_model(schedule.seed).to(device)
    model.load_state_dict(weights)
    head, trainee = head_of(model), Trainee(model, schedule)
    for step in range(steps):
        images = schedule.images(first + step).to(device)
        predictions = trainee.predict(images)
        given = gradients(step, batch_of(predictions, images, head))
        maps = feature_maps_of(predictions)
        trainee.learn(lambda maps=maps, given=given: torch.autograd.backward(maps, given))  # type: ignore[misc]
    return trainee.vector().cpu()
