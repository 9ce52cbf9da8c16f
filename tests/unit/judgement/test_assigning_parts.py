"""Losses of YOLO26 whose keypoints or masks take part in the assignment (P26-*, S26-*), judged stage by stage."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards.catalogue import hazards_of
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.outcome import Loss
from tal_conformance.core.reference_inputs import predictions_of
from tal_conformance.core.task import POSE26, SEGMENT26, StageName, task_of
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_conformance.judgement.rounding.geometry import Pairs
from tal_conformance.judgement.rounding.masked_boxes import MaskedBoxes
from tal_conformance.mutation.attack import attack, faulty
from tal_conformance.mutation.planted_faults.fault import Fault
from tal_conformance.pictures.parts import FITS
from tal_conformance.pictures.trace import ImageTrace
from tal_reference import NEWEST, GroundTruths, Head, Hyperparameters
from tal_reference.keypoints import box_areas

RECIPE = Recipe(
    images=((Truth("ordinary"), Truth("huge"), Truth("tiny")), ()),
    cells=(8, 8),
    strides=(8, 16),
    predictions="near",
)
BATCHES = {
    POSE26.name: replace(RECIPE, keypoints=(4, 3), task=POSE26.name),
    SEGMENT26.name: replace(
        RECIPE, prototypes=4, prototype_ratio=8, overlapping_masks=False, task=SEGMENT26.name
    ),
}
every_task = pytest.mark.parametrize("task", BATCHES)


def judged(implementation: Implementation, batch: Batch) -> Judgement:
    """Judge an implementation on a batch.

    Raises:
        Divergence: it does not conform.
    """
    return judge(execute(implementation, batch), Expectation(batch, NEWEST))


def beyond_the_right_edge() -> Batch:
    """Return a batch whose ground truth is so large that only stride 16 fits, and has candidates at stride 8 alone."""
    batch = BATCHES[POSE26.name].build()
    height, width = batch.size
    row = torch.cat(
        (torch.tensor([0, 0, 179 / width, 0.5, 242 / width, 200 / height]), batch.annotations[0, 6:])
    )
    return replace(batch, annotations=row[None])


@every_task
@pytest.mark.parametrize("name", ["reference", "ultralytics"])
def test_official_code_and_the_reference_conform(task: str, name: str):
    """P26-1 to P26-3, S26-1 to S26-3: all stages of some batches are judged, and agree."""
    pytest.importorskip("ultralytics.utils.loss")
    implementation = find(name)
    batches = [BATCHES[task].build()]
    for strategy in ("loss", "topk2", "small_boxes"):
        batches += [recipe.build() for recipe in sample_recipes(STRATEGIES_BY_TASK[task][strategy], 2)]
    for batch in batches:
        assert judged(implementation, batch).stages[StageName.OVERLAP].mismatch is None


@every_task
def test_the_overlap_is_not_that_of_detection(task: str):
    """P26-3, S26-1: in the first batch the oracle's overlap differs from CIoU, so that a judgement shows something."""
    batch = BATCHES[task].build()
    expected = Expectation(batch, NEWEST)
    own = expected.image(0, expected.inputs).overlap
    plain = Expectation(batch, NEWEST)
    plain.__dict__["geometry"] = plain.geometry.__class__.__mro__[1]()  # upright boxes alone
    assert (own - plain.image(0, plain.inputs).overlap).abs().max() > 0.01


def test_a_ground_truth_that_fits_no_level_keeps_its_candidates():
    """P26-2: official code keeps them too; a gate that leaves none is found at the candidates."""
    pytest.importorskip("ultralytics.utils.loss")
    batch = beyond_the_right_edge()
    assert "level_gate_empties" in hazards_of(batch)
    judged(find("ultralytics"), batch)

    def empties(candidates: Tensor, truths: GroundTruths, strides: Tensor) -> Tensor:
        fits = box_areas(truths).sqrt()[:, None] <= torch.where(
            strides == strides.max(), torch.inf, 12 * strides
        )
        return candidates & fits

    fault = Fault(
        "empties", ("P26-2",), StageName.CANDIDATES, {"tal_reference.keypoints.gated": empties}, (), "loss"
    )
    with pytest.raises(Divergence, match=r"candidates \(P26-2\)"):
        judged(faulty(fault), batch)


def test_a_size_at_a_limit_is_judged_strictly():
    """P26-2: a ground truth of exactly 2 strides has candidates on this level; a gate that leaves them out fails."""
    batch = BATCHES[POSE26.name].build()
    height, width = batch.size
    row = torch.cat((torch.tensor([0, 0, 0.5, 0.5, 32 / width, 32 / height]), batch.annotations[0, 6:]))
    batch = replace(batch, annotations=row[None])
    assert "level_gate_at_its_limit" in hazards_of(batch)
    judged(find("reference"), batch)

    def strictly(candidates: Tensor, truths: GroundTruths, strides: Tensor) -> Tensor:
        side = box_areas(truths).sqrt()[:, None]
        return candidates & ((side > 2 * strides) | (strides == strides.min()))

    fault = Fault(
        "strictly", ("P26-2",), StageName.CANDIDATES, {"tal_reference.keypoints.gated": strictly}, (), "loss"
    )
    with pytest.raises(Divergence, match=r"candidates \(P26-2\)"):
        judged(faulty(fault), batch)


@every_task
def test_the_head_says_that_parts_assign(task: str, tmp_path: Path):
    """P26-3, S26-1: task, batch and case file know it from the head; heads without it have the task of v8."""
    batch = BATCHES[task].build()
    columns = batch.annotations.shape[1]
    assert task_of(batch.head, columns, len(batch.feature_maps)).name == task
    v8 = replace(batch.head, parts_assign=None)
    assert task_of(v8, columns, len(batch.feature_maps)).name == task.removesuffix("26")
    batch.save(tmp_path / "case.safetensors")
    assert Batch.load(tmp_path / "case.safetensors").head == batch.head
    with pytest.raises(ValueError, match=r"head.parts_assign is None; task '.*26' expects True"):
        replace(batch, head=v8)
    with pytest.raises(ValueError, match="the head has neither keypoints nor masks"):
        Head((8,), 1, parts_assign=True)


def test_a_case_file_with_another_value_is_rejected(tmp_path: Path):
    """A case file whose head has a number in place of the boolean raises InvalidCase."""
    batch = BATCHES[POSE26.name].build()
    odd = replace(batch)
    object.__setattr__(odd, "head", replace(batch.head, parts_assign=7))  # type: ignore[arg-type] # wrong on purpose
    odd.save(tmp_path / "case.safetensors")
    with pytest.raises(InvalidCase, match="invalid parts_assign 7"):
        Batch.load(tmp_path / "case.safetensors")


@every_task
def test_explain_shows_the_overlap_of_the_assignment(task: str):
    """P26-3, S26-1: the measure of a ground truth's candidates is the part of the overlap that is not CIoU."""
    batch = BATCHES[task].build()
    trace = ImageTrace.of(batch, 0, NEWEST)
    values = FITS[task].values(trace, 1)  # (A,)
    stages = trace.trace
    assert stages is not None
    candidates = stages.candidates[1]
    own = stages.overlap[1][candidates].double()
    if task == POSE26.name:
        assert torch.allclose(values[candidates].double(), own, atol=1e-5)
    else:
        assert (values[candidates].double() / 2 <= own + 1e-6).any()


class SidesExchanged(ReferenceAdapter):
    """The reference with annotation rows whose normalised sides refer to the other side of the input."""

    exposes_stages = False

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        height, width = (size * head.strides[0] for size in feature_maps[0].shape[2:])
        rows = annotations.clone()  # (N, 6 ...)
        rows[:, [2, 4]] *= height / width
        rows[:, [3, 5]] *= width / height
        found: Loss = super().loss(feature_maps, rows, head, hyperparameters)
        assert found.assignment is not None
        return replace(found, inputs=None, assignment=replace(found.assignment, stages=None))


@every_task
def test_exchanged_sides_are_found(task: str):
    """ANN-1: an input whose height and width are exchanged fails on batches that are not square."""
    hit = attack(implementation_from(SidesExchanged(), "exchanged"), "decoding", task=task)
    assert hit is not None
    assert hit.failure.stage == StageName.CANDIDATES


def test_an_anchor_that_may_be_no_candidate_leaves_its_place_to_the_next():
    """S26-2: with k = 1, three masks are compared; the fourth may be, if the best anchor lies on an edge."""
    batch = BATCHES[SEGMENT26.name].build()
    geometry = MaskedBoxes.of(batch, predictions_of(batch, torch.float64))
    overlap = torch.tensor([0.9, 0.8, 0.7, 0.6])  # (P,)
    boxes, image, anchor = torch.zeros(4, 4), torch.zeros(4, dtype=torch.long), torch.arange(4)
    for certain, may_be, must_be in ((True, 3, 3), (False, 4, 3)):
        pairs = Pairs(
            image, image, anchor, boxes, boxes, torch.ones(4), torch.tensor([certain, True, True, True])
        )
        surely, possibly, chosen = geometry._compared(
            pairs, overlap, overlap.double(), torch.zeros(4).double(), torch.float32, Hyperparameters(topk=1)
        )  # (P,) each
        assert (int(possibly.sum()), int(surely.sum())) == (may_be, must_be)
        assert chosen.tolist() == [certain, True, True, not certain]
