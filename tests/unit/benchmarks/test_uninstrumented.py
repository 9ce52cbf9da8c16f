"""Uninstrumented adapters, which are timed, compute the same results as the adapters that are judged."""

from typing import Any

import pytest
import torch

from tal_conformance.benchmarks.uninstrumented import uninstrumented, unpadded
from tal_conformance.benchmarks.workloads import Case
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.registry import find
from tal_reference import ARTICLE, DIALECTS, OverlapsCompared


@pytest.fixture(scope="module", params=[0, 15], ids=["", "padded"])
def batch(request: pytest.FixtureRequest) -> Batch:
    return Case(2, 96, 6, classes=3, crowd=request.param).build()


def differentiated(adapter: Any, batch: Batch) -> tuple[Loss, tuple[torch.Tensor, ...]]:
    maps = tuple(level.clone().requires_grad_() for level in batch.feature_maps)
    loss: Loss = adapter.loss(maps, batch.annotations, batch.head, batch.hyperparameters)
    return loss, torch.autograd.grad(loss.total.sum(), maps)


@pytest.mark.parametrize("name", ["reference", "ultralytics", "article"])
def test_the_same_to_the_last_bit(batch: Batch, name: str):
    adapter = find(name).adapter
    assert uninstrumented(adapter) is not adapter
    judged, timed = (one.assign(assigner_inputs(batch)) for one in (adapter, uninstrumented(adapter)))
    for field in ("labels", "boxes", "scores", "foreground", "truth_index"):
        assert torch.equal(getattr(judged, field), getattr(timed, field)), field
    assert judged.stages is not None
    assert timed.stages is None
    (judged_loss, judged_gradients), (timed_loss, timed_gradients) = (
        differentiated(one, batch) for one in (adapter, uninstrumented(adapter))
    )
    assert torch.equal(judged_loss.items, timed_loss.items)
    assert all(map(torch.equal, judged_gradients, timed_gradients))
    assert timed_loss.inputs is None or name == "article", "expected no recorded inputs"


@pytest.mark.parametrize("task", ["obb", "e2e", "pose", "segment"])
def test_the_reference_computes_the_same_loss_of_every_task(task: str):
    batch = Case(2, 96, 3, classes=3, task=task).build()
    judged, timed = (
        differentiated(one, batch) for one in (ReferenceAdapter(), uninstrumented(ReferenceAdapter()))
    )
    assert torch.equal(judged[0].items, timed[0].items)
    assert all(map(torch.equal, judged[1], timed[1]))
    assert judged[0].assignment is not None or judged[0].branches
    assert timed[0].assignment is timed[0].branches is None


def test_the_reference_assigns_rotated_boxes_the_same():
    inputs = assigner_inputs(Case(2, 96, 3, classes=3, task="obb").build())
    judged, timed = (one.assign(inputs) for one in (ReferenceAdapter(), uninstrumented(ReferenceAdapter())))
    for field in ("labels", "boxes", "scores", "foreground", "truth_index"):
        assert torch.equal(getattr(judged, field), getattr(timed, field)), field


def test_the_reference_is_not_timed_on_padding():
    inputs = assigner_inputs(Case(3, 96, 2, classes=3, crowd=5).build())
    assert [len(image) for image in unpadded(inputs)] == [5, 2, 2]
    inputs.truth_boxes[1] = 0  # no ground truth at all
    inputs.truth_boxes[2, 0] = 0  # not padding: another ground truth follows
    assert [len(image) for image in unpadded(inputs)] == [5, 0, 2]
    assert torch.equal(unpadded(inputs)[2].boxes, inputs.truth_boxes[2, :2])


def test_without_padding_the_reference_assigns_the_same_where_overlaps_are_compared_everywhere():
    dialect = DIALECTS["ultralytics-8.0.51"]
    assert dialect.overlaps_compared is OverlapsCompared.EVERYWHERE
    inputs = assigner_inputs(Case(3, 96, 2, classes=3, crowd=9).build())
    inputs.truth_boxes[0, -1] = 0
    adapter = ReferenceAdapter(dialect)
    judged, timed = (one.assign(inputs) for one in (adapter, uninstrumented(adapter)))
    for field in ("labels", "boxes", "foreground", "truth_index"):
        assert torch.equal(getattr(judged, field), getattr(timed, field)), field
    torch.testing.assert_close(judged.scores, timed.scores)


def test_the_official_assigner_is_the_releases_own(batch: Batch):
    assigner = uninstrumented(find("ultralytics").adapter)._new_assigner(batch.head, batch.hyperparameters)
    assert type(assigner).__module__ == "ultralytics.utils.tal"


def test_the_dialect_stays():
    assert uninstrumented(ReferenceAdapter(ARTICLE)).dialect is ARTICLE


class Own:
    """A user's adapter, which is not instrumented."""

    name = "own"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        raise NotImplementedError


class OwnWithUninstrumented(Own):
    def uninstrumented(self) -> Own:
        return Own()


class OwnWithBare(Own):
    def bare(self) -> Own:
        return Own()


def test_the_old_name_of_the_method_is_accepted_with_a_warning():
    with pytest.warns(DeprecationWarning, match="rename the method to `uninstrumented`"):
        assert type(uninstrumented(OwnWithBare())) is Own


def test_somebody_elses_adapter_is_timed_as_it_is_unless_it_says_otherwise():
    own = Own()
    assert uninstrumented(own) is own
    assert type(uninstrumented(OwnWithUninstrumented())) is Own


class Derived(ReferenceAdapter):
    """An adapter whose results differ from the results of its parent class."""


def test_an_adapter_derived_from_ours_is_not_replaced():
    derived = Derived()
    assert uninstrumented(derived) is derived
