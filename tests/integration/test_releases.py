"""Releases in worker processes conform to their era's dialect, and fail in the dialects of neighbouring eras."""

from dataclasses import replace

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.dialects.choices import conforms_to
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_reference import DIALECTS

CROWD = Recipe(
    images=((Truth("ordinary"), Truth("overlapping"), Truth("tiny")), (), (Truth("huge"),)),
    cells=(8, 8),
    strides=(8, 16, 32),
    classes=3,
)
CONTESTED = Recipe(images=((Truth("ordinary"), Truth("ordinary")),), strides=(8, 16))
SMALL = Recipe(images=((Truth("tiny"),),), strides=(8, 16))


@pytest.mark.network
@pytest.mark.parametrize(
    ("version", "neighbour", "shows"),
    [
        ("8.0.51", "ultralytics-8.3.253", CONTESTED),
        ("8.3.253", "ultralytics-8.4.24", SMALL),
        ("8.4.127", "ultralytics-8.3.253", SMALL),
    ],
)
def test_a_release_is_of_its_era(version: str, neighbour: str, shows: Recipe):
    implementation = find(f"ultralytics=={version}")
    assert (implementation.version, implementation.capabilities) == (version, ["assign", "loss", "stages"])
    own = Subject(implementation, "cpu")
    for recipe in (Recipe(), CROWD, CONTESTED, SMALL):
        assert conforms_to(own, recipe), recipe
    assert not conforms_to(Subject(replace(implementation, dialect=DIALECTS[neighbour]), "cpu"), shows)
    implementation.adapter.worker.close()
