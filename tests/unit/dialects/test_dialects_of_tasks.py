"""Dialects of rotated boxes and of end-to-end heads: tables, conversion between tasks, differences, identification."""

from dataclasses import replace
from typing import ClassVar

import pytest

from tal_conformance.batches.recipe import Recipe
from tal_conformance.dialects.choices import choices_between, differ, failure_on
from tal_conformance.dialects.comparison import compare, format_comparison
from tal_conformance.dialects.distinguishing import RELEASE_CHOICES_BY_TASK, distinguishing
from tal_conformance.dialects.evidence import EVIDENCE_BY_TASK, distinguishing_recipe
from tal_conformance.dialects.identification import identify
from tal_conformance.dialects.moves import moves_from
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Subject
from tal_reference import DIALECTS, NEWEST, Dialect, parse
from tal_reference.choices import choices_of, spelling, title
from tal_reference.eras_of_tasks import ERAS_BY_TASK, dialect_in, dialects_of, for_task

OTHERS = ("e2e", "obb")
EDGES = [(task, number) for task in OTHERS for number in range(1, len(ERAS_BY_TASK[task]))]


def reference(dialect: Dialect, task: str) -> Implementation:
    """Return the reference in a dialect, with one task."""
    return replace(implementation_from(ReferenceAdapter(dialect), dialect.name), tasks=(task,))


@pytest.mark.parametrize(("task", "number"), EDGES)
def test_the_batch_of_an_era_distinguishes_it_from_the_era_before(task: str, number: int):
    before, era = ERAS_BY_TASK[task][number - 1], ERAS_BY_TASK[task][number]
    recipe = distinguishing_recipe(era, task)
    if era.clause == "ANN-1":  # the result for rows out of order is undefined
        assert before.dialect.rows_sorted != era.dialect.rows_sorted
    else:
        assert differ(before.dialect, era.dialect, recipe)
        held = replace(reference(era.dialect, task), dialect=before.dialect)
        assert failure_on(Subject(held, "cpu"), recipe) is not None
    assert failure_on(Subject(reference(era.dialect, task), "cpu"), recipe) is None


def test_every_era_of_every_compared_task_has_a_batch():
    for task, evidence in EVIDENCE_BY_TASK.items():
        assert list(evidence) == [era.first for era in ERAS_BY_TASK[task][1:]]


@pytest.mark.parametrize("task", OTHERS)
def test_every_choice_of_releases_is_followed_and_has_a_strategy(task: str):
    differing = {
        name
        for before in dialects_of(task).values()
        for name in choices_of(task)
        if getattr(before, name) != getattr(NEWEST, name)
    }
    # the order of rows has no result that a batch could show
    assert differing - {"rows_sorted"} == set(RELEASE_CHOICES_BY_TASK[task])
    assert all(distinguishing(name, task) is not None for name in RELEASE_CHOICES_BY_TASK[task])


def test_a_choice_that_the_reference_of_a_task_does_not_follow():
    with pytest.raises(LookupError, match="does not follow the choice 'overlap'"):
        distinguishing("overlap", "obb")


def test_dialects_are_converted_between_tasks():
    """A dialect stands for the releases after which it is named, with the same changed choices."""
    assert for_task(parse("ultralytics-8.4.38"), "detect") is DIALECTS["ultralytics-8.4.127"]
    assert for_task(DIALECTS["ultralytics-8.4.7"], "obb") == dialects_of("obb")["ultralytics-8.4.7"]
    assert for_task(DIALECTS["ultralytics-8.0.51"], "obb") is None
    assert for_task(parse("ultralytics-8.4.190, overlap=iou"), "obb") is None
    composed = for_task(parse("ultralytics-8.3.253, overlap=iou"), "e2e")
    assert composed is not None
    assert (composed.weighted_branches, composed.overlap.value) == (False, "iou")
    assert title(dialects_of("e2e")["ultralytics-8.3.253"]) == "ultralytics-8.3.253"
    assert dialect_in((8, 0, 234), "obb") is None


@pytest.mark.parametrize("task", ["detect", *OTHERS])
def test_a_changed_choice_survives_its_notation(task: str):
    """In "ultralytics-8.3.253, angle_term", the choice has the value of detection's dialect of the same name."""
    for official in dialects_of(task).values():
        for move in [{}, *moves_from(official, task)]:
            changed = official.but(**move) if move else official
            for text in (changed.name, spelling(changed)):
                found = for_task(parse(text), task)
                assert found is not None, text
                assert [n for n in choices_of(task) if getattr(found, n) != getattr(changed, n)] == [], text
            assert title(changed) == changed.name


def test_a_choice_that_a_task_does_not_follow_must_have_the_value_of_the_release():
    assert for_task(parse("ultralytics-8.4.190, overlap=ciou, angle_term=no"), "obb") == NEWEST.but(
        angle_term=False
    )
    assert for_task(parse("ultralytics-8.3.253, angle_term=no"), "detect") is None
    partly = for_task(parse("ultralytics-8.3.253, box_variance=0.0, turned_distances"), "obb")
    assert partly == dialects_of("obb")["ultralytics-8.3.253"].but(turned_distances=True)


def test_one_release_has_a_dialect_for_each_of_its_tasks():
    """An adapter may declare the dialects of single tasks; others are those of the same releases."""

    class Adapter(ReferenceAdapter):
        dialects: ClassVar = {"obb": "ultralytics-8.4.83"}

    implementation = implementation_from(Adapter(DIALECTS["ultralytics-8.4.127"]), "mine")
    assert implementation.of_task("obb").dialect.widened_truths
    assert not implementation.of_task("detect").dialect.widened_truths
    other = implementation.with_dialect(DIALECTS["ultralytics-8.0.51"])
    with pytest.raises(ProtocolViolation, match="other dialects are not specified for this task"):
        other.of_task("obb")
    with pytest.raises(ProtocolViolation, match="declares only detect"):
        replace(other, tasks=("detect",)).of_task("obb")


@pytest.mark.parametrize(
    "dialects", [
        ["obb"], {"boxes": "ultralytics-8.4.83"}, {"obb": 1}, {"pose": "ultralytics-8.3.253"},
        {"obb": "ultralytics-8.4.190, overlap=iou"},
    ],
)  # fmt: skip
def test_wrong_declarations_of_dialects(dialects: object):
    adapter = ReferenceAdapter()
    adapter.dialects = dialects  # type: ignore[attr-defined]  # as a user's adapter may
    with pytest.raises(ProtocolViolation):
        implementation_from(adapter, "mine")


def test_the_differences_of_two_dialects_of_rotated_boxes(monkeypatch: pytest.MonkeyPatch):
    """Every choice has its own smallest batch, and no choice of detection alone is listed."""
    before, after = dialects_of("obb")["ultralytics-8.4.7"], dialects_of("obb")["ultralytics-8.4.79"]
    monkeypatch.setattr("tal_conformance.dialects.comparison.BATCHES_PER_STRATEGY", 1)
    monkeypatch.setattr("tal_conformance.dialects.comparison.ORDINARY_BATCHES", 4)
    comparison = compare(reference(before, "obb"), reference(after, "obb"))
    assert [difference.choice.name for difference in comparison.differences] == [
        "small_box_floor", "rows_sorted",
    ]  # fmt: skip
    text = "\n".join(format_comparison(comparison))
    assert "(ultralytics-8.4.79), task obb" in text
    assert not comparison.unexpected


def test_a_choice_without_effect_alone_is_shown_together_with_the_one_it_needs():
    """Ground truths are replaced by widened ones only where small boxes are widened at all."""
    before, after = dialects_of("obb")["ultralytics-8.3.253"], dialects_of("obb")["ultralytics-8.4.38"]
    (choice,) = [c for c in choices_between(before, after, "obb") if c.name == "widened_truths"]
    assert choice.recipe is not None
    assert choice.recipe.task == "obb"
    assert not differ(before, replace(before, widened_truths=True), choice.recipe)
    assert differ(choice.base, choice.changed, choice.recipe)


def test_the_sum_of_both_branches_is_a_choice_of_its_own():
    """Weights of branches do not follow from the support of topk2."""
    recipe = Recipe(strides=(8, 16), predictions="near", task="e2e")
    added = replace(NEWEST, weighted_branches=False)
    assert differ(NEWEST, added, recipe)
    assert failure_on(Subject(replace(reference(added, "e2e"), dialect=NEWEST), "cpu"), recipe) is not None
    assert failure_on(Subject(reference(added, "e2e"), "cpu"), recipe) is None


@pytest.mark.slow
@pytest.mark.parametrize(
    ("task", "dialect", "words"),
    [
        ("obb", replace(NEWEST, box_variance=0.0), "no variance in the box loss"),
        ("e2e", replace(NEWEST, weighted_branches=False), "branches added without weights"),
    ],
)
def test_one_changed_choice_is_identified(task: str, dialect: Dialect, words: str):
    implementation = replace(reference(dialect, task), dialect=NEWEST)
    identification = identify(implementation, [NEWEST], seconds=60)
    assert words in identification.sentence
