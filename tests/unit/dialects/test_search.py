"""The search for a dialect ends, changes choices together, and does not start again needlessly."""

from dataclasses import replace
from itertools import count
from typing import Any

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.dialects.moves import joint_moves
from tal_conformance.dialects.observations import Observations
from tal_conformance.dialects.proof import of_a_release
from tal_conformance.dialects.search import Search, base_of, judged_differences
from tal_conformance.mutation.diagnosis import EXACT, FaultyImplementation, computing, measure_search
from tal_conformance.mutation.plant import OUTPUTS_ALONE
from tal_reference import ARTICLE, DIALECTS, NEWEST, parse
from tal_reference.dialect import OverlapsCompared
from tal_reference.variations import Contested, Overlap

RECIPES = [Recipe(images=((Truth("ordinary"),),), strides=(8, 16), seed=seed) for seed in range(3)]


def search_of(**choices: Any) -> Search:
    """Return a search whose subject is the reference with some choices of the newest dialect changed."""
    return Search(Observations(computing(NEWEST.but(**choices), OUTPUTS_ALONE)), RECIPES, seconds=60.0)


def test_a_search_does_not_return_to_a_dialect_that_it_left(monkeypatch: pytest.MonkeyPatch):
    search, misfits = search_of(overlap=Overlap.IOU), count(1000, -1)
    monkeypatch.setattr(
        search, "misfit", lambda *_: float(next(misfits))
    )  # each dialect seems better than the last
    monkeypatch.setattr(search, "moves_from", lambda dialect: [{"edge_counts": not dialect.edge_counts}])
    monkeypatch.setattr(search, "combined", lambda *_: iter(()))
    assert judged_differences(search.explain(NEWEST, RECIPES), NEWEST) == {"edge_counts": True}


def test_choices_without_an_effect_of_their_own_are_changed_together():
    together = {"overlaps_compared": OverlapsCompared.EVERYWHERE, "metric_masked": True}
    assert together in joint_moves(NEWEST)
    assert together | {"contested": Contested.OVERLAP} in joint_moves(NEWEST.but(contested=Contested.METRIC))
    assert together not in joint_moves(DIALECTS["ultralytics-8.0.51"])  # only the second choice is new there
    assert together in search_of().moves_from(NEWEST)


@pytest.mark.parametrize(("overlap", "expected"), [(Overlap.IOU, True), (Overlap.GIOU, False)])
def test_a_dialect_that_explains_nearly_all_ends_the_search(overlap: Overlap, expected: bool):
    assert search_of(overlap=overlap).explains_nearly_all(NEWEST.but(overlap=Overlap.IOU)) is expected


@pytest.mark.parametrize("choice", [{}, {"edge_counts": True}])
def test_a_release_is_named_where_it_equals_the_article(choice: dict[str, Any]):
    search = Search(
        Observations(computing(DIALECTS["ultralytics-8.3.253"].but(**choice), OUTPUTS_ALONE)), RECIPES, 60.0
    )
    found = of_a_release(search, replace(ARTICLE, **choice), RECIPES)
    assert base_of(found).name.startswith("ultralytics-")
    assert found.edge_counts is bool(choice)


@pytest.mark.slow
@pytest.mark.long
def test_a_metric_masked_in_place_of_overlaps_is_named():
    dialect = parse("ultralytics-8.3.253, overlaps_compared=everywhere, metric_masked=yes")
    found = measure_search(FaultyImplementation("masked", computing(dialect, OUTPUTS_ALONE), dialect))
    assert found.result == EXACT, found.sentence
