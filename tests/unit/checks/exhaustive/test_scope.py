"""Each scope (set of images for the exhaustive check) is complete, without duplicates, and as large as documented."""

import re
from dataclasses import replace
from itertools import product
from pathlib import Path

import pytest
import torch

from tal_conformance.checks.exhaustive.scope import CELLS, PROFILES, SCOPES, SMALL, Guess, Scope
from tal_conformance.core.geometry import anchors as anchors_of
from tal_conformance.core.geometry import boxes_around, decode, flatten, pixel_boxes
from tal_conformance.judgement.rounding.bounds import converts_exactly

ENUMERATED = 15_000
SMALL_SCOPES = [scope for scope in SCOPES.values() if len(scope) <= ENUMERATED]
by_name = pytest.mark.parametrize("scope", SCOPES.values(), ids=lambda scope: scope.name)
small_by_name = pytest.mark.parametrize("scope", SMALL_SCOPES, ids=lambda scope: scope.name)


def enumerated(scope: Scope) -> set[tuple[object, ...]]:
    """Return a scope's images, enumerated by nested loops, as a set of (ground truths, prediction of each anchor)."""
    height, width = scope.size
    low, step = -scope.margin, scope.lattice
    boxes = [
        (float(x1), float(y1), float(x2), float(y2))
        for x1 in range(low, width + scope.margin + 1, step)
        for y1 in range(low, height + scope.margin + 1, step)
        for x2 in range(x1 + step, width + scope.margin + 1, step)
        for y2 in range(y1 + step, height + scope.margin + 1, step)
    ]
    truths = [(label, *box) for label in range(scope.head.classes) for box in boxes]
    scenes: list[tuple[object, ...]] = [(), *((one,) for one in truths)]
    if scope.truths == 2:
        scenes += [(one, other) for one in truths for other in truths]
    anchors = sum(rows * columns for rows, columns in scope.grids)
    return {(scene, said) for scene in scenes for said in product(range(len(scope.guesses)), repeat=anchors)}


def content(scope: Scope) -> list[tuple[object, ...]]:
    """Return (ground truths, index of each anchor's prediction) of every image that a scope builds."""
    batch = scope.batch(torch.arange(len(scope)))
    _, logits = flatten(batch.feature_maps, batch.head)
    guesses = [torch.tensor(guess.logits) for guess in scope.guesses]
    said = torch.stack([(logits == one).all(-1) for one in guesses]).int().argmax(0)  # (B, A)
    scenes: list[list[tuple[float, ...]]] = [[] for _ in range(batch.images)]
    boxes = pixel_boxes(batch.annotations, batch.size).tolist()
    for (image, label), box in zip(batch.annotations[:, :2].tolist(), boxes, strict=True):
        scenes[int(image)].append((int(label), *box))
    return [(tuple(scene), tuple(row)) for scene, row in zip(scenes, said.tolist(), strict=True)]


@small_by_name
def test_the_images_are_those_of_nested_loops_each_once(scope: Scope):
    found = content(scope)
    assert len(found) == len(scope)
    assert set(found) == enumerated(scope)
    assert len(set(found)) == len(found)


@by_name
def test_numbers_that_are_out_of_range_do_not_occur(scope: Scope):
    last = scope.images(torch.tensor([len(scope) - 1]))
    assert int(last.guesses.min()) == len(scope.guesses) - 1
    assert int(last.boxes.max()) == len(scope.boxes) - 1


@by_name
def test_guesses_are_told_apart_and_decode_to_what_they_say(scope: Scope):
    assert len({guess.logits for guess in scope.guesses}) == len(scope.guesses)
    whole = len(scope.guesses) ** scope.anchors
    numbers = torch.arange(whole)[:64] * scope.scenes
    batch, guesses = scope.batch(numbers), scope.images(numbers).guesses
    distances, _ = flatten(batch.feature_maps, batch.head)
    centres, strides = anchors_of(batch.grids, scope.strides)
    sides = torch.tensor([guess.sides for guess in scope.guesses]).clamp(max=scope.reg_max - 1)
    expected = boxes_around(centres, sides[guesses] * strides[:, None])
    assert torch.allclose(decode(distances, centres, strides), expected, atol=1e-5)


@by_name
def test_no_ground_truth_is_rounded(scope: Scope):
    """In every scope, normalised boxes times the input size are exact in float32."""
    batch = scope.batch(torch.arange(1, min(len(scope), 2000)))
    assert converts_exactly(batch.annotations[:, 2:], batch.size).all()


@by_name
def test_an_image_is_that_of_the_pack(scope: Scope):
    number = len(scope) * 2 // 3
    alone, pack = scope.image(number), scope.batch(torch.tensor([number - 1, number]))
    for one, other in zip(alone.feature_maps, pack.feature_maps, strict=True):
        assert torch.equal(one[0], other[1])
    rows = pack.annotations[pack.annotations[:, 0] == 1]
    assert torch.equal(alone.annotations[:, 1:], rows[:, 1:])


def test_an_image_says_how_to_make_it_again():
    scope = SCOPES["pairs on cells, k 2"]
    alone, pack = scope.image(1234), scope.batch(torch.tensor([3, 5]))
    names = {"SCOPES": SCOPES, "tensor": torch.tensor}
    assert eval(alone.origin, names).id == alone.id  # evaluates a line that the suite wrote
    assert eval(pack.origin, names).id == pack.id
    assert alone.hazards


def test_a_scope_counts_its_images():
    """0 to 2 ground truths of 9 boxes and 2 classes: 1 + 18 + 18^2 scenes, times 2^4 (2 predictions, 4 anchors)."""
    scope = SCOPES["pairs on cells, k 2"]
    assert (scope.labelled, scope.scenes, scope.anchors) == (18, 343, 4)
    assert len(scope) == 343 * 2**4
    assert len(replace(scope, truths=1)) == 19 * 2**4
    assert len(replace(scope, guesses=(SMALL,))) == 343
    assert len(replace(scope, margin=CELLS)) == (1 + 200 + 200**2) * 2**4
    assert f"{len(scope):,} images" in scope.describe()


def test_another_guess_makes_another_image():
    scope = SCOPES["pairs on cells, k 2"]
    other = replace(scope, guesses=(Guess((0.5, 0.5, 0.5, 1.0), (2.0, 0.0)), *scope.guesses[1:]))
    assert scope.image(7).id != other.image(7).id


def test_the_profiles_judge_as_many_images_as_the_documentation_says():
    counts = {name: sum(map(len, scopes)) for name, scopes in PROFILES.items()}
    assert counts["dev"] < 10_000
    assert counts["ci"] >= 20_000
    assert counts["nightly"] >= 1_000_000
    page = (Path(__file__).parents[4] / "docs" / "command-line.md").read_text(encoding="utf-8")
    for name, count in counts.items():
        assert re.search(rf"\b{count:,}\s+(images )?in\s+`{name}`", page), f"{count:,} in `{name}`"


def test_names_are_of_one_scope_each():
    for scopes in PROFILES.values():
        assert len({scope.name for scope in scopes}) == len(scopes)
        assert all(SCOPES[scope.name] == scope for scope in scopes)
