"""Planted device faults are found on the simulated device, and the message names the faulty line."""

import pytest
from tests.fauxmplementations.device_faults import FAULTS, Backward, Doubled, planted_line, with_assigner

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.devices.checks import allocates_on_device
from tal_conformance.checks.devices.events import Violation
from tal_conformance.checks.devices.simulate import simulate
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.article import ArticleAssigner
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Recipe(images=((Truth("ordinary"), Truth("ordinary")), (Truth("ordinary"),)), classes=2).build()


def named(violation: Violation) -> set[tuple[str, str, int]]:
    """Return (operation, file, line number) of a violation, and of each call that made one of its CPU tensors."""
    places = [(violation.operation, violation.line), *((o.operation, o.line) for o in violation.origins)]
    return {(operation, line.path.rpartition("/")[2], line.number) for operation, line in places}


def test_the_article_as_it_is_passes(batch: Batch):
    run = simulate(with_assigner(ArticleAssigner), batch)
    assert run.outcome is not None
    assert run.watch.violations == []
    assert allocates_on_device(Subject(with_assigner(ArticleAssigner), "cpu"), batch).verdict is Verdict.EXACT


@pytest.mark.parametrize("assigner", FAULTS)
def test_a_planted_fault_is_found_and_its_line_is_named(assigner: type, batch: Batch):
    run = simulate(with_assigner(assigner), batch, judged=False)
    assert run.watch.violations
    assert (FAULTS[assigner], "device_faults.py", planted_line(assigner)) in named(run.watch.violations[0])
    with pytest.raises(Failure) as caught:
        allocates_on_device(Subject(with_assigner(assigner), "cpu"), batch)
    failure = caught.value
    assert (failure.verdict, failure.stage, failure.clause) == (Verdict.ERROR, "", "DEVICE-1")
    assert f"device_faults.py:{planted_line(assigner)}" in failure.summary
    assert FAULTS[assigner] in failure.summary


def test_a_fault_in_a_backward_is_found(batch: Batch):
    run = simulate(implementation_from(Backward, "backward"), batch, judged=False)
    assert run.failure is not None
    assert "aten.full" in str(run.watch.violations[0])
    assert f"device_faults.py:{planted_line(Doubled)}" in str(run.watch.violations[0])
