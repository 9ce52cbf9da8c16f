"""The exhaustive check judges all images of a scope, and reports a fault on the smallest faulty image."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.checks.exhaustive import check as judging
from tal_conformance.checks.exhaustive.check import judge_scope, smallest
from tal_conformance.checks.exhaustive.scope import (
    CELLS,
    HALF_CELLS,
    LARGE,
    LEFT_UP,
    SCOPES,
    SMALL,
    Scope,
)
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics import UltralyticsAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.attack import faulty
from tal_conformance.mutation.planted_faults import FAULTS
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.run_log import RunLogWriter
from tal_reports import RunLog, read_log

TINY = Scope("tiny", (8,), (1, 2), CELLS, 2, (SMALL, LARGE), topk=1)
"""Scope of all images with two cells side by side: three boxes, two classes."""


class Session:
    """A new run log, into which `judge` writes the verdicts of an adapter on a scope."""

    def __init__(self, folder: Path) -> None:
        self.log = RunLog.create(folder, "run")
        self.log.append(
            "run",
            profile="ci",
            seed=0,
            command=[],
            environment={},
            devices={},
            implementations=[],
            stages=[],
            terms=[],
        )

    def judge(self, adapter: Any, scope: Scope) -> None:
        implementation = adapter if isinstance(adapter, Implementation) else implementation_from(adapter, "x")
        judge_scope(
            Checker(Subject(implementation, "cpu"), RunLogWriter(self.log), "test", "EXHAUSTIVE"),
            scope,
        )

    def lines(self, kind: str) -> list[dict[str, Any]]:
        every = [json.loads(line) for line in (self.log.folder / "log.jsonl").read_text().splitlines()]
        return [line for line in every if line["kind"] == kind]


@pytest.fixture
def session(tmp_path: Path) -> Session:
    return Session(tmp_path)


class AssignerAlone:
    """The official assigner without a loss, and without its intermediate stages."""

    name = "assigner alone"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        return replace(UltralyticsAdapter().assign(inputs), stages=None)


class LossAlone:
    """The official loss without an assigner; it returns only total and items."""

    name = "loss alone"

    def __init__(self) -> None:
        self.whole = UltralyticsAdapter()

    def loss(self, *arguments: Any) -> Loss:
        loss = self.whole.loss(*arguments)
        return Loss(loss.total, loss.items)


class Both(AssignerAlone, LossAlone):
    """The official assigner without stages, and the official loss that returns only total and items."""

    name = "both"


@pytest.mark.slow
@pytest.mark.parametrize("adapter", [UltralyticsAdapter, ReferenceAdapter, AssignerAlone, LossAlone, Both])
def test_all_images_are_judged_and_counted(session: Session, adapter: Callable[[], Any]):
    session.judge(adapter(), TINY)
    (line,) = session.lines("scope")
    assert line["conforms"]
    assert line["images"] == len(TINY) == (1 + 6 + 6**2) * 2**2
    assert line["description"] == TINY.describe()
    assert line["tie"] > 0
    hidden = adapter is LossAlone
    assert (line["alone"] > 0) == hidden
    packs = [batch for batch in session.lines("batch") if batch["verdict"] == "within_bound"]
    assert len(packs) >= 1 - hidden
    (kept,) = read_log(session.log.folder).scopes
    assert kept["scope"] == "tiny"


SINGLES = replace(TINY, lattice=HALF_CELLS, truths=1)
COLUMN = replace(SINGLES, cells=(2, 1))
ALL_TAKEN = replace(SINGLES, topk=2, guesses=(SMALL, LEFT_UP))
LEVELS = replace(SINGLES, strides=(8, 16))
BEYOND = Scope("beyond", (8,), (1, 1), HALF_CELLS, 1, (SMALL, LEFT_UP), topk=1, reg_max=2, margin=CELLS)
SQUARE = SCOPES["pairs on cells, k 2"]

FOUND = {
    "inclusive_border": (SINGLES, "candidates"),
    "no_floor": (SINGLES, "candidates"),
    "floor_of_first_stride": (LEVELS, "candidates"),
    "only_horizontally_inside": (COLUMN, "candidates"),
    "iou_for_ciou": (SINGLES, "overlap"),
    "ciou_unclamped": (LEVELS, "overlap"),
    "alpha_of_one": (SINGLES, "metric"),
    "beta_of_five": (SINGLES, "metric"),
    "eleven_for_ten": (TINY, "top-k"),
    "threshold_for_top_k": (TINY, "top-k"),
    "zeros_do_not_compete": (ALL_TAKEN, "top-k"),
    "contested_goes_to_the_first": (TINY, "conflict"),
    "contested_stays_with_all": (TINY, "conflict"),
    "widened_target_box": (SINGLES, "targets"),
    "label_of_the_first": (TINY, "targets"),
    "clamped_for_added_eps": (SINGLES, "normalisation"),
    "not_scaled_by_overlap": (SINGLES, "normalisation"),
    "losing_truth_keeps_its_score": (TINY, "targets"),
    "weights_before_conflict": (SQUARE, "normalisation"),
    "negative_sum_kept": (BEYOND, "candidates"),
    "empty_image_scores": (SINGLES, "normalisation"),
    "target_box_in_pixels": (SINGLES, "box"),
    "dfl_weights_swapped": (SINGLES, "gradients"),
    "dfl_clamped_late": (BEYOND, "gradients"),
    "dfl_clamp_15_99_in_the_gradient": (BEYOND, "gradients"),
    "mean_cross_entropy": (SINGLES, "cls"),
    "gains_swapped": (SINGLES, "cls"),
    "missing_batch_size": (SINGLES, "total"),
    "alpha_differentiated": (SINGLES, "gradients"),
    "assignment_not_detached": (SINGLES, "gradients"),
}
"""Faults that show in a scope as small as this, with the stage that is named for their smallest image."""
ONLY_IN_COMPANY = {"missing_batch_size"}
"""One image alone has the right loss: B is 1."""


@pytest.mark.slow
@pytest.mark.parametrize("name", FOUND)
def test_a_planted_fault_is_found_on_the_smallest_image_that_shows_it(session: Session, name: str):
    scope, stage = FOUND[name]
    with pytest.raises(Failure) as caught:
        session.judge(faulty(FAULTS[name]), scope)
    failure = caught.value
    assert failure.stage == stage
    assert failure.batch.images == 1 + (name in ONLY_IN_COMPANY)
    assert len(failure.batch.annotations) <= 2
    (line,) = session.lines("scope")
    assert not line["conforms"]
    assert session.lines("batch")[-1]["verdict"] == "divergent"


@pytest.mark.parametrize("name", ["inclusive_border", "no_floor", "iou_for_ciou", "label_of_the_first"])
def test_a_fault_of_outputs_alone_is_found(session: Session, name: str):
    scope, stage = FOUND[name]
    with pytest.raises(Failure) as caught:
        session.judge(faulty(FAULTS[name], exposes_stages=False), scope)
    assert caught.value.stage == stage
    assert caught.value.batch.images == 1


class WrongAssigner:
    """The official assigner with a fault on certain images."""

    name = "wrong"

    def __init__(self, change: Callable[[Assignment, AssignerInputs], Assignment]) -> None:
        self.official, self.change = UltralyticsAdapter(), change

    def assign(self, inputs: AssignerInputs) -> Assignment:
        return self.change(replace(self.official.assign(inputs), stages=None), inputs)


@pytest.mark.slow
def test_one_image_among_thousands_is_found(session: Session):
    """A fault that needs two particular ground truths is found among 343 scenes, and reported on a single image."""
    first, second = torch.tensor([0.0, 0, 8, 8]), torch.tensor([8.0, 8, 16, 16])

    def change(right: Assignment, inputs: AssignerInputs) -> Assignment:
        if inputs.truth_boxes.shape[1] < 2:
            return right
        here = (inputs.truth_boxes == torch.stack((first, second))).flatten(1).all(1)
        here &= (inputs.labels[..., 0] == torch.tensor([1.0, 0.0])).all(1)
        return replace(right, scores=right.scores * (1 + 1e-3 * here[:, None, None]))

    with pytest.raises(Failure) as caught:
        session.judge(WrongAssigner(change), SCOPES["pairs on cells, k 2"])
    batch = caught.value.batch
    assert batch.images == 1
    assert batch.describe().count("class") == 3  # in "2 classes", and for each of two ground truths
    assert "class 1 at (0, 0)-(8, 8), class 0 at (8, 8)-(16, 16)" in batch.describe()


@pytest.mark.slow
def test_what_only_company_shows_is_reported_with_the_least_company(session: Session):
    """A fault that appears only if the batch also has an image without ground truths is reported on two images."""

    def change(right: Assignment, inputs: AssignerInputs) -> Assignment:
        counts = inputs.truth_mask[..., 0].sum(1)
        if len(counts) < 2 or not (counts == 0).any():
            return right
        return replace(right, foreground=right.foreground & False, scores=right.scores * 0)

    with pytest.raises(Failure) as caught:
        session.judge(WrongAssigner(change), SCOPES["pairs on cells, k 2"])
    assert caught.value.batch.images == 2
    assert 1 <= len(caught.value.batch.annotations) <= 2


def test_an_image_that_makes_it_raise_is_found_in_its_pack(session: Session):
    def change(right: Assignment, inputs: AssignerInputs) -> Assignment:
        if (inputs.truth_boxes == torch.tensor([8.0, 0, 16, 16])).all(-1).any():
            raise RuntimeError("not this box")
        return right

    with pytest.raises(Failure) as caught:
        session.judge(WrongAssigner(change), SCOPES["pairs on cells, k 2"])
    assert caught.value.verdict is Verdict.ERROR
    assert "not this box" in caught.value.summary
    assert (caught.value.batch.images, len(caught.value.batch.annotations)) == (1, 1)


def test_a_wrong_value_with_the_right_gradient_is_found(session: Session):
    class Shifted(UltralyticsAdapter):
        name = "shifted"

        def loss(self, *arguments: Any) -> Loss:
            loss = super().loss(*arguments)
            return replace(loss, items=loss.items * 1.01)

    with pytest.raises(Failure) as caught:
        session.judge(Shifted(), TINY)
    assert caught.value.stage == "cls"
    assert caught.value.batch.images == 1


def test_suspects_that_the_judge_accepts_are_no_failure(session: Session, monkeypatch: pytest.MonkeyPatch):
    """An image that the vectorised check rejects, but the ordinary judge accepts, is not a failure."""
    check_chunk = judging.check_chunk

    def strict(*arguments: Any) -> Any:
        found = check_chunk(*arguments)
        return replace(found, right=found.right & (found.numbers != 17))

    monkeypatch.setattr(judging, "check_chunk", strict)
    session.judge(UltralyticsAdapter(), TINY)
    (line,) = session.lines("scope")
    assert line["conforms"]
    assert line["alone"] == 1
    assert all(batch["verdict"] in ("exact", "within_bound") for batch in session.lines("batch"))
    assert len(session.lines("batch")) == 3  # three batches: the image, the image with others, all images


@pytest.mark.parametrize(
    ("wanted", "count"), [({3}, 1), ({3, 700}, 2), ({0, 1, 2, 999}, 4), (set(range(0, 1000, 250)), 4)]
)
def test_as_few_as_are_suspect_together_stay(wanted: set[int], count: int):
    def suspect(numbers: Tensor) -> bool:
        return wanted <= set(numbers.tolist())

    assert set(smallest(torch.arange(1000), suspect).tolist()) == wanted
    assert len(wanted) == count


def test_the_smallest_image_comes_first(session: Session):
    """The reported image has the fewest ground truths: 0 if every image fails, 2 if only images with two fail."""

    def every(right: Assignment, inputs: AssignerInputs) -> Assignment:
        return replace(right, scores=right.scores + 1e-3)

    def with_two(right: Assignment, inputs: AssignerInputs) -> Assignment:
        two = inputs.truth_mask[..., 0].sum(1) == 2
        return replace(right, scores=right.scores + 1e-3 * two[:, None, None])

    for change, truths in ((every, 0), (with_two, 2)):
        with pytest.raises(Failure) as caught:
            session.judge(WrongAssigner(change), replace(TINY, guesses=(LEFT_UP,)))
        assert len(caught.value.batch.annotations) == truths
