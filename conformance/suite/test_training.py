"""TRAINING: batches from a short training of a YOLOv8n on photographs, and the weights after a training."""

from dataclasses import replace

import pytest

from tal_conformance.checks.profiles import PROFILES
from tal_conformance.core.ways import UNSUPPORTED
from tal_conformance.implementations.errors import (
    ImplementationFailed,
    NotSupported,
    UnknownImplementation,
)
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.pictures.walkthrough import write_walkthrough
from tal_conformance.suite.checker import Checker, skip_untested
from tal_conformance.suite.session import SessionState
from tal_conformance.training.cache import cached_controls, cached_reference, cached_training
from tal_conformance.training.compare import STEPS, compare_training
from tal_conformance.training.yolov8n import RecordedTraining

GROUP = "TRAINING"


@pytest.fixture(scope="module")
def recorded(run: SessionState) -> RecordedTraining:
    """Return a short YOLOv8n training with its batches, cached after the first run (15 seconds)."""
    try:
        recorded = cached_training()
    except UnknownImplementation as error:
        skip_untested(run.recorder, f"batches recorded from training: {error}")
    write_walkthrough(run.folder, recorded)
    return recorded


@pytest.mark.clauses(GROUP)
def test_recorded_batches(checker: Checker, recorded: RecordedTraining) -> None:
    """The implementation conforms on the batches of several steps of a YOLOv8n training."""
    failures = []
    for batch in recorded.batches:
        try:
            replace(checker, failed=False)(batch)  # a failing batch does not start shrinking
        except Failure as failure:
            failures.append(failure)
    if failures:
        raise ExceptionGroup("recorded batches", failures)


@pytest.mark.clauses(GROUP)
def test_training_leads_to_the_same_weights(
    subject: Subject, run: SessionState, recorded: RecordedTraining, pytestconfig: pytest.Config
) -> None:
    """Training with the implementation's loss gives the weights of the reference's loss, within a bound."""
    implementation, line = subject.implementation, run.recorder.line
    if "loss" not in implementation.capabilities:
        pytest.skip(f"{implementation.name} has no loss")
    if not PROFILES[pytestconfig.getoption("--conformance-profile")].compares_training:
        pytest.skip("trainings are compared in the profiles ci and nightly")
    try:
        place = subject.batch_device
        rms = cached_controls(recorded, place)
        ended = cached_reference(recorded, implementation.dialect, place)
        comparison = compare_training(implementation, recorded, device=place, rms=rms, ended=ended)
    except NotSupported as unsupported:
        skip_untested(
            run.recorder, f"{UNSUPPORTED}the recorded training ({unsupported.reason})", implementation.name
        )
    except ImplementationFailed as error:
        summary = f"the training with the loss of {implementation.name} failed: {error.what}"
        line("training", implementation=implementation.name, steps=STEPS, summary=summary, agrees=False)
        pytest.fail(summary, pytrace=False)
    line(
        "training",
        implementation=implementation.name,
        steps=comparison.steps,
        summary=comparison.summary,
        bound=comparison.bound,
        worst=comparison.worst,
        agrees=comparison.agrees,
    )
    if not comparison.agrees:
        pytest.fail(comparison.summary, pytrace=False)
