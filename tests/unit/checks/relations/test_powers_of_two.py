"""Padding to a power of two, as on MPS, is a transformation of META-PADDING, and finds code that takes it for GTs."""

from dataclasses import replace
from itertools import islice
from typing import Any

import pytest
from torch.nn.functional import pad

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.relations.relation import Relation
from tal_conformance.checks.relations.relations import RELATIONS
from tal_conformance.checks.relations.transformations import more_padding
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject

THREE = (Truth("ordinary", at=(6, 6)), Truth("huge", at=(9, 3)), Truth("ordinary", at=(3, 9)))
BATCH = Recipe((THREE, THREE[:1], ()), cells=(6, 6), classes=2)


class PadsToPowersOfTwo:
    """The reference as an assigner that pads M to a power of two; `leaks` takes this padding for ground truths."""

    name, version = "pads", "1"
    leaks = False

    def assign(self, inputs: AssignerInputs) -> Assignment:
        count = inputs.labels.shape[1]
        more = (1 << max(count - 1, 0).bit_length()) - count
        padded: dict[str, Any] = {
            name: pad(getattr(inputs, name), (0, 0, 0, more))
            for name in ("labels", "truth_boxes", "truth_mask")
        }
        if self.leaks:
            padded["truth_mask"][:, count:] = 1
            padded["truth_boxes"][:, count:, 2:] = 12.0
        return replace(ReferenceAdapter().assign(replace(inputs, **padded)), stages=None)


class Leaks(PadsToPowersOfTwo):
    leaks = True


def subject(adapter: type) -> Subject:
    return Subject(implementation_from(adapter, "double"), "cpu")


def test_padding_that_is_masked_passes():
    assert not RELATIONS["META-PADDING"](subject(PadsToPowersOfTwo), BATCH.build()).verdict.fails


def test_padding_that_is_taken_for_ground_truths_is_found_by_the_power_of_two():
    with pytest.raises(Failure, match="power of two") as caught:
        RELATIONS["META-PADDING"](subject(Leaks), BATCH.build())
    assert caught.value.clause == "META-PADDING"


def test_the_larger_image_alone_does_not_find_it():
    larger = Relation("META-PADDING", "", lambda batch: islice(more_padding(batch), 1))
    assert not larger(subject(Leaks), BATCH.build()).verdict.fails


@pytest.mark.parametrize("count", range(1, 6))
def test_the_padding_grows_to_the_next_power_of_two(count: int):
    batch = Recipe((THREE[:1] * count, ())).build()
    (made,) = [plan.changed[0].batch for plan in more_padding(batch) if "power of two" in plan.how]
    rows = int((made.annotations[:, 0] == 0).sum())
    assert rows > count
    assert rows.bit_count() == 1
    assert (made.annotations[count:, 2:].sum(1) < 0).all()  # ANN-3
