"""The profile `ci` finds every planted fault at its stage, and Hypothesis shrinks the failing batch.

`tal_conformance.mutation.attack` runs the suite's checks with as many batches as the profile `ci`.
"""

import re
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import Phase
from tests.common.faults import parameters

import tal_reference
from tal_conformance.checks.profiles import PROFILES
from tal_conformance.checks.registry import CHECKS
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.mutation.attack import ASSIGNED, FailedCheck, attack, faulty
from tal_conformance.mutation.plant import HIDDEN, implementation_with
from tal_conformance.mutation.planted_faults import FAULTS

ISSUE = {
    "inclusive border": "inclusive_border",
    "floor of 8 against 16": "floor_of_first_stride",
    "floor widening the target box too": "widened_target_box",
    "k = 9": "nine_for_ten",
    "k = 11": "eleven_for_ten",
    "alpha 1": "alpha_of_one",
    "beta 5": "beta_of_five",
    "IoU for CIoU": "iou_for_ciou",
    "CIoU unclamped": "ciou_unclamped",
    "eps moved from h to w": "eps_on_the_width",
    "contested anchor by t": "contested_by_metric",
    "contested anchor by claimants only": "contested_by_claimants",
    "contested anchor by unmasked overlap": "contested_by_unmasked_overlap",
    "weights before conflict": "weights_before_conflict",
    "clamp(min=eps) for + eps": "clamped_for_added_eps",
    "losing GT keeps its score": "losing_truth_keeps_its_score",
    "padding leak": "padding_leaks",
    "GT with negative sum kept": "negative_sum_kept",
    "zero-metric candidate dropped": "zeros_do_not_compete",
    "target box in the wrong unit": "target_box_in_pixels",
    "DFL clamp 15.99": "dfl_clamp_15_99",
    "DFL clamp 15.99 (gradient only)": "dfl_clamp_15_99_in_the_gradient",
    "DFL weights swapped": "dfl_weights_swapped",
    "score sum not clamped": "score_sum_not_clamped",
    "N per image": "score_sum_an_image",
    "BCE mean": "mean_cross_entropy",
    "gain swapped": "gains_swapped",
    "missing B": "missing_batch_size",
    "missing detach of the assignment": "assignment_not_detached",
    "alpha of CIoU differentiated": "alpha_differentiated",
}
"""Names of faults in the original requirements, and in `FAULTS`."""

IMAGES = {
    "padding_leaks": 2,
    "score_sum_an_image": 2,
    "missing_batch_size": 2,
    "negative_sum_kept": 2,
    "total_of_images_with_truths": 2,
    "images_counted_by_the_last_row": 2,
}
"""Number of images of the smallest batch for faults that one image cannot show: it has no padding and no other image.
`negative_sum_kept` also keeps padding rows."""
TRUTHS = {
    "contested_by_claimants": 3,
    "contested_by_unmasked_overlap": 3,
    "contested_by_the_first_two": 3,
}
"""Number of ground truths of the smallest batch for faults in which the winner has not selected the anchor."""
ANCHORS = 64
"""Largest number of anchors of a smallest batch: one level of stride 8 on 64 x 64 px, which a person can still read. At
least k = 10 are needed (TAL-TOPK-2), and a smaller grid moves every box and prediction, which may hide the fault."""
LARGER = {"strides_sorted": 80, "floor_of_the_second_smallest": 80}
"""Largest number of anchors for faults that one level cannot show: two levels of strides 16 and 8 on 64 x 64 px."""
LINE = 260
"""Largest number of characters of a readable line."""

every_fault = pytest.mark.parametrize("name", parameters(FAULTS))


def large(name: str) -> bool:
    """Return True if only large batches, which take seconds to judge, reveal the fault with this name."""
    return FAULTS[name].check == "crossings"


@pytest.mark.slow
@every_fault
def test_found_where_stages_are_shown(name: str):
    """If stages are exposed, a fault is found at its stage, and the failing batch shrinks to a short recipe."""
    fault = FAULTS[name]
    shrinks = not large(name)  # a large fault does not show on a smaller batch
    phases = (Phase.generate, Phase.shrink) if shrinks else (Phase.generate,)
    hit = first_failure(faulty(fault, assigner_alone=fault.stage in ASSIGNED), fault.check, phases)
    assert hit is not None, f"not found by test_{fault.check}"
    assert hit.batches <= PROFILES["ci"].examples
    assert hit.failure.stage == fault.stage, hit.failure
    if shrinks:
        assert_small(name, hit)


def first_failure(
    implementation: Implementation, check: str, phases: tuple[Phase, ...] = (Phase.generate,)
) -> FailedCheck | None:
    """Return the first failure that the check named `check`, or else one of three other checks, finds; or None."""
    checks = dict.fromkeys((check, "loss_of_large_boxes", "metric", "targets"))
    return next((hit for name in checks if (hit := attack(implementation, name, phases))), None)


def assert_small(name: str, hit: FailedCheck) -> None:
    batch = hit.failure.batch
    counts = [int((batch.annotations[:, 0] == image).sum()) for image in range(batch.images)]
    line = batch.describe()
    assert batch.images <= IMAGES.get(name, 1), line
    assert sum(counts) <= TRUTHS.get(name, 2), line
    assert batch.anchors <= LARGER.get(name, ANCHORS), line
    assert len(line) <= LINE
    assert "\n" not in line + batch.origin
    assert batch.origin.startswith("Recipe(")


@every_fault
def test_found_where_outputs_alone_are_shown(name: str):
    """If the adapter exposes only outputs, a fault is found at its stage or at an indistinguishable stage."""
    fault = FAULTS[name]
    hit = first_failure(faulty(fault, exposes_stages=False), fault.check)
    assert hit is not None, f"not found by test_{fault.check}"
    assert hit.failure.stage in fault.outputs_stages, hit.failure


def test_a_check_that_does_not_apply_finds_nothing():
    """`attack` returns None for the check of exponents, which skips a loss without assigner."""
    fault = FAULTS["beta_as_a_whole_number"]
    assert attack(implementation_with(fault, HIDDEN), fault.check) is None


def test_what_has_no_fault_is_not_found():
    assert attack(find("reference"), "conflict") is None


@pytest.mark.parametrize("name", FAULTS)
def test_a_fault_lasts_only_while_it_is_planted(name: str):
    names = FAULTS[name].replaces
    before = {name: looked_up(name) for name in names}
    with FAULTS[name].planted():
        assert all(looked_up(name) is not before[name] for name in names)
    assert {name: looked_up(name) for name in names} == before


def looked_up(name: str) -> object:
    owner, _, attribute = name.rpartition(".")
    module, _, inner = owner.rpartition(".")
    try:
        holder = __import__(owner, fromlist=[attribute])
    except ImportError:
        holder = getattr(__import__(module, fromlist=[inner]), inner)
    return vars(holder)[attribute]


CORRECTIONS = {"COR-1", "COR-2", "COR-3", "COR-4"}
"""Clauses that make other clauses precise (LOSS-DFL-1, TAL-CONF-2, all of TAL), whose faults are theirs. Those of COR-2
are faults of masks and keypoints."""


def test_every_clause_has_at_least_two_faults():
    """`FAULTS` has at least two faults for every clause that the reference's source cites."""
    folder = Path(tal_reference.__file__).parent
    text = "".join(path.read_text(encoding="utf-8") for path in folder.glob("*.py"))
    cited = set(re.findall(r"\b(?:PRE|ANC|DEC|ANN|IOU|COR|(?:TAL|LOSS)-[A-Z]+)-\d\b", text)) - CORRECTIONS
    assert len(cited) > 25
    counts = Counter(clause for fault in FAULTS.values() for clause in set(fault.clauses))
    assert set(counts) == cited
    assert {clause: count for clause, count in counts.items() if count < 2} == {}


def test_every_fault_that_was_asked_for_is_there():
    assert set(ISSUE.values()) <= set(FAULTS)


def test_every_stage_has_a_fault():
    assert {fault.stage for fault in FAULTS.values()} == set(DETECT.clauses)


def test_every_check_of_a_fault_is_registered():
    assert {fault.check.partition("[")[0] for fault in FAULTS.values()} <= set(CHECKS)
