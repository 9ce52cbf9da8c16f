"""`Task`, the description of a loss family: its fields, the tables with a row per task, and unknown tasks."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from tal_conformance.batches.content.prediction_kinds import PREDICTION_KINDS_BY_TASK
from tal_conformance.batches.content.truth_kinds import KINDS_BY_TASK
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards.catalogue import HAZARDS_BY_TASK
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES_BY_TASK
from tal_conformance.checks.relations.relations import RELATIONS_BY_TASK
from tal_conformance.core import task as tasks
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.outcome import STAGE_OF_FIELD, Stages
from tal_conformance.core.task import DETECT, TASKS, Extra, HeadField, StageName, Task, stage_name
from tal_conformance.core.verdicts import Judgement
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics_losses import CRITERIA
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.rounding.exact_loss import LOSS_ITEMS_BY_TASK
from tal_conformance.judgement.rounding.uncertainty import ROUNDING_UNITS_BY_TASK
from tal_conformance.mutation.planted_faults import FAULTS_BY_TASK
from tal_conformance.pictures.picture import LAYERS_BY_TASK
from tal_reference import Head, Hyperparameters

ROTATED = dataclasses.replace(
    DETECT,
    name="rotated",
    box_columns=(*DETECT.box_columns, "angle"),
    fields=(*DETECT.fields, HeadField("angle", "angle", lambda head: 1)),
    extras=(Extra("masks"), Extra("prototypes", predicted=True)),
    branches=("one2many", "one2one"),
    branch_task="",
)
"""A task that differs from detection in everything that a batch depends on."""


@pytest.fixture
def rotated(monkeypatch: pytest.MonkeyPatch) -> Task:
    """Register the task ROTATED, and return it."""
    monkeypatch.setitem(TASKS, ROTATED.name, ROTATED)
    return ROTATED


def rotated_batch() -> Batch:
    maps = (torch.zeros(2, 4 * 4 + 3 + 1, 4, 6),) * 2
    annotations = torch.tensor([[0, 2, 0.5, 0.5, 0.25, 0.5, 1.0], [1, 0, 0.5, 0.5, 0.25, 0.25, -0.5]])
    extras = {"masks": torch.ones(2, 8, 12, dtype=torch.uint8), "prototypes": torch.rand(2, 5, 8, 12)}
    return Batch(maps, annotations, Head((8,), 3, 4), task="rotated", extras=extras)


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_the_facts_of_a_task_agree_with_each_other(task: Task):
    """A task's stage names are unique constants of `StageName`; its terms and items refer to existing fields."""
    constants = {value for name, value in vars(StageName).items() if name.isupper()}
    names = [stage.name for stage in task.stages]
    assert len(set(names)) == len(names)
    assert set(names) <= constants
    fields = {field.name for field in task.fields}
    assert all(set(term.reads) <= fields for term in task.terms)
    assert all(hasattr(Hyperparameters(), term.gain) for term in task.terms)
    assert set(task.stages_of("term")) == {term.name for term in task.terms} == set(task.item_of)
    assert all(task.terms[place].name == stage for stage, place in task.item_of.items())
    assert [len(task.stages_of(kind)) for kind in ("total", "gradients")] == [1, 1]


def test_detection():
    """Stages, items and channels of detection have the values that case files, logs and reports rely on."""
    assert list(DETECT.clauses) == [
        *("decode", "candidates", "overlap", "metric", "top-k", "conflict", "targets", "normalisation"),
        *("cls", "box", "dfl", "total", "gradients"),
    ]
    assert DETECT.item_of == {"cls": 1, "box": 0, "dfl": 2}
    assert DETECT.annotation_columns == 6
    head = Head((8, 16), 3, 4)
    assert DETECT.field("distances").width(head) == 16
    assert DETECT.channels(head) == head.channels == 19
    with pytest.raises(KeyError, match="no head field 'angle'"):
        DETECT.field("angle")


ROWS: dict[str, Mapping[str, object]] = {
    "kinds of ground truths": KINDS_BY_TASK,
    "kinds of predictions": PREDICTION_KINDS_BY_TASK,
    "hazards": HAZARDS_BY_TASK,
    "strategies": STRATEGIES_BY_TASK,
    "criteria of the Ultralytics adapter": CRITERIA,
    "loss items of the reference": LOSS_ITEMS_BY_TASK,
    "rounding units of the loss": ROUNDING_UNITS_BY_TASK,
    "relations": RELATIONS_BY_TASK,
    "layers of pictures": LAYERS_BY_TASK,
    "planted faults": FAULTS_BY_TASK,
}
"""All tables of the suite that need a row for each task."""


OPEN: dict[str, list[str]] = {}
"""Tables without a row for a task, by the task's name."""


OF_BRANCHES = ("loss items of the reference", "rounding units of the loss")
"""Tables that are read for a branch only, which has a row of its own task."""


def missing_rows(task: Task) -> list[str]:
    """Return the names of the tables in which a task has no row, or an empty row."""
    return [
        name
        for name, table in ROWS.items()
        if not table.get(task.name) and not (name in OF_BRANCHES and task.branch_task)
    ]


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_task_is_complete(task: Task):
    """Every table of the suite has a row for every task, except for rows that `OPEN` names."""
    assert missing_rows(task) == OPEN.get(task.name, [])


@pytest.mark.parametrize("table", ROWS)
def test_a_task_without_a_row_is_incomplete(table: str, monkeypatch: pytest.MonkeyPatch):
    """If a task has no row in one table, `missing_rows` returns the name of that table."""
    for name, rows in ROWS.items():
        if name != table:
            monkeypatch.setitem(rows, ROTATED.name, rows[DETECT.name])  # type: ignore[arg-type] # tables are dicts
    assert missing_rows(ROTATED) == [table]


def test_no_table_has_a_row_of_an_unknown_task():
    """The keys of every table are names of tasks, without misspelt names."""
    assert all(set(table) <= set(TASKS) for table in ROWS.values())


@pytest.mark.parametrize("task", TASKS.values(), ids=TASKS)
def test_every_stage_of_a_task_has_planted_faults(task: Task):
    """Every stage of a task has at least one planted fault, which proves that the stage is judged."""
    faults = FAULTS_BY_TASK[task.name].values()
    assert {fault.stage for fault in faults} == set(task.clauses)


def test_every_field_of_the_stages_belongs_to_a_stage():
    """Each field of `Stages`, the intermediate values of an assigner, is judged at a stage."""
    assert list(STAGE_OF_FIELD) == [field.name for field in dataclasses.fields(Stages)]
    assert set(STAGE_OF_FIELD.values()) < set(DETECT.clauses)


def test_the_log_line_lists_stages_and_terms_in_order():
    """The run log's description of a task lists stages and terms in order."""
    line = DETECT.as_log_line()
    assert line["terms"] == ["box", "cls", "dfl"]
    assert line["stages"][0] == {"name": "decode", "clause": "DEC-2"}
    assert [stage["name"] for stage in line["stages"]] == list(DETECT.clauses)


def test_stages_of_named_branches_begin_with_the_branch():
    """A judgement of a task with two branches has the stages of both, named such as "one2one/top-k"."""
    assert stage_name(StageName.TOP_K, "") == "top-k"
    assert stage_name(StageName.TOP_K, "one2one") == "one2one/top-k"
    judgement = Judgement(ROTATED)
    assert len(judgement.stages) == 2 * len(DETECT.stages)
    assert judgement.stages["one2one/top-k"].clause == "TAL-TOPK-1"


@pytest.mark.usefixtures("rotated")
def test_a_batch_of_another_task(tmp_path: Path):
    """A batch of a new task is saved and loaded with its extra tensors. Its id depends on these tensors."""
    batch = rotated_batch()
    assert batch.family is ROTATED
    assert "task rotated" in batch.describe()
    batch.save(tmp_path / "case.safetensors")
    loaded = Batch.load(tmp_path / "case.safetensors")
    assert loaded.id == batch.id
    assert loaded.task == "rotated"
    assert all(torch.equal(loaded.extras[name], batch.extras[name]) for name in batch.extras)
    changed = dataclasses.replace(batch, extras=batch.extras | {"masks": batch.extras["masks"] * 2})
    assert changed.id != batch.id


@pytest.mark.usefixtures("rotated")
def test_extras_follow_the_device_and_predicted_ones_the_dtype():
    """`Batch.to` converts the dtype of extra tensors that the head predicts (prototypes), not of annotated masks."""
    batch = rotated_batch().to("meta", torch.float64)
    assert {tensor.device.type for tensor in batch.extras.values()} == {"meta"}
    assert batch.extras["masks"].dtype == torch.uint8
    assert batch.extras["prototypes"].dtype == torch.float64


@pytest.mark.usefixtures("rotated")
@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"extras": {}}, r"extras are \[\]; task 'rotated' expects \['masks', 'prototypes'\]"),
        ({"annotations": torch.zeros(0, 6)}, r"expected \(N, 7\)"),
        ({"head": Head((8,), 4, 4)}, r"expected \(B, 21, H, W\)"),
        ({"task": "detect"}, "got 2 feature maps for 1 strides, expected one per stride"),
        (
            {"feature_maps": (torch.zeros(2, 20, 4, 6),)},
            "got 1 feature maps for 1 strides, expected 2 per stride, one of each branch",
        ),
        (
            {"feature_maps": (torch.zeros(2, 20, 4, 6), torch.zeros(2, 20, 6, 4))},
            r"feature map 1 is \(2, 20, 6, 4\), expected \(2, 20, 4, 6\) as in the branch one2many",
        ),
        (
            {"task": "masks"},
            "unknown task 'masks'. Known tasks: detect, obb, e2e, pose, segment, pose26, segment26, rotated",
        ),
    ],
)
def test_a_batch_that_does_not_fit_its_task_is_rejected(change: dict[str, object], message: str):
    """Wrong extra tensors, columns or channels, or an unknown task, raise ValueError with found and expected value."""
    with pytest.raises(ValueError, match=message):
        dataclasses.replace(rotated_batch(), **change)  # type: ignore[arg-type] # wrong on purpose


def test_extras_on_another_device_are_rejected(rotated: Task):
    """A batch with extra tensors on another device than the feature maps raises ValueError."""
    batch = rotated_batch()
    extras = {name: tensor.to("meta") for name, tensor in batch.extras.items()}
    with pytest.raises(ValueError, match="extra 'masks' is on meta, the feature maps on cpu"):
        dataclasses.replace(batch, extras=extras)


@pytest.mark.parametrize("unknown", ["task", "extra"])
def test_a_case_file_of_an_unknown_task_or_extra_is_rejected(unknown: str, tmp_path: Path):
    """Loading a case file with an unknown task or an unexpected extra tensor raises InvalidCase."""
    known = rotated_batch_file(tmp_path, unknown)
    with pytest.raises(InvalidCase, match="unknown task 'rotated'" if unknown == "task" else "extras are"):
        Batch.load(known)


def rotated_batch_file(folder: Path, unknown: str) -> Path:
    """Write a case file of an unknown task if `unknown` is "task", else of detection with an extra tensor."""
    path = folder / "case.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        if unknown == "task":
            patch.setitem(TASKS, ROTATED.name, ROTATED)
            rotated_batch().save(path)
        else:
            patch.setitem(TASKS, "detect", dataclasses.replace(DETECT, extras=(Extra("masks"),)))
            batch = Batch(
                (torch.zeros(1, 19, 4, 4),),
                torch.zeros(0, 6),
                Head((8,), 3, 4),
                extras={"masks": torch.ones(2)},
            )
            batch.save(path)
    return path


def test_the_task_of_detection_leaves_ids_and_files_unchanged(tmp_path: Path):
    """Case files of detection store neither task nor extras, so that older versions can read them."""
    batch = Recipe(((Truth("ordinary"),),)).build()
    batch.save(tmp_path / "case.safetensors")
    header = (tmp_path / "case.safetensors").read_bytes()[:2000]
    assert b"task" not in header
    assert b"extra" not in header


def test_an_adapter_names_its_tasks():
    """An adapter without tasks supports detection; an adapter with an unknown task is rejected."""
    assert implementation_from(ReferenceAdapter(), "reference").tasks == (
        *("detect", "obb", "e2e", "pose", "segment", "pose26", "segment26"),
    )
    for wrong in ("detect", ("detect", "masks"), (), 3):
        adapter = ReferenceAdapter()
        adapter.tasks = wrong  # type: ignore[attr-defined] # an attribute that adapters may add
        with pytest.raises(
            ProtocolViolation, match=r"expected a tuple of names among detect|Known tasks: detect"
        ):
            implementation_from(adapter, "mine")


def test_the_name_of_every_task_is_its_key():
    """The keys of TASKS are the names of the tasks."""
    assert all(name == task.name for name, task in tasks.TASKS.items())
