"""Batches with one prediction that is no finite number, as a training that blows up meets them."""

import math
from dataclasses import dataclass, replace

from tal_conformance.batches.one_line_repr import OneLineRepr
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch

NON_FINITE_VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""What is planted, by its text."""


@dataclass(frozen=True, repr=False)
class NonFiniteBatch(OneLineRepr):
    """A recipe, and where one of its predictions is no finite number.

    Attributes:
        recipe: the rest of the batch.
        value: a key of `NUMBERS`.
        class_logit: plant it into a class logit, not into one of the distances.
        channel: which of them, counted round.
        place: which anchor of the first level of which image, counted round.
    """

    recipe: Recipe
    value: str = "nan"
    class_logit: bool = False
    channel: int = 0
    place: int = 0

    def build(self) -> Batch:
        """The batch: float32, on the CPU.

        Raises:
            ValueError: the value is none that is known.
        """
        if self.value not in NON_FINITE_VALUES:
            raise ValueError(f"{self.value!r} is none of {', '.join(NON_FINITE_VALUES)}")
        batch = self.recipe.build()
        first = batch.feature_maps[0].clone()  # (B, 4R + C, H, W)
        images, _, height, width = first.shape
        sides, classes = 4 * batch.head.reg_max, batch.head.classes
        channel = sides + self.channel % classes if self.class_logit else self.channel % sides
        anchor, image = self.place % (height * width), self.place // (height * width) % images
        first[image, channel, anchor // width, anchor % width] = NON_FINITE_VALUES[self.value]
        return replace(
            batch,
            feature_maps=(first, *batch.feature_maps[1:]),
            origin=repr(self),
            hazards=batch.hazards | {"not_finite"},
        )
