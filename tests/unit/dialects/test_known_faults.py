"""An implementation with a planted fault is named by it; other implementations are not."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import pytest
import torch
from tests.fauxmplementations.dense_port import DensePort, HeavierDfl

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.dialects.identification import explain, identified_by_fault
from tal_conformance.dialects.known_faults import distance_to, explaining_fault
from tal_conformance.dialects.observations import Observation, Observations
from tal_conformance.dialects.search import Search
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.mutation.plant import HIDDEN, OUTPUTS_ALONE, implementation_with
from tal_conformance.mutation.planted_faults import FAULTS
from tal_reference import NEWEST, Head

DRAWN = [
    recipe
    for name in ("metric", "loss", "topk", "topk2", "small_boxes")
    for recipe in sample_recipes(STRATEGIES[name], 5)
]


def split(implementation: Implementation) -> tuple[Observations, list[Recipe], list[Recipe]]:
    """Return the outcomes of an implementation, and its failing and conforming recipes."""
    observations = Observations(implementation)
    failing = [recipe for recipe in DRAWN if not observations.conforms(recipe, NEWEST)]
    return observations, failing, [recipe for recipe in DRAWN if recipe not in failing]


def fault_of(implementation: Implementation, faults: Iterable[Any] = tuple(FAULTS.values())) -> str | None:
    """Return the name of the fault that explains an implementation on the batches `DRAWN`."""
    observations, failing, _ = split(implementation)
    found = explaining_fault(Search(observations, DRAWN, 60), NEWEST, failing, (), faults)
    return None if found is None else found.fault.name


@pytest.mark.parametrize(
    ("name", "mode"),
    [
        ("bins_from_one", OUTPUTS_ALONE),
        pytest.param("bins_from_one", HIDDEN, marks=[pytest.mark.slow, pytest.mark.long]),
        ("threshold_for_top_k", OUTPUTS_ALONE),
        ("nine_for_ten", OUTPUTS_ALONE),
        ("padding_leaks", OUTPUTS_ALONE),
        ("truths_in_reverse", OUTPUTS_ALONE),
        ("alpha_differentiated", OUTPUTS_ALONE),
    ],
)
def test_a_planted_fault_is_found(name: str, mode: str):
    assert fault_of(implementation_with(FAULTS[name], mode)) == name


class ClassesFirst(DensePort):
    """A second implementation with the fault that class logits are read before the distances."""

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Any:
        maps = [
            torch.cat((level[:, head.classes :], level[:, : head.classes]), dim=1) for level in feature_maps
        ]
        return super().loss(tuple(maps), annotations, head, hyperparameters)


@pytest.mark.slow
def test_a_second_implementation_with_the_same_fault_is_named():
    port = implementation_from(ClassesFirst(NEWEST, "nothing"), "port")
    assert fault_of(port) == "classes_before_distances"


def test_a_fault_that_is_not_in_the_catalogue_is_not_given_another_name():
    assert fault_of(implementation_from(HeavierDfl(NEWEST), "faulty")) is None


def test_a_fault_is_refuted_by_a_batch_on_which_it_has_no_effect():
    """Of a fault that matches the failing batches, but changes batches on which the implementation conforms."""
    implementation = implementation_with(FAULTS["nine_for_ten"], OUTPUTS_ALONE)
    observations, failing, _ = split(implementation)
    small = [recipe for recipe in failing if recipe.hyperparameters.topk > 1][:2]
    others = [recipe for recipe in DRAWN if recipe in small]
    wrong = FAULTS["bins_from_one"], FAULTS["eleven_for_ten"]
    assert explaining_fault(Search(observations, others, 60), NEWEST, small, DRAWN, wrong) is None
    found = explaining_fault(Search(observations, others, 60), NEWEST, small, DRAWN, FAULTS.values())
    assert found is not None
    assert found.fault.name == "nine_for_ten"
    assert found.explained > len(small)


class LargerOnOneBatch(ClassesFirst):
    """A port with a planted fault, whose items are twice as large on one batch."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__(NEWEST, "nothing")
        self._rows = recipe.build().annotations

    def loss(self, feature_maps: Any, annotations: Any, head: Head, hyperparameters: Any) -> Any:
        loss = super().loss(feature_maps, annotations, head, hyperparameters)
        return replace(loss, items=2 * loss.items) if torch.equal(annotations, self._rows) else loss


@pytest.mark.slow
def test_batches_that_differ_or_cannot_be_compared_are_not_counted_as_explained():
    recipes = list(dict.fromkeys(DRAWN))
    other = max(recipes, key=lambda recipe: len(repr(recipe)))
    port = implementation_from(LargerOnOneBatch(other), "port")
    observations = Observations(port)
    failing = [recipe for recipe in recipes if recipe is not other][:3]
    search, faults = Search(observations, recipes, 60), [FAULTS["classes_before_distances"]]
    assert (
        explaining_fault(search, NEWEST, failing, (), faults) is None
    )  # refuted by one admissible assignment
    observations.ambiguous.add(other)
    exponents = replace(other.hyperparameters, alpha=2.0)  # tests the assigner without the loss
    evidence = explaining_fault(search, NEWEST, failing, [replace(other, hyperparameters=exponents)], faults)
    assert evidence is not None
    assert (evidence.explained, evidence.undecided, evidence.incomparable) == (len(recipes) - 1, 1, 1)
    found = identified_by_fault(observations, evidence)
    assert not found.explained
    assert found.sentence.endswith(
        f"That explains {len(recipes) - 1} of {len(recipes) + 1} batches; 1 differs where several assignments are "
        "admissible, 1 was not judged because no results could be compared."
    )


def test_an_error_of_the_comparison_is_not_taken_for_one_of_the_faulty_reference(
    monkeypatch: pytest.MonkeyPatch,
):
    def failing(*_: Any) -> float:
        raise TypeError("an error of the comparison")

    observations = Observations(find("reference"))
    observation, fault = observations.observed(DRAWN[0], NEWEST), FAULTS["nine_for_ten"]
    monkeypatch.setattr("tal_conformance.dialects.resemblance.relative", failing)
    with pytest.raises(TypeError, match="an error of the comparison"):
        distance_to(observations.batch(DRAWN[0]), observation, NEWEST, fault)


@pytest.mark.slow
@pytest.mark.parametrize("visible", ["assignment", "loss"])
def test_results_of_every_planted_fault_can_be_compared(visible: str):
    """A faulty reference that returns results of other shapes is compared too, without an exception."""
    observations = Observations(find("reference"))
    for fault in FAULTS.values():
        for recipe in DRAWN[::9]:
            observation = observations.observed(recipe, NEWEST)
            assert observation.outcome is not None
            part = replace(observation.outcome, **{visible: None})
            distance = distance_to(observations.batch(recipe), Observation(part), NEWEST, fault)
            assert 0 <= distance <= 1


@pytest.mark.slow
def test_the_sentence_names_the_fault_and_a_single_choice_comes_first():
    for name, words in {
        "label_of_the_first": 'the fault "label of the first"',
        "iou_for_ciou": "plain IoU in place of CIoU in the assignment",
    }.items():
        observations, failing, passing = split(implementation_with(FAULTS[name], OUTPUTS_ALONE))
        strategies = [STRATEGIES["metric"]]
        found = explain(observations, failing, passing, 60, strategies=strategies, faults=FAULTS.values())
        assert found.explained
        assert found.sentence.startswith(f"It computes ultralytics-8.4.190 with {words}. That explains ")
        assert (found.fault is None) == (name == "iou_for_ciou")
