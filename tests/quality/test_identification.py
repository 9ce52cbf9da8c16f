"""Identification of dialects finds planted deviations: one choice, two choices, and some from real reports.

If no batch distinguishes two sets of choices, identification may name either set. Cases 13 to 16 are
the deviations from real reports.
"""

import random
from typing import Any

import pytest
from tests.fauxmplementations.dense_port import DensePort
from tests.unit.dialects.test_composed import SINGLE

from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.dialects.identification import identify
from tal_conformance.dialects.identified import Identification
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_conformance.mutation.planted_faults.as_choices import FAULTS_AS_CHOICES
from tal_reference import DIALECTS, NEWEST, Dialect

PAIRS = 20


@pytest.mark.long
@pytest.mark.parametrize("name", FAULTS_AS_CHOICES)
def test_a_planted_fault_is_named(name: str):
    adapter: Any = FaultyReference(FAULTS[name], exposes_stages=False)
    found = identify(implementation_from(adapter, name))
    assert found.explained, found.sentence
    assert len(found.choices) == 1
    assert found.dialect.name.endswith(FAULTS_AS_CHOICES[name]) or found.ties, found.sentence


def pairs() -> list[Dialect]:
    """Return 20 dialects that differ from a release in two random choices, the same in every run."""
    chance, drawn = random.Random(18), []
    while len(drawn) < PAIRS:
        (first, one), (second, two) = chance.sample(SINGLE, 2)
        base = (
            DIALECTS["ultralytics-8.0.51"] if {first, second} & {"metric_masked", "at_least_one"} else NEWEST
        )
        if first != second and {first, second} != {"topk2", "topk2_ignored"}:
            drawn.append(base.but(**{first: one, second: two}))
    return drawn


@pytest.mark.long
@pytest.mark.parametrize("dialect", pairs(), ids=lambda dialect: dialect.name)
def test_a_pair_is_explained(dialect: Dialect):
    found = identify(implementation_from(ReferenceAdapter(dialect), "pair"))
    assert found.explained, found.sentence
    assert len(found.choices) <= 2


class AssignerAlone:
    """The assigner of a `DensePort` with changed choices, without a loss."""

    def __init__(self, **choices: Any) -> None:
        self.name, self.version, self.port = "assigner", "1", DensePort(NEWEST, **choices)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Return the port's assignment."""
        return self.port.assign(inputs)


def identified(**choices: Any) -> Identification:
    implementation: Implementation = implementation_from(AssignerAlone(**choices), "assigner")
    found = identify(implementation)
    assert found.explained, found.sentence
    return found


@pytest.mark.slow
@pytest.mark.long
def test_picks_with_a_metric_of_about_zero_are_dropped():
    """Case 13: an assigner that drops selected anchors with a metric near 0 is identified by this choice."""
    assert [choice.clause for choice in identified(dropped_picks="tiny").choices] == ["TAL-TOPK-1"]


@pytest.mark.slow
@pytest.mark.long
def test_an_edge_counts_in_a_dialect_without_widening():
    """Case 14: an assigner without widening that counts edges is identified as 8.3.253 with edges counted."""
    found = identified(edge_counts=True, small_box_floor="none", topk2=False)
    assert "ultralytics-8.3.253 with anchors on an edge counted." in found.sentence


@pytest.mark.slow
@pytest.mark.long
def test_plain_iou_without_topk2():
    """Case 15: an assigner with IoU that rejects topk2 is identified by exactly these two choices."""
    found = identified(overlap="iou", topk2=False)
    assert "plain IoU in place of CIoU in the assignment" in found.sentence
    assert {choice.name for choice in found.choices} == {"overlap", "topk2"}


@pytest.mark.long
def test_an_old_assigner_that_ignores_topk2():
    """Case 16: an assigner that does not widen boxes and ignores topk2 is identified as release 8.3.253."""
    found = identified(small_box_floor="none", topk2_ignored=True)
    assert found.sentence.startswith("It computes ultralytics-8.3.253 with topk2 ignored.")
