"""Traces of an image's assignment have the reference's values, and the text agrees with these values."""

import re
from dataclasses import replace

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.registry import find
from tal_conformance.pictures.picture import picture
from tal_conformance.pictures.trace import MAX_ANCHORS, MAX_PAIRS, ImageTrace, trace_as_dict
from tal_reference import ARTICLE, DIALECTS, NEWEST, Dialect, Hyperparameters
from tal_reports.html.explanations import anchor_lines, truth_lines
from tal_reports.log.schemas import fault
from tal_reports.log.writer import json_types

CROWDED = Recipe(
    images=((Truth("huge"), Truth("ordinary", at=(6, 6)), Truth("nested", 1), Truth("tiny", at=(2, 9))), ()),
    cells=(16, 16),
    strides=(8, 16, 32),
    classes=3,
    predictions="near",
)
PAIR = Recipe(images=((Truth("huge"), Truth("huge", at=(2, 0))),), predictions="near")


@pytest.fixture(scope="module")
def crowded() -> ImageTrace:
    return ImageTrace.of(CROWDED.build(), 0, NEWEST)


def every_anchor(explained: ImageTrace) -> dict:
    return trace_as_dict(explained, None, range(explained.anchors))


@pytest.mark.parametrize("dialect", [d for d in DIALECTS.values() if d.one_level], ids=lambda d: d.name)
@pytest.mark.parametrize("recipe", [CROWDED, replace(CROWDED, reg_max=1), PAIR])
def test_what_anchors_add_to_the_loss_is_the_loss(recipe: Recipe, dialect: Dialect):
    batch = recipe.build()
    sums = torch.zeros(3, dtype=torch.float64)
    for image in range(batch.images):
        facts = every_anchor(ImageTrace.of(batch, image, dialect))
        for anchor in facts["anchors"].values():
            sums += torch.tensor(anchor["loss"], dtype=torch.float64)
    items = torch.tensor([facts["items"][name] for name in ("box", "cls", "dfl")], dtype=torch.float64)
    torch.testing.assert_close(sums, items, rtol=1e-4, atol=1e-5)


def test_ranks_gaps_and_selection_belong_together(crowded: ImageTrace):
    facts = every_anchor(crowded)
    k = facts["k"]
    taken = dict.fromkeys(range(4), 0)
    for anchor in facts["anchors"].values():
        for truth, score, overlap, metric, rank, equal, selected in anchor["pairs"]:
            kth = facts["facts"][truth]["kth"]
            taken[truth] += selected
            assert metric == pytest.approx(score**0.5 * overlap**6, rel=1e-3)
            if rank + equal <= k:
                assert selected
                assert metric >= kth
            if rank > k:
                assert not selected
                assert metric <= kth
    assert taken[0] == taken[1] == k


def test_candidates_are_counted(crowded: ImageTrace):
    facts = every_anchor(crowded)
    counts = [
        sum(pair[0] == truth for a in facts["anchors"].values() for pair in a["pairs"]) for truth in range(4)
    ]
    assert counts == [truth["candidates"] for truth in facts["facts"]]
    assert [truth["widened"] is not None for truth in facts["facts"]] == [False, False, True, True]


def test_the_dialect_decides_who_is_widened():
    facts = every_anchor(ImageTrace.of(CROWDED.build(), 0, ARTICLE))["facts"]
    assert all(truth["widened"] is None for truth in facts)


def test_the_nearest_ground_truth_of_an_anchor_outside_all():
    explained = ImageTrace.of(Recipe(images=((Truth("ordinary"),),)).build(), 0, NEWEST)
    facts = every_anchor(explained)
    truth, pixels = facts["anchors"]["15"]["outside"]
    right, bottom = facts["truths"][0]["box"][2:]
    assert truth == 0
    assert pixels == pytest.approx(max(28 - right, 28 - bottom))


def test_an_image_without_ground_truths():
    explained = ImageTrace.of(CROWDED.build(), 1, NEWEST)
    facts = trace_as_dict(explained, None, [0, 335])
    assert facts["facts"] == []
    assert explained.most_relevant_anchors([]) == []
    assert explained.most_relevant_anchors([7]) == [7]
    assert "The image has no ground truth (TAL-EMPTY-1)." in anchor_lines(facts, 0)


def test_what_is_told_is_bounded_and_begins_with_what_is_marked(crowded: ImageTrace):
    told = crowded.most_relevant_anchors([335, 20])
    assert len(told) == MAX_ANCHORS
    assert {20, 335} <= set(told)
    positives = crowded.loss.targets[0].foreground.nonzero().flatten().tolist()
    assert set(positives) <= set(told)
    many = Recipe(images=((Truth("huge"),) * 9,), predictions="near").build()
    pairs = every_anchor(ImageTrace.of(many, 0, NEWEST))["anchors"]["5"]["pairs"]
    assert len(pairs) == MAX_PAIRS


@pytest.mark.parametrize("recipe", [CROWDED, PAIR, Recipe()])
def test_pictures_follow_the_log_s_schema(recipe: Recipe):
    batch = recipe.build()
    assignment = execute(find("ultralytics"), batch).assignment
    assert fault(json_types(picture(batch, NEWEST, assignment, None)), "log", "picture") is None


def test_numbers_that_are_not_finite_can_be_written():
    batch = PAIR.build()
    batch.feature_maps[0][0, :, 1, 1] = torch.nan
    assert fault(json_types(picture(batch, NEWEST, None, None)), "log", "picture") is None


def test_a_contested_anchor_in_words():
    explained = ImageTrace.of(PAIR.build(), 0, NEWEST)
    trace = explained.trace
    contested = (trace.selected.sum(0) > 1).nonzero().flatten().tolist()
    assert contested
    for anchor in contested:
        words = "\n".join(anchor_lines(trace_as_dict(explained, None, [anchor]), anchor))
        first, second = trace.overlap[:, anchor].tolist()
        winner = int(second > first)
        assert f"GT {winner} overlaps it most" in words
        gap = re.search(r"u [\d.e-]+, ([\d.e-]+) more than", words)
        assert float(gap[1]) == pytest.approx(abs(first - second), rel=1e-3, abs=1e-6)
        assert f"Assigned to GT {winner}" in words


def test_a_ground_truth_in_words(crowded: ImageTrace):
    facts = trace_as_dict(crowded, None, crowded.relevant_anchors_of(1))
    said = truth_lines(facts, 1)
    weights = crowded.loss.targets[0].weights
    owned = (crowded.trace.positives[1]).nonzero().flatten().tolist()
    for anchor in owned:
        (line,) = [line for line in said if f"anchor {anchor} (" in line]
        assert float(re.search(r"weight ([\d.e-]+)", line)[1]) == pytest.approx(
            float(weights[anchor]), rel=1e-4
        )
    assert sum("not selected" in line for line in said) == 3


def test_a_winner_that_does_not_hold_the_anchor():
    """In a dialect before 8.0.52, the text says that the winner's box does not contain the anchor."""
    old = next(dialect for dialect in DIALECTS.values() if dialect.name == "ultralytics-8.0.51")
    beside = (Truth("huge"), Truth("huge", at=(2, 0)), Truth("ordinary", at=(8, 8)))
    for seed in range(200):
        explained = ImageTrace.of(Recipe(images=(beside,), seed=seed).build(), 0, old)
        trace = explained.trace
        outside = (trace.positives & ~trace.candidates).any(0).nonzero().flatten().tolist()
        if outside:
            break
    words = "\n".join(anchor_lines(trace_as_dict(explained, None, outside[:1]), outside[0]))
    winner = int(trace.positives[:, outside[0]].long().argmax())
    assert f"Not a candidate of GT {winner} (class 0): its centre lies outside; overlap u" in words
    assert f"GT {winner} overlaps it most" in words
    assert "although it did not select it" in words
    assert f"Assigned to GT {winner}" in words


def test_topk2_in_words():
    recipe = replace(CROWDED, hyperparameters=Hyperparameters(topk=10, topk2=1))
    explained = ImageTrace.of(recipe.build(), 0, NEWEST)
    dropped = (explained.trace.selected[0] & ~explained.trace.positives.any(0)).nonzero().flatten().tolist()
    assert dropped
    assert "keeps the best topk2 = 1 of its anchors, not this one (TAL-CONF-2)" in "\n".join(
        anchor_lines(trace_as_dict(explained, None, dropped[:1]), dropped[0])
    )
