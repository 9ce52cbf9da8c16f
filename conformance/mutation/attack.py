"""How soon the suite finds a fault, and what it shrinks to: the suite's own tests, run on the faulty reference."""

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from hypothesis import HealthCheck, Phase, given, settings

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.profiles import PROFILES
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.rejection import check_all_reject
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Judgement
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.planted_faults import Fault, FaultyAssigner, FaultyReference

MODULES = {
    "decoding": "decoding",
    "annotations": "annotations",
    "borders": "candidates",
    "small_boxes": "candidates",
    "metric": "metric",
    "topk": "topk",
    "zeros_compete": "topk",
    "fewer_anchors_than_k": "topk",
    "conflict": "conflict",
    "topk2": "conflict",
    "topk2_above_k": "conflict",
    "targets": "targets",
    "no_ground_truth": "targets",
    "loss": "loss",
    "loss_of_large_boxes": "loss",
    "loss_of_small_boxes": "loss",
    "loss_of_points": "loss",
}
"""Module of each test that has its own lane, or needs none."""


ASSIGNED = ("candidates", "overlap", "metric", "top-k", "conflict", "targets", "normalisation")
"""Stages that an assigner has without a loss."""


@dataclass(frozen=True)
class Hit:
    """A fault that was found.

    Attributes:
        lane: name of the test.
        batches: how many it drew until then, the failing one included.
        failure: as far shrunk as was asked for.
    """

    lane: str
    batches: int
    failure: Failure


@dataclass
class Judged:
    """Stands for the suite's `checker`: judges and counts, and records nothing."""

    subject: Subject
    batches: int = 0
    failed: bool = False

    def __call__(
        self,
        recipe: Recipe,
        by: Callable[[Subject, Batch], Judgement] = judge_against_reference,
        relates: bool = False,
    ) -> None:
        """Judge what was drawn.

        Raises:
            Failure: it does not conform.
        """
        self.batches += not self.failed
        try:
            by(self.subject, recipe.build())
        except Failure:
            self.failed = True
            raise

    def must_reject(self, batch: Batch, stage: str, clause: str, because: str) -> None:
        """The implementation must raise.

        Raises:
            Failure: it returned.
        """
        self.batches += not self.failed
        try:
            check_all_reject(self.subject, batch, stage, clause, because)
        except Failure:
            self.failed = True
            raise


def faulty(fault: Fault, exposes_stages: bool = True, assigner_alone: bool = False) -> Implementation:
    """The reference with a fault in it, as an implementation under test.

    Args:
        fault: which one.
        exposes_stages: it shows its stages, not its outputs alone.
        assigner_alone: it has no loss; faults of the assignment are found as well, and sooner.
    """
    whole = FaultyReference(fault, exposes_stages)
    return implementation_from(FaultyAssigner(whole) if assigner_alone else whole, fault.name)


def attack(
    implementation: Implementation, lane: str, phases: Sequence[Phase] = (Phase.generate,)
) -> Hit | None:
    """Run one test, with the batches that the gating profile draws, until it fails.

    Args:
        implementation: whom to test.
        lane: name of the test without `test_`.
        phases: generate alone stops at the first batch that fails; with shrink, at the smallest.
    """
    test: Any = getattr(
        importlib.import_module(f"tal_conformance.suite.test_{MODULES[lane]}"), f"test_{lane}"
    )
    judged = Judged(Subject(implementation, "cpu"))
    try:
        _as_gated(test, lane, phases)(checker=judged)
    except Failure as failure:
        return Hit(lane, judged.batches, failure)
    return None


def _as_gated(test: Any, lane: str, phases: Sequence[Phase]) -> Any:
    """The test with the gating profile's settings; it was made with those of whoever imported it."""
    if lane not in STRATEGIES:
        return test
    return settings(
        max_examples=PROFILES["ci"].examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=(Phase.explicit, *phases),
        report_multiple_bugs=False,
        print_blob=False,
        suppress_health_check=list(HealthCheck),
    )(
        given(recipe=STRATEGIES[lane])(test.hypothesis.inner_test)
    )  # with the explicit examples below its @given
