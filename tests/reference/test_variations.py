"""Composed dialects: their notation is parsed, and default choices compute what the releases compute."""

import re
from dataclasses import fields, replace
from enum import Enum
from typing import Any

import pytest
import torch
from torch.testing import assert_close

from tal_reference import (
    CHOICES,
    DIALECTS,
    NEWEST,
    BuiltInK,
    Dialect,
    DroppedPicks,
    Exponents,
    Head,
    Hyperparameters,
    Overlap,
    assignment,
    differences,
    ground_truths,
    loss,
    parse,
    spelling,
    varied_assignment,
    varied_loss,
)
from tal_reference.choices import meaning, phrase

HEAD = Head((8, 16), 3, 4)


ROUNDINGS = 16 * torch.finfo(torch.float32).eps
"""Roundings of a weight: a square root, a sixth power, the CIoU of a box near its ground truth, and two quotients."""


def batch(seed: int) -> tuple[list[torch.Tensor], torch.Tensor]:
    random = torch.Generator().manual_seed(seed)
    maps = [torch.randn(2, HEAD.channels, n, n, generator=random) for n in (8, 4)]
    places = torch.rand(6, 4, generator=random) * 0.5 + 0.1
    images, labels = torch.tensor([0, 0, 0, 0, 1, 1.0]), torch.randint(3, (6,), generator=random).float()
    return maps, torch.cat((images[:, None], labels[:, None], places), 1)


@pytest.mark.parametrize(
    "name", ["ultralytics-8.4.190", "ultralytics-8.0.51", "ultralytics-8.0.100", "article"]
)
@pytest.mark.parametrize("seed", range(4))
def test_the_defaults_are_the_official_steps(name: str, seed: int):
    """Integers and boxes are equal; weights and items may differ by the rounding of vectorised and scalar code."""
    dialect, (maps, annotations), numbers = DIALECTS[name], batch(seed), Hyperparameters(topk=4)
    found = loss.detection_loss(maps, annotations, HEAD, numbers, dialect)
    predictions = found.predictions
    truths = varied_assignment.ground_truths(annotations, 2, predictions.size, dialect)
    for image, expected in enumerate(found.targets):
        official = ground_truths(annotations, 2, predictions.size)[image]
        assert torch.equal(truths[image].boxes, official.boxes)
        scores, boxes = predictions.logits[image].sigmoid(), predictions.pixels[image]
        varied = varied_assignment.assign(
            scores, boxes, predictions.anchors.pixels, official, HEAD.strides, numbers, dialect
        )
        for field in ("foreground", "truth_index", "labels", "boxes"):
            assert torch.equal(getattr(varied, field), getattr(expected, field)), field
        assert_close(varied.weights, expected.weights, rtol=ROUNDINGS, atol=0)
    items = varied_loss.loss_items(predictions, loss.positives_of(found.targets), HEAD, numbers, dialect)
    assert_close(items, found.items, rtol=ROUNDINGS, atol=0)
    assert not dialect.is_varied


def values_of(name: str) -> list[Any]:
    default = {field.name: field.default for field in fields(Dialect)}[name]
    if isinstance(default, bool):
        return [True, False]
    if isinstance(default, int):
        return [default, -1, 1]
    return list(type(default)) if isinstance(default, Enum) else [default, default / 2]


@pytest.mark.parametrize("name", CHOICES)
def test_every_value_can_be_spelt_and_has_words(name: str):
    for value in values_of(name):
        dialect = parse(NEWEST.but(**{name: value}).name)
        assert getattr(dialect, name) == value
        assert getattr(parse(spelling(dialect)), name) == value
        assert meaning(name, value)
        assert phrase(name, value)


def test_a_name_spells_the_choices():
    dialect = NEWEST.but(overlap=Overlap.IOU, edge_counts=True)
    assert dialect.name == "ultralytics-8.4.190, overlap=iou, edge_counts=yes"
    assert parse("ultralytics-8.4.190, Overlap=IoU, edge-counts").but(edge_counts=True).overlap is Overlap.IOU
    assert spelling(dialect) == "ultralytics-8.4.190, edge_counts=yes, overlap=iou"
    assert differences(parse(spelling(dialect)), dialect) == {}
    floor = parse("ultralytics-8.4.190, small_box_floor=below first stride")
    assert differences(floor, DIALECTS["ultralytics-8.4.127"]) == {}
    assert floor.name == "ultralytics-8.4.190, small_box_floor=below first stride"
    assert parse("article") is DIALECTS["article"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("ultralytics-8.4.19", "unknown dialect 'ultralytics-8.4.19'; did you mean 'ultralytics-8.4.190'"),
        ("article, overlop=iou", "unknown choice 'overlop'; did you mean 'overlap'"),
        ("article, overlap=giuo", "unknown value of overlap 'giuo'; did you mean 'giou'?"),
        (
            "article, edge_counts=maybe",
            "unknown value of edge_counts 'maybe'. Known values of edge_counts: yes, no, true, false",
        ),
        ("article, edge_counts=", "unknown value of edge_counts ''"),
        ("article, norm_eps=small", "norm_eps='small': expected a number such as 1e-09"),
        ("article, k_offset=0.5", "k_offset='0.5': expected a whole number such as 0"),
    ],
)
def test_mistyped_names(text: str, message: str):
    with pytest.raises(ValueError, match=re.escape(message)):
        parse(text)


@pytest.mark.parametrize("choices", [{"overlap": "iou"}, {"edge_count": True}, {"name": "mine"}])
def test_unknown_choices_are_refused(choices: dict[str, Any]):
    with pytest.raises(TypeError, match=f"{next(iter(choices))}="):
        NEWEST.but(**choices)


def test_effective_hyperparameters():
    given = Hyperparameters(topk=5, alpha=1.0, beta=4.0, box_gain=2.0, topk2=3)
    assert NEWEST.effective(given, 100) == given
    built_in = NEWEST.but(
        exponents=Exponents.BUILT_IN, built_in_k=BuiltInK.TEN, k_cut=True, topk2_ignored=True
    )
    assert built_in.effective(given, 8) == Hyperparameters(topk=8, box_gain=2.0)
    assert NEWEST.but(built_in_k=BuiltInK.THIRTEEN).effective(given, 100).topk == 13
    assert parse("ultralytics-8.4.190, built_in_k=13") == NEWEST.but(built_in_k=BuiltInK.THIRTEEN)
    exchanged = NEWEST.but(exponents=Exponents.EXCHANGED).effective(given, 100)
    assert (exchanged.alpha, exchanged.beta) == (4.0, 1.0)
    assert not built_in.settled.is_varied
    lower, higher = (NEWEST.but(k_offset=step, topk2_offset=step) for step in (-1, 1))
    assert [d.effective(given, 100) for d in (lower, higher)] == [
        replace(given, topk=4, topk2=2),
        replace(given, topk=6, topk2=4),
    ]
    assert lower.effective(Hyperparameters(topk=1, topk2=1), 100).topk == 1
    assert higher.effective(replace(given, topk2=None), 100).topk2 is None
    assert not lower.settled.is_varied
    assert NEWEST.but(dropped_picks=DroppedPicks.ZERO).settled.is_varied


def test_a_choice_of_one_step_leaves_the_others():
    """If IoU replaces CIoU, the candidates are unchanged, and no overlap becomes smaller."""
    maps, annotations = batch(1)
    traces = []
    for dialect in (NEWEST, NEWEST.but(overlap=Overlap.IOU)):
        predictions = loss.read_predictions(maps, HEAD)
        truths = ground_truths(annotations, 2, predictions.size, dialect)[0]
        place = predictions.logits[0].sigmoid(), predictions.pixels[0], predictions.anchors.pixels
        step = varied_assignment if dialect.is_varied else assignment
        targets = step.assign(*place, truths, HEAD.strides, Hyperparameters(), dialect, keep_trace=True)
        assert targets.trace is not None
        traces.append(targets.trace)
    official, plain = traces
    assert torch.equal(official.candidates, plain.candidates)
    assert (plain.overlap >= official.overlap).all()
    assert (plain.overlap > official.overlap).any()
