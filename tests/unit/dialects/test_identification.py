"""Identification finds the smallest set of choices that explains an implementation, and unexplained differences."""

from dataclasses import replace
from typing import Any

import pytest
from tests.fauxmplementations.dense_port import DensePort, HeavierDfl

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.dialects.identification import explain, identify, size_of, sorted_recipes
from tal_conformance.dialects.observations import MAX_UNDECIDED, UNDECIDED, UNDECIDED_OF, Observations
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_reference import DIALECTS, NEWEST, Dialect, differences, parse


@pytest.fixture(autouse=True)
def _few_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tal_conformance.dialects.identification.BATCHES_PER_STRATEGY", 3)


def reference_in(text: str) -> Implementation:
    return implementation_from(ReferenceAdapter(parse(text)), "reference")


def port(**choices: Any) -> Implementation:
    return implementation_from(DensePort(NEWEST, "all", **choices), "port")


def test_an_official_dialect_is_named_alone():
    found = identify(reference_in("ultralytics-8.4.127"))
    assert found.explained
    assert found.choices == []
    assert found.sentence == (
        f"It computes ultralytics-8.4.127. That explains {found.batches} of {found.batches} batches; "
        "nothing is left."
    )


@pytest.mark.slow
@pytest.mark.long
def test_two_choices_are_named_with_their_evidence():
    """For an implementation with plain IoU and an unscaled total, both choices are named, with a smallest batch."""
    found = identify(port(overlap="iou", total_times_images=False))
    assert found.explained
    assert differences(found.dialect, NEWEST) == differences(
        parse("ultralytics-8.4.190, overlap=iou, total_times_images=no"), NEWEST
    )
    assert found.sentence.startswith(
        "It computes ultralytics-8.4.190 with plain IoU in place of CIoU in the assignment, and a total without "
        "the number of images as factor. That explains "
    )
    assert [choice.clause for choice in found.choices] == ["TAL-MET-1", "LOSS-GAIN-1"]
    assert all(choice.smallest is not None for choice in found.choices)
    assert 0 < found.choices[0].alone < found.unexplained_by_base[0]


@pytest.mark.slow
def test_what_nothing_explains_is_left():
    """A fault of DFL that no choice describes is reported as unexplained, with clause and a failure."""
    found = identify(implementation_from(HeavierDfl(NEWEST), "faulty"), [NEWEST], seconds=8)
    assert not found.explained
    assert "LOSS-DFL-1" in found.left
    count, failure = found.left["LOSS-DFL-1"]
    assert 0 < count < found.batches
    assert failure.stage == "dfl"
    assert "It computes" not in found.sentence
    assert "are left" in found.sentence or "budget of seconds" in found.sentence


class PlainIouOfOneImage(DensePort):
    """A port that replaces CIoU by IoU, but only in batches of one image, which no choice describes."""

    def assign(self, inputs: AssignerInputs) -> Assignment:
        self.choices = {"overlap": "iou"} if len(inputs.scores) == 1 else {}
        return super().assign(inputs)


@pytest.mark.slow
@pytest.mark.long
def test_new_batches_of_the_failing_test_refute_what_the_batches_of_a_run_do_not():
    observations = Observations(implementation_from(PlainIouOfOneImage(NEWEST), "faulty"))
    recipes = [r for r in sample_recipes(STRATEGIES["metric"], 60) if len(r.images) == 1][:12]
    failing = [recipe for recipe in recipes if not observations.conforms(recipe, NEWEST)]
    iou = parse("ultralytics-8.4.190, overlap=iou")
    assert failing
    assert all(observations.conforms(recipe, iou) for recipe in recipes)
    passing = [recipe for recipe in recipes if recipe not in failing]
    found = explain(observations, failing, passing, seconds=20, strategies=[STRATEGIES["metric"]])
    assert not found.explained
    assert "It computes" not in found.sentence


class AssignerAlone:
    """The assigner of the reference in a dialect, without its loss; the adapter declares the newest release."""

    name, version, dialect = "alone", "1", NEWEST

    def __init__(self, computed: Dialect) -> None:
        self.assign = ReferenceAdapter(computed).assign


class NoPositives:
    """An assigner that finds no positive in any batch."""

    name, version, dialect = "background", "1", NEWEST

    def assign(self, inputs: AssignerInputs) -> Assignment:
        found = ReferenceAdapter(NEWEST).assign(inputs)
        return replace(found, stages=None, foreground=found.foreground & False, scores=0 * found.scores)


def test_a_dialect_that_leaves_no_positive_is_not_evidenced_by_an_assigner_without_positives():
    """An assigner without positives conforms on a ground truth without positives, which is not evidence.

    With two bins, no box reaches the sides of a huge ground truth, which has no positive for this reason.
    """
    near = parse("ultralytics-8.4.190, reach_limits")
    huge = Truth("huge", at=(11, 0), size=(11, 8))
    far, mixed = (
        Recipe(images=(truths,), cells=(8, 8), strides=(8, 16), reg_max=2, predictions="near")
        for truths in ((huge,), (huge, Truth("small")))
    )
    for adapter, expected in ((NoPositives(), (False, False)), (AssignerAlone(near), (False, True))):
        observations = Observations(implementation_from(adapter, "alone"))
        assert observations.conforms(far, near)
        assert not observations.conforms(far, NEWEST)
        assert tuple(observations.is_evidence(recipe, near) for recipe in (far, mixed)) == expected


@pytest.mark.parametrize(
    "choice",
    ["exponents=exchanged", "overlap=iou", "edge_counts", "norm_clamped", "contested=metric"],
)  # fmt: skip
def test_the_failures_of_an_assigner_alone_are_explained_by_what_an_assigner_computes(choice: str):
    """A separate assigner's failures are not explained by a choice about annotation rows, which it does not read."""
    computed = parse(f"{NEWEST.name}, {choice}")
    observations = Observations(implementation_from(AssignerAlone(computed), "alone"))
    drawn = [
        recipe
        for name in ("metric", "conflict", "borders")
        for recipe in sample_recipes(STRATEGIES[name], 12)
    ]
    failing = [recipe for recipe in drawn if not observations.conforms(recipe, NEWEST)]
    found = explain(observations, failing, [recipe for recipe in drawn if recipe not in failing], seconds=60)
    assert found.explained
    assert list(differences(found.dialect, NEWEST)) == list(differences(computed, NEWEST))


def test_small_batches_come_first():
    sizes = [size_of(recipe) for recipe, _ in sorted_recipes(reference_in(NEWEST.name), 3)]
    assert sizes == sorted(sizes)


def test_an_implementation_runs_once_for_all_dialects():
    calls = []

    class Counting(ReferenceAdapter):
        def loss(self, *arguments: Any) -> Any:
            calls.append("loss")
            return super().loss(*arguments)

    observations = Observations(implementation_from(Counting(), "counting"))
    recipe, _ = next(pair for pair in sorted_recipes(observations.implementation, 3) if any(pair[0].images))
    found = [bool(observations.diverging(recipe, dialect)) for dialect in DIALECTS.values()]
    assert not found[0]
    assert calls == ["loss"]
    observations.diverging(recipe, parse("ultralytics-8.4.190, rows=pixels"))
    assert calls == ["loss"] * 2  # a dialect with other ground truths


def test_a_dialect_that_leaves_batches_undecided_does_not_explain_them():
    """A dialect in which results are undecided on more batches than `MAX_UNDECIDED` and a tenth is not an explanation.

    Here negative overlaps to the power 0.5 are NaN, so that the judge cannot decide.
    """
    faulty = FaultyReference(FAULTS["columns_before_rows"], exposes_stages=False)
    observations = Observations(implementation_from(faulty, "faulty"))
    undecidable = parse("ultralytics-8.4.190, signed_overlap=yes, exponents=exchanged")
    failing = [
        recipe
        for recipe in sample_recipes(STRATEGIES["metric"], 30)
        if not observations.conforms(recipe, NEWEST)
    ]
    stages = [observations.diverging(recipe, undecidable) for recipe in failing]
    assert sum(not names for names in stages) <= MAX_UNDECIDED + len(failing) // UNDECIDED_OF
    assert stages.count(frozenset({UNDECIDED})) >= 3
