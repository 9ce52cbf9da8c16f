"""Batches with one non-finite prediction, as in a diverging training."""

import math
from dataclasses import dataclass, replace

from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.one_line_repr import OneLineRepr
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.names import unknown_name

NON_FINITE_VALUES = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
"""Non-finite values by name."""


@dataclass(frozen=True, repr=False)
class NonFiniteBatch(OneLineRepr):
    """A recipe of a batch in which one predicted logit is NaN or infinite.

    Attributes:
        recipe: the batch without the non-finite prediction.
        value: a key of `NON_FINITE_VALUES`.
        class_logit: True for a class logit, False for a distance logit.
        channel: index of the logit among the anchor's class or distance logits, modulo their number.
        place: index of the anchor among the first level's anchors of all images, modulo their number. Of a head with
            two branches, one2one has it if `place` is odd, and one2many if it is even.
    """

    recipe: Recipe
    value: str = "nan"
    class_logit: bool = False
    channel: int = 0
    place: int = 0

    def build(self) -> Batch:
        """Return the batch with the non-finite prediction: float32, on the CPU.

        Raises:
            ValueError: `value` is not a key of `NON_FINITE_VALUES`.
        """
        if self.value not in NON_FINITE_VALUES:
            raise ValueError(unknown_name("value", str(self.value), NON_FINITE_VALUES))
        batch = self.recipe.build()
        levels = len(batch.head.strides) * (self.place % len(batch.family.branches))
        first = batch.feature_maps[levels].clone()  # (B, 4R + C, H, W)
        images, _, height, width = first.shape
        sides, classes = (batch.family.field(name).width(batch.head) for name in ("distances", "logits"))
        channel = sides + self.channel % classes if self.class_logit else self.channel % sides
        anchor, image = self.place % (height * width), self.place // (height * width) % images
        first[image, channel, anchor // width, anchor % width] = NON_FINITE_VALUES[self.value]
        return replace(
            batch,
            feature_maps=(*batch.feature_maps[:levels], first, *batch.feature_maps[levels + 1 :]),
            origin=repr(self),
            hazards=batch.hazards | {"not_finite"},
        )


def non_finite(recipes: SearchStrategy[Recipe]) -> SearchStrategy[NonFiniteBatch]:
    """Return a strategy of batches with one non-finite prediction, from a strategy of recipes of any task."""
    return st.builds(
        NonFiniteBatch,
        recipe=recipes,
        value=st.sampled_from(tuple(NON_FINITE_VALUES)),
        class_logit=st.booleans(),
        channel=st.integers(0, 127),
        place=st.integers(0, 1023),
    ).map(rarely_at_infinity)


def rarely_at_infinity(batch: NonFiniteBatch) -> NonFiniteBatch:
    """Return the batch with NaN in place of an infinite distance of a head with one bin, but for one in eight channels.

    The clauses leave open what follows from an edge at infinity: of such a batch only the other images are judged.
    """
    is_edge = batch.recipe.reg_max == 1 and not batch.class_logit and batch.value != "nan"
    return replace(batch, value="nan") if is_edge and batch.channel % 8 else batch
