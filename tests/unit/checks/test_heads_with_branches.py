"""End-to-end heads have the checks of unusual heads and of too few anchors, and these find planted faults."""

from dataclasses import replace
from typing import Any

import pytest

from tal_conformance.batches.hazards.catalogue import MEANINGS_BY_TASK
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.core.task import E2E
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.mutation.attack import attack
from tal_conformance.suite.coverage import IMPOSSIBLE
from tal_reference import Head


class Lenient(ReferenceAdapter):
    """A loss that answers zero where a ground truth cannot select enough anchors."""

    name, tasks = "lenient", (E2E.name,)

    def loss(self, *arguments: Any) -> Any:
        try:
            return super().loss(*arguments)
        except ValueError:
            return super().loss(arguments[0], arguments[1][:0], *arguments[2:])


class EvenStrides(ReferenceAdapter):
    """A loss that takes every stride for twice the one before."""

    name, tasks = "even-strides", (E2E.name,)

    def loss(self, maps: Any, rows: Any, head: Head, numbers: Any) -> Any:
        strides = tuple(head.strides[0] * 2**level for level in range(len(head.strides)))
        return super().loss(maps, rows, replace(head, strides=strides), numbers)


def test_an_answer_for_too_few_anchors_is_found():
    hit = attack(implementation_from(Lenient, "lenient"), "fewer_anchors_than_k", task=E2E.name)
    assert hit is not None
    assert (hit.failure.stage, hit.failure.clause) == ("one2many/top-k", "TAL-TOPK-2")


@pytest.mark.slow
def test_built_in_strides_are_found():
    assert attack(implementation_from(EvenStrides, "even-strides"), "heads", task=E2E.name) is not None


@pytest.mark.parametrize("name", ["heads", "trained_logits", "fewer_anchors_than_k"])
def test_batches_have_both_branches(name: str):
    for recipe in sample_recipes(STRATEGIES_BY_TASK[E2E.name][name], 4):
        batch = recipe.build()
        assert batch.task == E2E.name
        assert len(batch.feature_maps) == 2 * len(batch.head.strides)


def test_hazards_that_no_batch_has_are_hazards():
    assert all(names <= set(MEANINGS_BY_TASK[task]) for task, names in IMPOSSIBLE.items())
