"""Adapters of other projects, such as libreyolo; tests with a network find the known differences of these projects."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.cache import FILES, HASHES, hashes
from tal_conformance.dialects.choices import conforms_to, failure_on
from tal_conformance.implementations import projects as table
from tal_conformance.implementations.adapters.libreyolo import (
    LibreYOLO,
    Scores,
    assignment_of,
    padded,
)
from tal_conformance.implementations.adapters.yolo9 import YOLO9, RecordingAssignerWithoutIndex, weighted
from tal_conformance.implementations.errors import PackageUnavailable, UnknownImplementation
from tal_conformance.implementations.projects import PROJECTS, project
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import OTHER_PROJECTS, find
from tal_conformance.implementations.workers.packages import Package
from tal_conformance.judgement.failure import Subject
from tal_conformance.known_issues.ledger import BUNDLED, read_ledger
from tal_reference import DIALECTS, Head, Hyperparameters


def test_every_project_has_a_name_to_ask_for_and_a_dialect():
    assert tuple(PROJECTS) == OTHER_PROJECTS
    assert {each.dialect for each in PROJECTS.values()} <= set(DIALECTS)


@pytest.mark.parametrize(
    ("asked", "fetches"), [("yolo9", "yolo9==1.0.18"), ("coreyolo==0.1.0", "coreyolo==0.1.0")]
)
def test_a_project_that_cannot_be_had_is_one_clear_message(
    asked: str, fetches: str, monkeypatch: pytest.MonkeyPatch
):
    def nowhere(package: Package) -> Any:
        raise PackageUnavailable(f"{package} cannot be had")

    monkeypatch.setattr(table, "ensure_package", nowhere)
    with pytest.raises(UnknownImplementation) as caught:
        find(asked)
    assert str(caught.value) == f"{fetches} cannot be had"


def test_a_version_whose_modules_lie_elsewhere_is_one_clear_message(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch
):
    modules = tmp_path / FILES
    modules.mkdir()
    (tmp_path / HASHES).write_text(json.dumps(hashes(modules)), encoding="utf-8")
    monkeypatch.setattr(table, "ensure_package", lambda _: modules)
    with pytest.raises(PackageUnavailable) as caught:
        project("coreyolo", "9.9.9")
    assert str(caught.value).startswith(
        "coreyolo==9.9.9: cannot make the adapter of coreyolo: ModuleNotFoundError: "
    )
    assert str(caught.value).endswith("; the adapter was written for coreyolo==0.2.1")


def test_only_known_projects_have_versions():
    with pytest.raises(UnknownImplementation) as caught:
        find("yolo10==1.0")
    assert str(caught.value) == (
        "unknown package in 'yolo10==1.0'; did you mean 'yolo9'? "
        "Packages that can be selected by version: ultralytics, yolo9, libreyolo, coreyolo, doclayout-yolo"
    )


def test_parts_of_a_loss_are_weighted():
    def parts(value: float) -> tuple[Tensor, Tensor]:
        return torch.tensor(value), torch.tensor(10 * value)

    assert [part.item() for part in weighted(parts, 2.0, 0.5)(1.0)] == [2.0, 5.0]
    assert weighted(torch.tensor, 3.0)(2.0).item() == 6.0
    assert weighted(parts, 1.0, 1.0) is parts


class NoIndex:
    """Stand-in for the assigner of old releases, whose result has no ground truth indices."""

    def __init__(self, **_: Any) -> None:
        pass

    def forward(self, scores: Tensor, boxes: Tensor, *_: Tensor) -> tuple[Tensor, ...]:
        images, anchors, _classes = scores.shape
        if boxes.sum() > 0:
            TAL.select_highest_overlaps()
        return torch.ones(images, anchors), boxes, scores, torch.ones(images, anchors)

    __call__ = forward


TAL: Any = SimpleNamespace(
    TaskAlignedAssigner=NoIndex,
    select_highest_overlaps=lambda: (torch.tensor([[1, 0]]), torch.ones(1, 2), torch.ones(1, 2, 2)),
)


@pytest.mark.parametrize(("side", "index"), [(1.0, [[1, 0]]), (0.0, [[0, 0]])])
def test_an_index_that_is_not_returned_is_recorded(side: float, index: list[list[int]]):
    recorder = RecordingAssignerWithoutIndex(TAL, NoIndex())
    recorder(torch.rand(1, 2, 3), torch.full((1, 2, 4), side), *[torch.zeros(1)] * 4)
    assignment = recorder.assignment()
    assert assignment.truth_index.tolist() == index
    assert assignment.foreground.dtype == torch.bool


def test_scores_stand_where_logits_are_asked_for():
    scores = torch.tensor([0.25, 1.0])
    taken = scores.as_subclass(Scores).sigmoid()
    assert type(taken) is Tensor
    assert torch.equal(taken, scores)


def test_rows_are_padded_image_by_image():
    rows = torch.tensor(
        [[2, 5, 0.5, 0.5, 0.5, 0.25], [0, 1, 0.25, 0.5, 0.5, 1.0], [2, 3, 0.5, 0.5, 1.0, 1.0]]
    )
    assert padded(rows, 3).tolist() == [
        [[1, 0, 0, 0.5, 1], [0] * 5],
        [[0] * 5, [0] * 5],
        [[5, 0.25, 0.375, 0.75, 0.625], [3, 0, 0, 1, 1]],
    ]
    assert padded(rows[:0], 2).shape == (2, 0, 5)


def test_a_positive_without_weight_keeps_its_label():
    truths = torch.tensor([[[2.0, 0, 0, 8, 8], [1.0, 8, 8, 16, 16]]])  # (1, 2, 5)
    answered = torch.zeros(1, 2, 3 + 4), torch.tensor([[True, False]]), torch.tensor([[1, 0]])
    found = assignment_of(answered, truths, 3)
    assert found.labels.tolist() == [[1, 2]]
    assert (found.scores.shape, found.boxes.shape) == ((1, 2, 3), (1, 2, 4))


@pytest.mark.parametrize(
    ("head", "numbers", "lacks"),
    [
        (Head((8,), 1, 1), Hyperparameters(), "reg_max 1"),
        (Head((8,), 1), Hyperparameters(topk2=1), "topk2"),
    ],
)
def test_what_a_project_has_not_is_refused(head: Head, numbers: Hyperparameters, lacks: str):
    adapter = object.__new__(LibreYOLO)
    adapter.version = "1"
    with pytest.raises(NotImplementedError, match=lacks):
        adapter.loss((torch.zeros(1, head.channels, 2, 2),), torch.zeros(0, 6), head, numbers)


def test_topk2_is_refused_by_yolo9():
    adapter = object.__new__(YOLO9)
    adapter.version = "1"
    with pytest.raises(NotImplementedError, match="topk2"):
        adapter._new_assigner(Head((8,), 1), Hyperparameters(topk2=1))


CROWD = Recipe(
    images=((Truth("ordinary"), Truth("overlapping"), Truth("tiny")), (), (Truth("huge"),)),
    cells=(8, 8),
    strides=(8, 16, 32),
    classes=3,
)
CONTESTED = Recipe(images=((Truth("ordinary"), Truth("ordinary")),), strides=(8, 16))
SMALL = Recipe(images=((Truth("tiny"),),), strides=(8, 16))
OTHER_GAINS = replace(CROWD, hyperparameters=Hyperparameters(box_gain=1.0, cls_gain=2.0, dfl_gain=0.25))


@pytest.fixture(scope="module")
def fetched_project() -> Iterator[Callable[[str], Implementation]]:
    """Yield a function that returns a project's implementation by name, in a worker process."""
    found: dict[str, Implementation] = {}

    def one(name: str) -> Implementation:
        if name not in found:
            found[name] = find(f"{name}=={PROJECTS[name].version}")
        return found[name]

    yield one
    for implementation in found.values():
        implementation.adapter.worker.close()


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "neighbour", "shows"),
    [("yolo9", "ultralytics-8.3.253", CONTESTED), ("doclayout-yolo", "ultralytics-8.0.51", CONTESTED)],
)
def test_a_project_that_speaks_the_dialect_of_an_era(
    name: str, neighbour: str, shows: Recipe, fetched_project: Callable[[str], Implementation]
):
    implementation = fetched_project(name)
    assert (implementation.version, implementation.capabilities) == (
        PROJECTS[name].version, ["assign", "loss", "stages"],
    )  # fmt: skip
    for recipe in (Recipe(), CROWD, CONTESTED, SMALL, OTHER_GAINS):
        assert conforms_to(Subject(implementation, "cpu"), recipe), recipe
    assert not conforms_to(Subject(replace(implementation, dialect=DIALECTS[neighbour]), "cpu"), shows)


@pytest.mark.network
@pytest.mark.parametrize(
    ("name", "recipe", "stage", "clause"),
    [
        ("libreyolo", Recipe(images=((), ()), strides=(8, 16)), "total", "LOSS-GAIN-1"),
        (
            "libreyolo",
            Recipe(images=((Truth("ordinary", at=(0, 9)),),), cells=(8, 8), strides=(8, 16)),
            "candidates", "TAL-CAND-1",
        ),
        ("libreyolo", Recipe(images=((Truth("edge_on_centre"),),), strides=(8, 16)), "candidates", "TAL-CAND-1"),
        ("coreyolo", Recipe(images=((), ()), strides=(8, 16)), "total", "LOSS-GAIN-1"),
        (
            "coreyolo",
            Recipe(images=((Truth("ordinary"),),), cells=(4, 6), strides=(8, 16), reg_max=2),
            "dfl", "LOSS-DFL-1",
        ),
    ],
)  # fmt: skip
def test_a_difference_that_was_found(
    name: str, recipe: Recipe, stage: str, clause: str, fetched_project: Callable[[str], Implementation]
):
    found = failure_on(Subject(fetched_project(name), "cpu"), recipe)
    assert found is not None
    assert (found.stage, found.clause) == (stage, clause)


EVEN: dict[str, Any] = {"strides": (8, 16)}
LARGE = Recipe(images=((Truth("ordinary", at=(0, 9)),),), cells=(8, 8), **EVEN)
REACH = Recipe(images=((Truth("ordinary", size=(5, 0)),),), cells=(8, 4), reg_max=2, **EVEN)
OFF = [
    Truth("off_lattice", at=at, size=size)
    for at, size in (((6, 5), (0, 0)), ((3, 8), (12, 7)), ((5, 8), (0, 0)))
]
CROSSED = Recipe(
    images=(tuple(OFF),), cells=(2, 5), predictions="between", levels=4, seed=3854, streams=(6,), **EVEN
)
ON_RECORD = [
    ("total-without-images", "libreyolo", Recipe(images=((), ()), **EVEN)),
    ("total-without-images", "coreyolo", Recipe(images=((), ()), **EVEN)),
    ("coreyolo-cells-rounded-down", "coreyolo", Recipe(cells=(5, 5), **EVEN)),
    ("libreyolo-border-counts", "libreyolo", Recipe(images=((Truth("edge_on_centre"),),), **EVEN)),
    ("libreyolo-border-counts", "libreyolo", LARGE),
    ("libreyolo-candidates-within-reach", "libreyolo", REACH),
    ("coreyolo-dfl-clamp", "coreyolo", Recipe(images=((Truth("ordinary"),),), cells=(4, 6), reg_max=2, **EVEN)),
    ("coreyolo-contested-off-candidates", "coreyolo", CROSSED),
    ("coreyolo-norm-clamp", "coreyolo", Recipe(images=((Truth("ordinary"),),), strides=(8, 16))),
    ("coreyolo-norm-clamp-lone", "coreyolo", Recipe(images=((Truth("ordinary"),),))),
]  # fmt: skip
"""Entry of the ledger of known issues, project, and a small batch on which the project has the issue."""


def test_every_entry_of_the_ledger_has_its_batch():
    entries = read_ledger(BUNDLED)
    assert {(entry.id, name) for entry in entries for name in entry.implementations} == {
        (entry, name) for entry, name, _ in ON_RECORD
    }


@pytest.mark.parametrize(("entry", "name", "recipe"), ON_RECORD)
def test_the_batch_of_an_entry_has_what_it_asks_for(entry: str, name: str, recipe: Recipe):
    (found,) = [each for each in read_ledger(BUNDLED) if each.id == entry]
    assert found.met_by(recipe.build())
    # a batch of one image without ground truths, with one level
    assert not found.met_by(Recipe(cells=(2, 2)).build())


@pytest.mark.network
@pytest.mark.parametrize(("entry", "name", "recipe"), ON_RECORD)
def test_what_is_on_record_diverges_so(
    entry: str, name: str, recipe: Recipe, fetched_project: Callable[[str], Implementation]
):
    subject = Subject(fetched_project(name), "cpu")
    found = failure_on(subject, recipe)
    assert found is not None
    known = [each.id for each in read_ledger(BUNDLED) if each.concerns(subject) and each.excuses(found)]
    assert known == [entry]
