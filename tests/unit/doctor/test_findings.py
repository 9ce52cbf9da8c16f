"""Findings on inputs: each is found where it is planted, and none is found in ordinary or recorded batches."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import Content
from tal_conformance.core.circumstances import Circumstances
from tal_conformance.core.task import E2E, TASKS
from tal_conformance.dialects.comparison import ORDINARY, ORDINARY_BATCHES
from tal_conformance.doctor.candidates import unmatched
from tal_conformance.doctor.examine import examine
from tal_conformance.doctor.finding import Finding, Severity
from tal_conformance.doctor.inputs import Inputs, read_inputs
from tal_conformance.doctor.predictions import saturation
from tal_conformance.judgement.rejection import rejection_for
from tal_reference import DIALECTS, NEWEST, BuiltInK, Hyperparameters

ROWS = torch.tensor([
    [0, 0, 0.3, 0.4, 0.4, 0.25],
    [0, 1, 0.7, 0.6, 0.25, 0.5],
    [1, 0, 0.6, 0.3, 0.3, 0.375],
])  # fmt: skip
"""Rows (3, 6): image, class, cx, cy, w, h."""
BATCH = replace(
    Recipe(((), ()), strides=(8, 16, 32), cells=(16, 24), classes=3, predictions="random").build(),
    annotations=ROWS,
)
"""Two images of 192x128 px with two and one ground truths."""


def content(batch: Batch = BATCH, **changed: Any) -> Content:
    fields = {name: getattr(batch, name) for name in Content._fields}
    return Content(**(fields | changed))


def rows(change: Callable[[Tensor], Tensor]) -> Content:
    return content(annotations=change(BATCH.annotations.clone()))


def cell(row: int, column: int, value: float) -> Content:
    def change(annotations: Tensor) -> Tensor:
        annotations[row, column] = value
        return annotations

    return rows(change)


def boxes(convert: Callable[[Tensor], Tensor]) -> Content:
    """Return the batch with the four box columns (N, 4), as normalised corners, converted."""
    return rows(lambda annotations: torch.cat((annotations[:, :2], convert(corners(annotations))), 1))


def corners(annotations: Tensor) -> Tensor:
    centre, sides = annotations[:, 2:4], annotations[:, 4:6]
    return torch.cat((centre - sides / 2, centre + sides / 2), 1)


def one_truth(**truth: Any) -> Batch:
    return Recipe(((Truth("ordinary", **truth),),), strides=(8,), cells=(8, 8), classes=3).build()


def maps(change: Callable[[Tensor], None], level: int = 0) -> tuple[Tensor, ...]:
    changed = [each.clone() for each in BATCH.feature_maps]
    change(changed[level])
    return tuple(changed)


def spoil(value: float, *index: Any) -> Callable[[Tensor], None]:
    def change(level: Tensor) -> None:
        level[index] = value

    return change


SIZE = torch.tensor([192.0, 128.0])
TALL = torch.tensor([[0, 0, 0.9, 0.5, 0.1, 0.9], [0, 1, 0.95, 0.5, 0.05, 0.95], [1, 0, 0.92, 0.5, 0.1, 0.9]])
"""Rows (3, 6) of tall boxes at the right border."""


def wide(annotations: Tensor) -> Tensor:
    return TALL[:, [0, 1, 2, 3, 5, 4]]


LARGE = content(
    one_truth(),
    annotations=torch.tensor([[0, 0, 0.5, 0.5, 1.0, 1.0]]),
    feature_maps=(torch.zeros(1, 67, 40, 40),),
)
"""A ground truth of 320x320 px, and one level of stride 8."""
PLANTED: dict[str, tuple[Content, str, str, Severity, str]] = {
    "NaN in a row": (cell(1, 4, torch.nan), "row not finite", "ANN-1", Severity.NOT_FINITE, "row 1"),
    "label C": (
        cell(2, 1, 3),
        "label outside the head",
        "TAL-TGT-1",
        Severity.RAISES,
        "row 2 of the annotations names class 3, but the head has 3 classes",
    ),
    "label -1": (
        cell(0, 1, -1),
        "label outside the head",
        "TAL-TGT-1",
        Severity.WRONG_FORM,
        "names class -1",
    ),
    "label 0.5": (
        cell(0, 1, 0.5),
        "label outside the head",
        "TAL-TGT-1",
        Severity.WRONG_FORM,
        "names class 0.5",
    ),
    "image B": (
        cell(2, 0, 2),
        "image outside the batch",
        "ANN-1",
        Severity.RAISES,
        "image 2 of a batch of 2",
    ),
    "image -1": (cell(0, 0, -1), "image outside the batch", "ANN-1", Severity.RAISES, "image -1"),
    "out of order": (
        rows(lambda each: each.flip(0)),
        "rows not sorted",
        "ANN-1",
        Severity.RAISES,
        "falls at row 1",
    ),
    "negative width": (cell(1, 4, -0.2), "negative side", "ANN-1", Severity.WRONG_FORM, "exchanged corners"),
    "pixels": (
        rows(lambda each: each * torch.tensor([1, 1, 192, 128, 192, 128])),
        "rows in another form",
        "ANN-1",
        Severity.WRONG_FORM,
        "as cx, cy, w, h in pixels",
    ),
    "corners": (
        boxes(lambda each: each),
        "rows in another form",
        "ANN-1",
        Severity.WRONG_FORM,
        "as corners x1, y1, x2, y2",
    ),
    "corners in pixels": (
        boxes(lambda each: each * SIZE.repeat(2)),
        "rows in another form",
        "ANN-1",
        Severity.WRONG_FORM,
        "corners x1, y1, x2, y2 in pixels",
    ),
    "top left corner": (
        boxes(lambda each: torch.cat((each[:, :2], each[:, 2:] - each[:, :2]), 1)),
        "rows in another form",
        "ANN-1",
        Severity.WRONG_FORM,
        "a top left corner with width and height",
    ),
    "exchanged sides": (rows(wide), "rows in another form", "ANN-1", Severity.WRONG_FORM, "cx, cy, h, w"),
    "wholly outside": (cell(1, 2, 3.0), "box outside the image", "ANN-1", Severity.NOT_LEARNT, "row 1"),
    "partly outside": (cell(0, 2, 0.1), "box partly outside the image", "ANN-1", Severity.REMARK, "row 0"),
    "no width": (cell(0, 4, 0.0), "box without area", "TAL-CAND-2", Severity.NOT_LEARNT, "row 0"),
    "beyond the bins": (
        LARGE,
        "beyond the bins",
        "LOSS-DFL-1",
        Severity.NOT_LEARNT,
        "side is 164 px away, and 15 bins of stride 8 reach 120 px: LOSS-DFL-1 clamps it",
    ),
    "k above A": (
        content(hyperparameters=Hyperparameters(topk=1000)),
        "fewer anchors than k",
        "TAL-TOPK-2",
        Severity.RAISES,
        "topk is 1000, but an image has only 504 anchors",
    ),
    "topk2 above A": (
        content(hyperparameters=Hyperparameters(topk2=505)),
        "fewer anchors than k",
        "TAL-TOPK-2",
        Severity.RAISES,
        "topk2 is 505",
    ),
    "NaN distance": (
        content(feature_maps=maps(spoil(torch.nan, 1, 5, 2, 2))),
        "prediction not finite",
        "NONFINITE-2",
        Severity.NOT_FINITE,
        "1 of the distance logits at stride 8 (channel 5)",
    ),
    "infinite logits": (
        content(feature_maps=maps(spoil(torch.inf, 0, slice(64, 66)), 1)),
        "prediction not finite",
        "NONFINITE-2",
        Severity.NOT_FINITE,
        "class logits at stride 16 (2 channels, 64 to 65)",
    ),
    "saturated": (
        content(feature_maps=maps(spoil(30.0, 0, 64))),
        "saturated logits",
        "TAL-MET-1",
        Severity.REMARK,
        "384 class logits are 16.6",
    ),
    "mixed dtypes": (
        content(feature_maps=(BATCH.feature_maps[0].half(), *BATCH.feature_maps[1:])),
        "mixed dtypes",
        "PRE-1",
        Severity.WRONG_FORM,
        "float16 and float32",
    ),
    "annotations in float64": (
        rows(lambda each: each.double()),
        "mixed dtypes",
        "PRE-1",
        Severity.WRONG_FORM,
        "annotations are float64",
    ),
    "channels": (
        content(head=replace(BATCH.head, classes=4)),
        "shapes",
        "PRE-1",
        Severity.RAISES,
        "68 channels",
    ),
    "columns": (rows(lambda each: each[:, 1:]), "shapes", "ANN-1", Severity.RAISES, "annotations are (3, 5)"),
    "class weight 0": (
        content(head=replace(BATCH.head, class_weights=(1.0, 0.0, 1.0))),
        "class weights",
        "COR-7",
        Severity.NOT_LEARNT,
        "class 1 has the weight 0",
    ),
}
"""Inputs with one planted finding, its name, clause and severity, and a part of its sentence."""


@pytest.mark.parametrize("case", PLANTED)
def test_what_is_planted_is_found_first(case: str):
    planted, name, clause, severity, words = PLANTED[case]
    first = examine(Inputs(planted))[0]
    assert (first.name, first.clause, first.severity) == (name, clause, severity), first.sentence
    assert words in first.sentence
    assert 0 < first.count <= first.total


def test_predictions_that_overlap_no_ground_truth_are_a_remark():
    """Every box is a point, as with distances on a wrong scale; one box around its ground truth suffices."""
    points = [level.clone() for level in BATCH.feature_maps]
    for level in points:
        level[:, : 4 * BATCH.head.reg_max : BATCH.head.reg_max] = 40.0
    (finding,) = examine(Inputs(content(feature_maps=tuple(points))))
    assert (finding.name, finding.clause, finding.severity) == ("no overlap", "TAL-MET-1", Severity.REMARK)
    assert (finding.count, finding.total) == (3, 3)
    assert "is clamped to 0" in finding.sentence
    points[1] = BATCH.feature_maps[1]
    assert not examine(Inputs(content(feature_maps=tuple(points))))


def test_two_boxes_around_one_anchor_are_crowded():
    batch = one_truth()
    twice = torch.tensor([[0, 0, 12 / 64, 12 / 64, 8 / 64, 8 / 64], [0, 1, 12 / 64, 12 / 64, 8 / 64, 8 / 64]])
    (finding,) = examine(Inputs(content(batch, annotations=twice)))
    assert (finding.name, finding.clause, finding.count) == (
        "more ground truths than anchors",
        "TAL-CONF-1",
        1,
    )
    assert "2 ground truths compete for its 1 candidate" in finding.sentence
    assert examine(Inputs(content(batch, annotations=twice[:1]))) == []


def test_a_box_between_centres_has_no_candidate_where_no_side_is_widened():
    between = content(one_truth(), annotations=torch.tensor([[0, 0, 0.25, 0.25, 0.05, 0.05]]))
    (finding,) = examine(Inputs(between, DIALECTS["article"]))
    assert (finding.name, finding.severity) == ("no candidate", Severity.NOT_LEARNT)
    assert "this dialect widens no side" in finding.sentence


def test_both_branches_of_an_end_to_end_head_are_examined(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(TASKS, "e2e", E2E)
    both = content(task="e2e", feature_maps=BATCH.feature_maps * 2)
    assert examine(Inputs(both)) == []
    wrong = both._replace(feature_maps=BATCH.feature_maps + PLANTED["NaN distance"][0].feature_maps)
    (finding,) = examine(Inputs(wrong))
    assert "1 of the distance logits at stride 8 of one2one (channel 5)" in finding.sentence
    assert examine(Inputs(content(task="e2e")))[0].name == "shapes"


POSES = Recipe(
    ((Truth("ordinary"), Truth("ordinary", 1)), ()),
    strides=(8, 16, 32),
    cells=(16, 24),
    classes=3,
    keypoints=(2, 3),
    task="pose",
).build()
"""Two images of 192x128 px; rows (2, 12): image, class, cx, cy, w, h and two keypoints."""
ROTATED = content(
    task="obb",
    feature_maps=tuple(torch.nn.functional.pad(level, (0, 0, 0, 0, 0, 1)) for level in BATCH.feature_maps),
    annotations=torch.nn.functional.pad(ROWS, (0, 1)),
)
"""`BATCH` with an angle of zero in feature maps and rows (3, 7)."""


def posed(boxes: Tensor) -> Content:
    """Return rows of poses with the given box columns (2, 4)."""
    rows = POSES.annotations.clone()
    rows[:, 2:6] = boxes
    return content(POSES, annotations=rows)


def test_ordinary_poses_and_rotated_boxes_have_no_finding():
    assert examine(Inputs(content(POSES))) == []
    assert examine(Inputs(ROTATED)) == []


def test_boxes_of_poses_are_examined_as_those_of_detection():
    pixels = posed(POSES.annotations[:, 2:6] * SIZE.repeat(2))
    assert examine(Inputs(pixels))[0].name == "rows in another form"
    poses = Recipe(
        ((Truth("ordinary"),),), strides=(8,), cells=(8, 8), classes=3, keypoints=(1, 2), task="pose"
    ).build()
    large = poses.annotations.clone()
    large[:, 2:6] = torch.tensor([0.5, 0.5, 1.0, 1.0])
    maps = (torch.zeros(1, 69, 40, 40),)  # an input of 320x320 px
    assert "beyond the bins" in {
        finding.name for finding in examine(Inputs(content(poses, annotations=large, feature_maps=maps)))
    }


def test_poses_without_a_candidate_and_crowded_poses_are_found():
    between = posed(torch.tensor([[0.25, 0.25, 0.005, 0.005]] * 2))
    names = {finding.name for finding in examine(Inputs(between, DIALECTS["article"]))}
    assert "no candidate" in names
    around_one = posed(torch.tensor([[12 / 192, 12 / 128, 8 / 192, 8 / 128]] * 2))
    names = {finding.name for finding in examine(Inputs(around_one, DIALECTS["article"]))}
    assert "more ground truths than anchors" in names


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (ROTATED._replace(annotations=ROWS), "expected (N, 7) rows of image, class, cx, cy, w, h, angle"),
        (ROTATED._replace(task="detect", feature_maps=BATCH.feature_maps), "expected (N, 6) rows of image, class, cx,"),
        (
            content(POSES, annotations=POSES.annotations[:, :9]),
            "(2, 9): expected (N, 12) rows of image, class, cx, cy, w, h, 2 keypoints of x, y, visibility",
        ),
        (
            ROTATED._replace(feature_maps=BATCH.feature_maps),
            "68 channels are 64 distance logits, 3 class logits, 1 angle",
        ),
        (
            content(POSES, feature_maps=BATCH.feature_maps),
            "73 channels are 64 distance logits, 3 class logits, 6 keypoints",
        ),
    ],
    ids=["no angle", "angle", "one keypoint", "maps without angle", "maps without keypoints"],
)  # fmt: skip
def test_shapes_are_compared_with_those_of_the_task(wrong: Content, words: str):
    (shape,) = [finding for finding in examine(Inputs(wrong)) if finding.name == "shapes"]
    assert words in shape.sentence
    assert shape.severity is Severity.RAISES


def test_keypoints_of_the_head_are_those_of_the_task():
    without = content(POSES, head=BATCH.head, feature_maps=BATCH.feature_maps, annotations=ROWS)
    (finding,) = examine(Inputs(without))
    assert "head.keypoints is None: task 'pose' expects the number of keypoints" in finding.sentence
    (finding,) = examine(Inputs(content(head=POSES.head)))
    assert "head.keypoints is (2, 3): task 'detect' expects None" in finding.sentence
    assert (finding.clause, finding.severity) == ("POSE-IN-1", Severity.RAISES)


@pytest.mark.parametrize(
    ("numbers", "choices", "words"),
    [
        (Hyperparameters(topk=1000), {"k_cut": True}, None),
        (Hyperparameters(topk=1000), {"built_in_k": BuiltInK.TEN}, None),
        (Hyperparameters(topk2=505), {"topk2_ignored": True}, None),
        (Hyperparameters(topk=503), {"k_offset": 2}, "topk is 505, but an image has only 504 anchors"),
    ],
    ids=["k_cut", "built_in_k", "topk2_ignored", "k_offset"],
)
def test_too_few_anchors_are_found_where_the_dialect_rejects_the_batch(
    numbers: Hyperparameters, choices: dict[str, Any], words: str | None
):
    batch, dialect = replace(BATCH, hyperparameters=numbers), replace(NEWEST, name="varied", **choices)
    found = examine(Inputs(content(batch), dialect))
    rule = rejection_for(batch, dialect)
    assert (rule is None) is (words is None)
    assert [finding.clause for finding in found] == ([] if rule is None else [rule.clause])
    assert all(words is not None and words in finding.sentence for finding in found)


def test_k_of_a_branch_is_compared_with_the_number_of_anchors():
    few = Recipe(((Truth("ordinary"),),), strides=(8,), cells=(3, 3), classes=3).build()
    both = content(
        few, task="e2e", feature_maps=few.feature_maps * 2, hyperparameters=Hyperparameters(topk=1)
    )
    sentences = [
        finding.sentence for finding in examine(Inputs(both)) if finding.name == "fewer anchors than k"
    ]
    assert [text.partition(",")[0] for text in sentences] == ["topk of one2many is 10"]
    assert rejection_for(Batch(*both), NEWEST) is not None


def test_the_verb_agrees_with_the_number_of_rows():
    for count, words in ((1, "row 0 of the annotations names"), (2, "rows 0, 1 of the annotations name ")):
        rows = BATCH.annotations.clone()
        rows[:count, 1] = 7
        assert words in examine(Inputs(content(annotations=rows)))[0].sentence
        outside = BATCH.annotations.clone()
        outside[:count, 2] = 3.0
        lies = (
            "the box of row 0 of the annotations lies"
            if count == 1
            else "the boxes of rows 0, 1 of the annotations lie "
        )
        assert lies in examine(Inputs(content(annotations=outside)))[0].sentence


def test_rows_out_of_order_are_a_remark_in_a_dialect_that_accepts_them():
    (finding,) = examine(Inputs(PLANTED["out of order"][0], DIALECTS["article"]))
    assert finding.severity is Severity.REMARK


def test_the_step_of_a_recorded_batch_is_named():
    planted = PLANTED["NaN distance"][0]
    (finding,) = examine(Inputs(planted, circumstances=Circumstances(step=31)))
    assert "NaN or infinite, at step 31: " in finding.sentence


def test_dtypes_that_were_stored_as_one_are_named():
    (finding,) = examine(Inputs(content(), circumstances=Circumstances(dtypes=("float16", "float32"))))
    assert finding.name == "mixed dtypes"


def test_the_worst_is_first_and_consequences_are_left_out():
    planted = rows(lambda each: each.flip(0) * torch.tensor([1, 1, 192, 128, 192, 128]))
    names = [finding.name for finding in examine(Inputs(planted))]
    assert names == ["rows not sorted", "rows in another form"]


@pytest.mark.parametrize("path", recorded_cases(), ids=lambda path: path.stem)
def test_recorded_batches_have_no_finding(path: Any):
    assert examine(read_inputs(path)) == []


@pytest.mark.slow
def test_ordinary_batches_have_no_finding():
    found: dict[str, list[Finding]] = {}
    for recipe in sample_recipes(ORDINARY, ORDINARY_BATCHES):
        if findings := examine(Inputs(content(recipe.build()))):
            found[str(recipe)] = findings
    assert found == {}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
def test_the_limit_of_saturation_is_that_of_the_dtype(dtype: torch.dtype):
    limit = torch.tensor(saturation(dtype), dtype=torch.float64).to(dtype)
    near = [limit, torch.nextafter(limit, torch.zeros_like(limit)), torch.nextafter(limit, limit + 1)]
    below = [value for value in near if float(value) < saturation(dtype)]
    assert all(bool(value.sigmoid() == 1) is (float(value) >= saturation(dtype)) for value in near)
    assert below


def test_a_matching_leaves_over_as_few_as_possible():
    assert unmatched({0: [1, 2], 1: [1], 2: [2]}) == [2]
    assert unmatched({0: [1, 2], 1: [1], 2: [2, 3]}) == []
    assert unmatched({0: [1], 1: [1, 2], 2: [2, 3], 3: [3]}) == [3]
    assert unmatched({0: [5, 6], 1: [5], 2: [6, 7], 3: [7, 8], 4: [5, 8, 9]}) == []
