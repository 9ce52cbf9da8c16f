"""The vectorised check of many images agrees with the ordinary judge, except that it may reject near ties."""

from collections.abc import Callable, Iterator
from dataclasses import fields, replace

import pytest
import torch
from tests.common.tiers import mostly_nightly
from torch import Tensor
from torch.nn import functional

from tal_conformance.checks.exhaustive.chunks import check_chunk, uniqueness
from tal_conformance.checks.exhaustive.dense_oracle import (
    Expected,
    assignment_holds,
    expected,
    owner_of,
    weights_of,
)
from tal_conformance.checks.exhaustive.scope import SCOPES, Images, Scope
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Outcome, Stages
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.core.verdicts import Divergence, Judgement, Uniqueness
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.assignment.assignment import judge_assignment
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_conformance.judgement.oracle.admissible import assignments
from tal_conformance.judgement.oracle.oracle import oracle
from tal_reference import NEWEST

SAMPLE = 40
by_name = pytest.mark.parametrize("scope", SCOPES.values(), ids=lambda scope: scope.name)


def sample(scope: Scope, count: int = SAMPLE) -> Tensor:
    source = torch.Generator().manual_seed(len(scope))
    return torch.randint(len(scope), (count,), generator=source)


def prescribed_of(scope: Scope, numbers: Tensor) -> tuple[Images, AssignerInputs, Expected]:
    images, inputs = scope.images(numbers), assigner_inputs(scope.batch(numbers))
    return images, inputs, expected(images, inputs, NEWEST)


def following(prescribed: Expected, owner: Tensor, classes: int) -> Assignment:
    """Return the assignment in which the ground truths `owner` (B, A) own the anchors; -1 is background."""
    rows = torch.arange(prescribed.real.shape[1])[:, None]
    positives = owner[:, None] == rows  # (B, M, A)
    own = positives.transpose(1, 2).float()
    labels = (own @ prescribed.labels[..., None].float()).squeeze(-1).long()
    weights = weights_of(prescribed.naive_metric, prescribed.naive_overlap, positives)
    scores = weights[..., None] * functional.one_hot(labels, classes)
    return Assignment(labels, own @ prescribed.boxes.float(), scores, owner >= 0, owner.clamp(min=0))


def one_of(values: object, image: int) -> dict[str, object]:
    """Return the fields of an assignment or of assigner inputs, cut to one image of the batch."""
    shown = {field.name: getattr(values, field.name) for field in fields(values)}  # type: ignore[arg-type]
    whole = ("anchors", "strides", "head", "hyperparameters", "stages")
    return {name: value if name in whole else value[image : image + 1] for name, value in shown.items()}


def ordinarily(batch: Batch, assignment: Assignment, inputs: AssignerInputs, image: int) -> bool:
    """Return True if the ordinary judge accepts the assignment of one image."""
    judgement = Judgement()
    outcome = Outcome(
        AssignerInputs(**one_of(inputs, image)),  # type: ignore[arg-type]
        exposes_inputs=False,
        assignment=Assignment(**one_of(assignment, image)),  # type: ignore[arg-type]
        loss=None,
    )
    judge_assignment(judgement, outcome, Expectation(batch, NEWEST))
    return not judgement.verdict.fails


def admissible(inputs: AssignerInputs, image: int, truths: int) -> Iterator[Tensor]:
    """Yield admissible assignments of one image: the ground truth of each anchor (A,), -1 on background."""
    if not truths:
        return
    found = oracle(inputs, image, truths, NEWEST)
    for owners in assignments(found.selection, found.owners, 12):
        yield owners.index.where(owners.foreground, -1)


@by_name
def test_every_admissible_assignment_is_accepted(scope: Scope):
    images, inputs, prescribed = prescribed_of(scope, sample(scope))
    counts = images.present.sum(1).tolist()
    for image, truths in enumerate(counts):
        for owner in admissible(inputs, image, truths):
            owners = torch.full((len(counts), scope.anchors), -1)
            owners[image] = owner
            assignment = following(prescribed, owners, scope.head.classes)
            assert assignment_holds(prescribed, assignment)[image], (image, owner)


@pytest.mark.slow
@pytest.mark.parametrize(
    "scope",
    mostly_nightly(
        SCOPES.values(), ["pairs in a row, k 2", "singles on half cells, k 4"], lambda scope: scope.name
    ),
    ids=lambda scope: scope.name,
)
def test_any_assignment_is_judged_as_by_the_ordinary_judge(scope: Scope):
    """On random assignments, vectorised and ordinary check give the same verdict, except at near ties."""
    images, inputs, prescribed = prescribed_of(scope, sample(scope))
    counts, source = images.present.sum(1).tolist(), torch.Generator().manual_seed(1)
    _, near_tie = uniqueness(prescribed)
    verdicts = set()
    for turn in range(4):
        owners = torch.full((len(counts), scope.anchors), -1)
        for image, truths in enumerate(counts):
            owners[image] = next(admissible(inputs, image, truths), owners[image])
            if truths and turn:
                place = torch.randint(scope.anchors, (turn,), generator=source)
                owners[image, place] = torch.randint(-1, truths, (turn,), generator=source)
        assignment = following(prescribed, owners, scope.head.classes)
        fast = assignment_holds(prescribed, assignment)
        for image in range(len(counts)):
            slow = ordinarily(scope.image(int(images.indices[image])), assignment, inputs, image)
            assert fast[image] <= slow, f"image {image}: only the vectorised check accepts {owners[image]}"
            assert fast[image] or not slow or near_tie[image], (
                f"image {image}: wrongly rejects {owners[image]}"
            )
            verdicts.add(slow)
    assert verdicts == {True, False}


@by_name
def test_choices_are_counted_as_by_the_ordinary_judge(scope: Scope):
    images, inputs, prescribed = prescribed_of(scope, sample(scope, 120))
    tie, near_tie = uniqueness(prescribed)
    for image, truths in enumerate(images.present.sum(1).tolist()):
        kind = oracle(inputs, image, truths, NEWEST).uniqueness if truths else Uniqueness.UNIQUE
        mine = Uniqueness.TIE if tie[image] else Uniqueness.NEAR_TIE if near_tie[image] else Uniqueness.UNIQUE
        assert mine == kind, image


WRONG: dict[str, Callable[[Assignment], Assignment]] = {
    "label": lambda a: replace(a, labels=a.labels + 1),
    "box": lambda a: replace(a, boxes=a.boxes + 1e-3),
    "score": lambda a: replace(a, scores=a.scores * (1 + 1e-4)),
    "score of another class": lambda a: replace(a, scores=a.scores.flip(-1)),
    "score on the background": lambda a: replace(a, scores=a.scores + 1e-20),
    "foreground": lambda a: replace(a, foreground=~a.foreground),
    "index": lambda a: replace(a, truth_index=1 - a.truth_index),
    "NaN": lambda a: replace(a, scores=a.scores * torch.nan),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("stages", [True, False], ids=["stages", "outputs"])
def test_what_is_wrong_is_not_accepted(wrong: Callable[[Assignment], Assignment], stages: bool):
    scope = SCOPES["pairs on cells, k 2"]
    numbers = sample(scope, 100)
    inputs, prescribed = prescribed_of(scope, numbers)[1:]
    right = find("reference").adapter.assign(inputs)
    right = right if stages else replace(right, stages=None)
    assert assignment_holds(prescribed, right).all()
    positive = (right.scores.sum(-1) > 1e-6).sum(1) > 1
    refused = ~assignment_holds(prescribed, wrong(right))
    assert refused[positive].all() or (refused & positive).sum() > positive.sum() / 2
    assert positive.sum() > 20


@pytest.mark.parametrize("name", [field.name for field in fields(Stages)])
def test_a_wrong_stage_is_not_accepted(name: str):
    scope = SCOPES["pairs on cells, k 2"]
    inputs, prescribed = prescribed_of(scope, sample(scope, 100))[1:]
    right = find("reference").adapter.assign(inputs)
    shown = getattr(right.stages, name)
    broken = ~shown if shown.dtype == torch.bool else shown * (1 + 1e-4)
    assert shown.any(-1).any(-1).sum() > 50
    refused = ~assignment_holds(prescribed, replace(right, stages=replace(right.stages, **{name: broken})))
    assert refused[shown.any(-1).any(-1)].all()


@pytest.mark.slow
@pytest.mark.parametrize("name", mostly_nightly(["ultralytics", "article", "reference"], ["ultralytics"]))
def test_a_sample_is_accepted_as_by_the_ordinary_judge(name: str):
    implementation = find(name)
    for scope in SCOPES.values():
        numbers = sample(scope, 24)
        found = check_chunk(implementation, scope, numbers)
        assert found.right.all()
        assert found.sums
        batch = scope.batch(numbers)
        try:
            judge(execute(implementation, batch), Expectation(batch, implementation.dialect))
        except Divergence as error:
            pytest.fail(f"{scope.name}: {error}")


def test_owners_and_positives_say_the_same():
    owner = torch.tensor([[-1, 0, 1], [1, 1, -1]])
    positives = owner[:, None] == torch.arange(2)[:, None]
    assert torch.equal(owner_of(positives), owner)
