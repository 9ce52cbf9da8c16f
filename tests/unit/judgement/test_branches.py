"""Judging end-to-end losses: exposed and hidden branches, their weights, and results of one branch only."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.core.outcome import Loss, Outcome
from tal_conformance.core.outcome_tensors import equal_bits, named_tensors
from tal_conformance.core.task import E2E
from tal_conformance.core.verdicts import Divergence, Judgement, StageJudgement, State, Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.outcome_file import CorruptOutcome, StoredOutcome, load, store
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.branches import judge_branches
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.judge import judge
from tal_reference import NEWEST, Hyperparameters
from tal_reference.eras_of_tasks import dialects_of

RECIPE = Recipe(
    images=((Truth("ordinary"), Truth("huge", 1)), (Truth("ordinary", 1, (5, 3)),)),
    cells=(4, 6),
    strides=(8, 16),
    classes=3,
    reg_max=4,
    predictions="near",
    hyperparameters=Hyperparameters(updates=2, epochs=5),
    task=E2E.name,
)
BATCH = RECIPE.build()
Change = Callable[[Loss], Loss]


class Changing(ReferenceAdapter):
    """The reference's end-to-end loss, changed by a function."""

    tasks = (E2E.name,)
    exposes_stages = False

    def __init__(self, change: Change, dialect: Any = NEWEST) -> None:
        super().__init__(dialect)
        self.name, self._change = "changing", change

    def loss(self, *arguments: Any) -> Loss:
        """Return the reference's loss after the change."""
        return self._change(super().loss(*arguments))

    assign = None  # type: ignore[assignment] # a loss alone


def changing(change: Change, dialect: Any = NEWEST) -> Implementation:
    return implementation_from(Changing(change, dialect), "changing")


def hidden(loss: Loss) -> Loss:
    return replace(loss, branches=None)


def as_one_number(loss: Loss) -> Loss:
    """Return a loss that is a single number: neither branches nor items."""
    return Loss(loss.total.sum(), None)  # type: ignore[arg-type] # items may be None


@pytest.mark.parametrize(
    "change", [lambda loss: loss, hidden, as_one_number], ids=["exposed", "hidden", "one number"]
)
@pytest.mark.parametrize("dialect", ["ultralytics-8.4.190", "ultralytics-8.4.7", "ultralytics-8.3.253"])
def test_a_right_loss_conforms_whatever_it_exposes(change: Change, dialect: str):
    implementation = changing(change, dialects_of(E2E.name)[dialect])
    judgement = judge_against_reference(Subject(implementation, "cpu"), BATCH, each_term=True)
    assert not judgement.verdict.fails
    assert list(judgement.stages) == list(E2E.clauses)
    joint = {stage.name: judgement.stages[stage.name].state for stage in E2E.joint}
    shown = {"weights", "total", "gradients"} | ({"items"} if change is not as_one_number else set())
    assert {name for name, state in joint.items() if state is State.AGREES} == shown


def test_official_losses_conform():
    judgement = judge_against_reference(Subject(find("ultralytics"), "cpu"), BATCH, each_term=True)
    assert not judgement.verdict.fails
    assert all(stage.state is State.AGREES for stage in judgement.stages.values())


def test_the_dialect_before_8_4_0_adds_the_branches():
    """E2E-3: a loss of one of the two kinds diverges in the dialect of the other."""
    newest, old = NEWEST, dialects_of(E2E.name)["ultralytics-8.3.253"]
    for own, other in ((newest, old), (old, newest)):
        judged = replace(changing(lambda loss: loss, own), dialect=other)
        with pytest.raises(Failure):
            judge_against_reference(Subject(judged, "cpu"), BATCH)


def failing_stage(change: Change) -> tuple[str, str]:
    with pytest.raises(Failure) as caught:
        judge_against_reference(Subject(changing(change), "cpu"), BATCH)
    return caught.value.stage, caught.value.clause


def times(loss: Loss, factor: float) -> Loss:
    """Return a loss whose total is multiplied by a factor."""
    return replace(loss, total=loss.total * factor)


@pytest.mark.parametrize("show", [lambda loss: loss, hidden], ids=["exposed", "hidden"])
def test_wrong_factors_of_both_branches_are_weights(show: Change):
    assert failing_stage(lambda loss: show(times(loss, 1.25))) == ("weights", "E2E-4")


@pytest.mark.parametrize("show", [lambda loss: loss, hidden], ids=["exposed", "hidden"])
def test_a_total_that_is_not_the_sum(show: Change):
    def change(loss: Loss) -> Loss:
        # one percent more, with the right gradient
        return show(replace(loss, total=loss.total * 1.01 - 0.01 * (loss.total - loss.total.detach())))

    assert failing_stage(change) == ("total", "E2E-3")


@pytest.mark.parametrize("show", [lambda loss: loss, hidden], ids=["exposed", "hidden"])
def test_items_of_another_branch(show: Change):
    def change(loss: Loss) -> Loss:
        assert loss.branches is not None
        return show(replace(loss, items=loss.branches["one2many"].items))

    assert failing_stage(change) == ("items", "E2E-3")


def test_no_gradient_on_one_branch():
    """E2E-6: the total is right, but nothing flows into one2one."""

    def change(loss: Loss) -> Loss:
        assert loss.branches is not None
        one = 0.55 * loss.branches["one2one"].total
        return replace(loss, total=loss.total - one + one.detach())

    assert failing_stage(change) == ("gradients", "E2E-6")


@pytest.mark.parametrize(
    ("branches", "message"),
    [
        (lambda loss: {"one2one": loss.branches["one2one"]}, r"Loss.branches is \['one2one'\]"),
        (lambda loss: {**loss.branches, "third": loss}, "'one2many', 'one2one', 'third'"),
        (
            lambda loss: "both",
            "Loss.branches is 'both', expected None or a dict with a Loss for one2many and for",
        ),
    ],
)
def test_a_missing_branch_is_an_error(branches: Any, message: str):
    """A loss that exposes one branch only violates the protocol: the other branch is not skipped."""
    with pytest.raises(ImplementationFailed, match=message):
        execute(changing(lambda loss: replace(loss, branches=branches(loss))), BATCH)


def test_an_assignment_without_a_branch_is_an_error():
    def change(loss: Loss) -> Loss:
        assert loss.branches is not None
        return replace(loss, assignment=loss.branches["one2one"].assignment)

    with pytest.raises(ImplementationFailed, match=r"expected them in the losses of Loss\.branches"):
        execute(changing(change), BATCH)


def test_an_outcome_that_lacks_a_branch_is_not_judged():
    outcome = execute(find("reference"), BATCH)
    alone = replace(outcome, branches={"one2one": outcome.branches["one2one"]})
    with pytest.raises(
        ValueError, match=r"has the branches \['one2one'\], expected \['one2many', 'one2one'\]"
    ):
        judge(alone, Expectation(BATCH, NEWEST))


def test_the_assigner_alone_is_judged_on_both_branches():
    outcome = execute(find("reference"), BATCH, alone=True)
    judgement = judge(outcome, Expectation(BATCH, NEWEST))
    assert judgement.stages["one2one/top-k"].state is State.AGREES
    assert judgement.stages["one2many/top-k"].state is State.AGREES
    assert judgement.stages["total"].state is State.NOT_SHOWN


@pytest.mark.parametrize("change", [lambda loss: loss, hidden], ids=["exposed", "hidden"])
def test_an_outcome_file_keeps_the_branches(change: Change, tmp_path: Path):
    stored = StoredOutcome(BATCH.id, "changing", "1", NEWEST.name, "cpu", execute(changing(change), BATCH))
    store(tmp_path / "case.outcome", stored)
    back = load(tmp_path / "case.outcome", BATCH).outcome
    before, after = named_tensors(stored.outcome), named_tensors(back)
    assert before.keys() == after.keys()
    assert all(equal_bits(before[name], after[name]) or before[name].isnan().all() for name in before)
    assert not judge(back, Expectation(BATCH, NEWEST)).verdict.fails


def test_an_outcome_file_without_a_branch_is_corrupt(tmp_path: Path):
    outcome = execute(find("reference"), BATCH)
    alone = replace(outcome, branches={"one2one": outcome.branches["one2one"]})
    store(tmp_path / "case.outcome", StoredOutcome(BATCH.id, "reference", "1", NEWEST.name, "cpu", alone))
    with pytest.raises(CorruptOutcome, match="expected \\['one2many', 'one2one'\\]"):
        load(tmp_path / "case.outcome", BATCH)


def test_a_branch_with_a_fault_is_reported_with_its_name():
    """A divergence in one branch does not touch the stages of the other."""
    outcome = execute(find("reference"), BATCH)
    one = outcome.branches["one2one"]
    assert one.assignment is not None
    boxes = replace(one.assignment, boxes=one.assignment.boxes + 1)
    wrong = replace(outcome, branches={**outcome.branches, "one2one": replace(one, assignment=boxes)})
    with pytest.raises(Divergence, match=r"^one2one/targets \(TAL-TGT-1\)") as caught:
        judge(wrong, Expectation(BATCH, NEWEST))
    stages = caught.value.judgement.stages
    assert not any(stage.mismatch for name, stage in stages.items() if name.startswith("one2many/"))


def test_too_few_anchors_must_raise():
    """E2E-2, TAL-TOPK-2: one2many selects 10 anchors; with 8, the whole loss must raise."""
    few = replace(RECIPE, cells=(2, 4), strides=(8,)).build()
    rule = Expectation(few, NEWEST).rejection
    assert rule is not None
    assert (rule.stage, rule.clause) == ("one2many/top-k", "TAL-TOPK-2")
    assert judge_against_reference(Subject(find("ultralytics"), "cpu"), few).verdict is Verdict.REJECTED


def test_equal_branches_have_their_own_gradients():
    """With equal predictions in both branches, one2one still differs from one2many by its k."""
    batch = replace(RECIPE, one2one="same").build()
    assert "equal_branches" in batch.hazards
    outcome = execute(find("ultralytics"), batch)
    many, one = (part.loss for part in outcome.branches.values())
    assert many is not None
    assert one is not None
    assert not torch.equal(many.gradients[0], one.gradients[0])
    assert not judge(outcome, Expectation(batch, NEWEST)).verdict.fails


ChangeJudgement = Callable[[Judgement], None]


def judged_with(outcome: Outcome, branch: str, change: ChangeJudgement) -> Judgement:
    """Return the judgement of an outcome; judgements of one branch that do not fail are changed."""

    def judge_one(own: Outcome, part: Expectation) -> Judgement:
        found = judge(own, part)
        if branch in part.batch.origin:
            change(found)
        return found

    try:
        return judge_branches(outcome, Expectation(BATCH, NEWEST), judge_one)
    except Divergence as divergence:
        return divergence.judgement


def leave_open(judgement: Judgement) -> None:
    judgement.leave_open("the branch was not judged")


def leave_undefined(judgement: Judgement) -> None:
    judgement.undefined = judgement.inconclusive = True


def compare_no_gradients(judgement: Judgement) -> None:
    judgement.stages["gradients"] = StageJudgement("gradients", "LOSS-GRAD-1")


@pytest.mark.parametrize("change", [leave_open, leave_undefined, compare_no_gradients])
def test_weights_do_not_agree_if_a_branch_was_not_judged(change: ChangeJudgement):
    outcome = execute(changing(lambda loss: loss), BATCH)
    judgement = judged_with(outcome, "one2one", change)
    assert not judgement.verdict.fails
    for stage in ("weights", "gradients"):
        assert judgement.stages[stage].state is State.NOT_SHOWN


def with_gradients_of(factor: float) -> Change:
    """Return a change of a loss: gradients multiplied by a factor, and the right total."""
    return lambda loss: replace(
        loss, total=factor * loss.total - (factor - 1) * loss.total.detach(), branches=None
    )


def test_other_weights_do_not_explain_a_branch_that_is_not_judged_with_them():
    """The gradients are those of other weights, but with these weights one branch is inconclusive."""
    outcome = execute(changing(with_gradients_of(1.25)), BATCH)
    judgement = judged_with(outcome, "one2one", leave_open)
    assert judgement.stages["weights"].state is State.NOT_SHOWN
    assert judgement.first is not None
    assert judgement.first.stage.startswith("one2")


def test_a_total_that_is_not_known_is_not_taken_for_a_wrong_one():
    """The gradients have wrong weights; whether the total has them too is not known."""
    outcome = execute(changing(with_gradients_of(1.25)), BATCH)

    def forget_items(judgement: Judgement) -> None:
        judgement.open_items = ()

    assert judged_with(outcome, "none of them", forget_items).first.stage == "gradients"  # type: ignore[union-attr]
    judgement = judged_with(outcome, "one2one", forget_items)
    assert judgement.stages["weights"].state is State.NOT_SHOWN
    mismatch = judgement.stages["gradients"].mismatch
    assert mismatch is not None
    assert "although the total" not in mismatch.summary
    assert judgement.stages["total"].state is State.NOT_SHOWN


def test_items_and_total_are_left_open_if_those_of_a_branch_are_not_known():
    outcome = execute(changing(hidden), BATCH)

    def forget_items(judgement: Judgement) -> None:
        judgement.open_items = ()

    judgement = judged_with(outcome, "one2one", forget_items)
    assert judgement.verdict is Verdict.INCONCLUSIVE
    for stage in ("items", "total"):
        assert judgement.stages[stage].state is State.NOT_SHOWN
