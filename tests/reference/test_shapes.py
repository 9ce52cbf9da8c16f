"""Shapes in the reference's annotations are checked at run time if jaxtyping is installed, else ignored."""

import runpy
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

import tal_reference
from tal_reference import Anchors, GroundTruths, Head, Hyperparameters
from tal_reference.annotations import to_corners
from tal_reference.assignment import top_k
from tal_reference.boxes import ciou
from tal_reference.decoding import decode
from tal_reference.loss import dfl_loss

WRONG_CALLS: dict[str, Callable[[], Any]] = {
    "anchors": lambda: tal_reference.make_anchors([torch.zeros(9, 2, 2)], Head((8,), 1, 2)),
    "anchors, a dataclass": lambda: Anchors(torch.zeros(3, 2), torch.zeros(4, 1)),
    "decoding": lambda: decode(torch.zeros(8), Anchors(torch.zeros(3, 2), torch.zeros(3, 1)), 2),
    "annotations": lambda: to_corners(torch.zeros(3, 5), (8, 8)),
    "annotations, a dataclass": lambda: GroundTruths(torch.zeros(2, dtype=torch.long), torch.zeros(3, 4)),
    "annotations, a dtype": lambda: GroundTruths(torch.zeros(2), torch.zeros(2, 4)),
    "boxes, last axis": lambda: ciou(torch.zeros(3, 5), torch.zeros(3, 5)),
    "boxes, not broadcastable": lambda: ciou(torch.zeros(3, 4), torch.zeros(2, 4)),
    "assignment": lambda: top_k(torch.zeros(5), 1),
    "loss": lambda: dfl_loss(torch.zeros(3, 8), torch.zeros(2, 4), 2),
}


@pytest.mark.parametrize("name", WRONG_CALLS)
def test_a_wrong_shape_is_rejected(name: str):
    with pytest.raises(TypeError, match=r"[Tt]ype-check error"):
        WRONG_CALLS[name]()


def assigned(scores: Tensor, boxes: Tensor, centres: Tensor) -> tal_reference.Targets:
    truths = GroundTruths(torch.tensor([0]), torch.tensor([[0.0, 0.0, 16.0, 8.0]]))
    return tal_reference.assign(scores, boxes, centres, truths, (8,), Hyperparameters(topk=1))


def test_assign_takes_the_shapes_it_names():
    assert len(assigned(torch.rand(2, 1), torch.rand(2, 4), torch.rand(2, 2)).weights) == 2


@pytest.mark.parametrize(
    ("scores", "boxes", "centres"),
    [((2,), (2, 4), (2, 2)), ((2, 1), (3, 4), (2, 2)), ((2, 1), (2, 4), (2, 3)), ((1, 2), (2, 4), (2, 2))],
)
def test_assign_rejects_other_shapes(
    scores: tuple[int, ...], boxes: tuple[int, ...], centres: tuple[int, ...]
):
    with pytest.raises(TypeError, match=r"[Tt]ype-check error"):
        assigned(torch.rand(scores), torch.rand(boxes), torch.rand(centres))


def test_without_jaxtyping_a_shape_is_a_plain_tensor(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "jaxtyping", None)
    shapes = runpy.run_path(str(Path(tal_reference.__file__).with_name("shapes.py")))
    assert [shapes[name][Tensor, "M A"] for name in ("Float", "Int", "Bool")] == [Tensor] * 3
