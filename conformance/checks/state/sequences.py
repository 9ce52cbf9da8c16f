"""Sequences of batches as in a training, each varied from one recipe."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.task import E2E
from tal_conformance.implementations.calling.call import Mode
from tal_reference import Hyperparameters

IN_A_ROW = 12
"""Number of batches of equal shapes in a row: more than a short warm-up or a small pool of buffers."""
LONG_ROW = 66
"""As `IN_A_ROW`, for batches other than the simplest: more than a warm-up or a pool of buffers of 64 calls."""
DIFFERENT = 3
"""Number of different batches among these steps, to find results that come from one of the previous two calls."""


@dataclass(frozen=True, eq=False)
class Step:
    """One call of a sequence.

    Attributes:
        batch: the batch; steps with the same batch share the object.
        mode: autograd mode of the call.
    """

    batch: Batch
    mode: Mode = Mode.TRAIN

    def describe(self) -> str:
        """Return the step as one line of text."""
        word = "train" if self.mode is Mode.TRAIN else f"validate ({self.mode.value})"
        return f"{word}: {self.batch.describe()}"


def multi_scale(recipe: Recipe) -> Iterator[Step]:
    """Yield steps with other image sizes: height and width exchanged, twice the height, and the first size again."""
    rows, columns = recipe.cells
    first = Step(recipe.build())
    yield first
    for number, cells in enumerate(((columns, rows), (2 * rows, columns))):
        yield Step(replace(recipe, cells=cells, seed=recipe.seed + 1 + number).build())
    yield first


def smaller_last_batch(recipe: Recipe) -> Iterator[Step]:
    """Yield steps: two batches of an epoch, a smaller last batch, and the first batch of the next epoch."""
    first = Step(recipe.build())
    yield first
    yield Step(replace(recipe, images=recipe.images[:1], seed=recipe.seed + 1).build())
    yield first


def equal_shapes(recipe: Recipe) -> Iterator[Step]:
    """Yield many steps with equal shapes and numbers of rows, and `DIFFERENT` different batches among them.

    The simplest batch, with seed 0, is the only one that the profile `dev` draws.
    """
    steps = [Step(replace(recipe, seed=recipe.seed + number).build()) for number in range(DIFFERENT)]
    for number in range(LONG_ROW if recipe.seed else IN_A_ROW):
        yield steps[number % DIFFERENT]


def changed_gains(recipe: Recipe) -> Iterator[Step]:
    """Yield steps with one batch: with other gains, with another k, and with the first hyperparameters again."""
    first = Step(recipe.build())
    yield first
    for numbers in (Hyperparameters(box_gain=1.0, cls_gain=2.0, dfl_gain=0.25), Hyperparameters(topk=3)):
        yield Step(replace(recipe, hyperparameters=numbers).build())
    yield first


def train_validate_train(recipe: Recipe) -> Iterator[Step]:
    """Yield steps of a training with validations at the start, as in the official trainer, and in between."""
    training = replace(recipe, seed=recipe.seed + 1).build()
    other = replace(recipe, cells=(recipe.cells[1] + 1, recipe.cells[0]), seed=recipe.seed + 2).build()
    yield Step(recipe.build(), Mode.INFERENCE)
    yield Step(training)
    yield Step(other, Mode.NO_GRAD)
    yield Step(training)
    yield Step(other)


def two_heads(recipe: Recipe) -> Iterator[Step]:
    """Yield steps of two heads in turn, with equal grids, but other strides and another number of classes."""
    first = Step(recipe.build())
    strides = tuple(2 * stride for stride in recipe.strides)
    second = Step(replace(recipe, strides=strides, classes=recipe.classes + 1, seed=recipe.seed + 1).build())
    yield from (first, second, first, second)


def precisions_in_turn(recipe: Recipe) -> Iterator[Step]:
    """Yield steps with one batch: in float32, under bfloat16 autocast, and in float32 again."""
    batch = recipe.build()
    half = replace(batch.to(dtype=torch.bfloat16), autocast=True)
    yield from (Step(half), Step(batch), Step(half), Step(batch))


EPOCHS = 4
"""Number of epochs of the training that `epochs` follows."""


def epochs(recipe: Recipe) -> Iterator[Step]:
    """Yield steps of an end-to-end head's training, whose weights change with each epoch (E2E-4, E2E-5).

    The first epoch has two batches and a validation. The last epoch is repeated, as after a loss of NaN; then the
    training is resumed at an earlier epoch, and shortened.
    """
    numbers = recipe.hyperparameters

    def step(updates: int, of: int = EPOCHS, seed: int = 0, mode: Mode = Mode.TRAIN) -> Step:
        state = replace(numbers, updates=updates, epochs=of)
        return Step(replace(recipe, hyperparameters=state, seed=recipe.seed + seed).build(), mode)

    yield step(0)
    yield step(0, seed=1)
    yield step(1, mode=Mode.NO_GRAD)  # the trainer updates the weights before it validates
    for updates in (1, 2, EPOCHS - 1, EPOCHS):
        yield step(updates)
    yield step(1)
    yield step(2, of=EPOCHS - 1)


SEQUENCES: dict[str, Callable[[Recipe], Iterator[Step]]] = {
    "multi-scale": multi_scale,
    "smaller-last-batch": smaller_last_batch,
    "equal-shapes": equal_shapes,
    "changed-gains": changed_gains,
    "train-validate-train": train_validate_train,
    "two-heads": two_heads,
    "float32-after-bfloat16": precisions_in_turn,
    "epochs": epochs,
}
"""Every sequence by name, as adapters declare it in `unsupported_ways`."""
TASKS_OF = {"epochs": (E2E.name,)}
"""Names of the tasks of sequences that do not concern every task."""
ROUNDED = ("epochs",)
"""Sequences whose steps need not have the bits of a first call: weights may be computed from the previous epoch's."""
NEEDS = {"float32-after-bfloat16": "autocast-bfloat16"}
"""The precision that a sequence needs."""
CLAUSES = {"changed-gains": "STATE-2", "two-heads": "STATE-2", "epochs": "E2E-5"}
"""Clause of the sequences whose steps differ in what a criterion is made from or updated with; that of the others is
STATE-1."""
