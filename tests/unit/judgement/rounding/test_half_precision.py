"""Feature maps in 16 bits without autocast, as a model converted with `half()` returns them, are judged."""

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.mutation.plant import HIDDEN, STAGES_SHOWN, implementation_with
from tal_conformance.mutation.planted_faults import FAULTS

DTYPES = (torch.float16, torch.bfloat16)
TWO_IMAGES = Recipe(
    images=((Truth("ordinary"),), (Truth("huge"),)), cells=(5, 5), predictions="near", levels=1, reg_max=8
)
SHOWN = {
    "alpha_of_one": "metric",
    "nine_for_ten": "top-k",
    "gains_swapped": "cls",
    "dfl_weights_swapped": "dfl",
    "missing_batch_size": "total",
    "not_scaled_by_overlap": "normalisation",
}
"""Planted faults of every part of the computation, and their stages."""


def in_half(dtype: torch.dtype) -> Batch:
    return TWO_IMAGES.build().to(dtype=dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_official_loss_conforms(dtype: torch.dtype):
    judgement = judge_against_reference(Subject(find("ultralytics"), "cpu"), in_half(dtype))
    assert not judgement.verdict.fails


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", SHOWN)
def test_a_fault_is_found(name: str, dtype: torch.dtype):
    subject = Subject(implementation_with(FAULTS[name], STAGES_SHOWN), "cpu")
    with pytest.raises(Failure) as caught:
        judge_against_reference(subject, in_half(dtype))
    assert caught.value.stage == SHOWN[name]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("name", ["gains_swapped", "missing_batch_size"])
def test_a_fault_is_found_in_a_loss_that_hides_its_assignment(name: str, dtype: torch.dtype):
    subject = Subject(implementation_with(FAULTS[name], HIDDEN), "cpu")
    with pytest.raises(Failure):
        judge_against_reference(subject, in_half(dtype))


@pytest.mark.parametrize("mode", [STAGES_SHOWN, HIDDEN])
def test_a_bound_wider_than_the_gradient_is_inconclusive(mode: str):
    """The operations of bfloat16 code without autocast may all round: a wrong gradient may lie within the bound."""
    wrong = implementation_with(FAULTS["iou_for_ciou_in_the_loss"], mode)
    judgement = judge_against_reference(Subject(wrong, "cpu"), in_half(torch.bfloat16))
    assert judgement.verdict is Verdict.INCONCLUSIVE
    assert any("gradient of total on distance logits is not judged" in note for note in judgement.notes)
