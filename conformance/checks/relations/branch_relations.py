"""Relations of end-to-end heads: those of detection in each branch, and those between branches and sums (E2E-*).

A relation of detection compares a branch's results on two batches. The other branch is transformed in the same way.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import torch

from tal_conformance.checks.relations.compare_images import Comparison
from tal_conformance.checks.relations.compare_runs import compare
from tal_conformance.checks.relations.relation import NotObservable, Relation, refuse_undefined
from tal_conformance.checks.relations.runs import NotApplicable, Run
from tal_conformance.checks.relations.transformations import FollowUp, Pair, TransformationPlan
from tal_conformance.checks.relations.views import unchanged
from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, split
from tal_conformance.core.geometry import flatten
from tal_conformance.core.outcome import LossOutcome, Outcome
from tal_conformance.core.task import StageName, stage_name
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.judgement.branches import merge_branch
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Subject, failure_from

Parts = Mapping[str, Batch]
"""The batch of each branch by its name."""
EPOCHS = 11
"""Epochs of a training in which a is 0.8, 0.45 and 0.1 after `STATES` updates (E2E-4)."""
STATES = (0, 5, 10)
SUM_ROUNDINGS = 4
"""Roundings of a weighted sum of both branches' terms: two products, the sum over branches, the sum over terms."""


class BranchRuns:
    """Cache of the runs of one implementation on batches of an end-to-end head.

    Args:
        subject: the implementation, and the device to run it on.
        batch: the batch from which all other batches are made.
    """

    def __init__(self, subject: Subject, batch: Batch) -> None:
        self.subject, self.batch = subject, batch
        self._outcomes: dict[str, Outcome] = {}
        self._joined: dict[
            int, tuple[Batch, Batch, str]
        ] = {}  # with the branch's batch, whose id then stays its own

    @property
    def has_weights(self) -> bool:
        """True if the dialect weights the branches (E2E-4)."""
        return self.subject.implementation.dialect.weighted_branches

    def parts(self, batch: Batch) -> dict[str, Batch]:
        """Return the batch of each branch of a batch, by the branch's name."""
        parts = branch_batches(batch, self.subject.implementation.dialect)
        self._joined |= {id(part): (batch, part, name) for name, part in parts.items()}
        return parts

    def join(self, parts: Parts) -> None:
        """Let the batches of the branches be run together.

        Raises:
            NotApplicable: the branches have different ground truths.
        """
        first = next(iter(parts.values()))
        if not all(torch.equal(part.annotations, first.annotations) for part in parts.values()):
            raise NotApplicable(
                "the transformation changes the ground truths of the branches in different ways"
            )
        maps = tuple(level for part in parts.values() for level in part.feature_maps)
        whole = replace(
            self.batch, feature_maps=maps, annotations=first.annotations, head=first.head, hazards=frozenset()
        )
        for name, part in parts.items():
            self._joined.setdefault(id(part), (whole, part, name))

    def outcome(self, batch: Batch) -> Outcome:
        """Run the implementation on a batch, or return the stored outcome of an earlier run on the same batch.

        Raises:
            ImplementationFailed: the implementation raised, or violated the protocol.
        """
        if batch.id not in self._outcomes:
            self._outcomes[batch.id] = execute(self.subject.implementation, batch)
        return self._outcomes[batch.id]

    def __call__(self, part: Batch) -> Run:
        """Return the run of a branch on the batch of this branch.

        Raises:
            NotObservable: the implementation does not expose its branches.
            ImplementationFailed: as `outcome`.
        """
        whole, _, name = self._joined[id(part)]
        outcome = self.outcome(whole).branches[name]
        if outcome.loss is not None and not outcome.loss.knows_total:
            raise NotObservable("the implementation does not expose the losses of its branches")
        return Run(outcome, Expectation(part, self.subject.implementation.dialect))


@dataclass(frozen=True)
class BranchRelation(Relation):
    """A relation of section 7 in both branches, or a relation of end-to-end heads.

    Attributes:
        of_both: function that compares both branches, weights and sums, for a relation of end-to-end heads.
    """

    of_both: Callable[[BranchRuns, Judgement, str], None] | None = None

    def __call__(self, subject: Subject, batch: Batch) -> Judgement:
        """Judge an implementation on a batch by this relation only; see `Relation`."""
        batch = batch.to(subject.batch_device)
        judgement, runs = Judgement(batch.family), BranchRuns(subject, batch)
        try:
            if self.of_both is not None:
                self.of_both(runs, judgement, self.clause)
            else:
                self._judge_branches(runs, judgement)
            if judgement.verdict.fails:
                raise Divergence(judgement)
        except (Divergence, ImplementationFailed) as error:
            raise failure_from(subject, batch, error) from error
        return judgement

    def _judge_branches(self, runs: BranchRuns, judgement: Judgement) -> None:
        """Judge the relation in each branch.

        Raises:
            NotApplicable: the transformation is not possible.
        """
        parts = runs.parts(runs.batch)
        dialect = runs.subject.implementation.dialect
        plans = {name: list(self.change(part)) if self.change else [] for name, part in parts.items()}
        for of_branch in plans.values():
            refuse_undefined(self.clause, of_branch, dialect)
        if self.change is not None and not all(plans.values()):
            raise NotApplicable(f"{self.clause} does not apply to {runs.batch.describe()}")
        for together in zip(*plans.values(), strict=True):
            _join_plans(runs, dict(zip(plans, together, strict=True)))
        for name, part in parts.items():
            source = plans[name][0].sources[0] if plans[name] else part
            own = self.judged(plans[name], runs, runs(source))
            merge_branch(judgement, name, own)


def _join_plans(runs: BranchRuns, plans: Mapping[str, TransformationPlan]) -> None:
    """Let every batch of one branch's plan be run together with the batch of the other branch."""
    for number in range(len(next(iter(plans.values())).sources)):
        runs.join({name: plan.sources[number] for name, plan in plans.items()})
    for number in range(len(next(iter(plans.values())).changed)):
        runs.join({name: plan.changed[number].batch for name, plan in plans.items()})


def with_state(batch: Batch, updates: int) -> Batch:
    """Return the batch after a number of updates in a training of `EPOCHS` epochs."""
    return replace(batch, hyperparameters=replace(batch.hyperparameters, updates=updates, epochs=EPOCHS))


def without(batch: Batch, branch: str) -> Batch:
    """Return the batch with other predictions of a branch, those of opposite sign, and after other updates."""
    names = split(batch, batch.feature_maps)
    maps = tuple(-level if name == branch else level for name, levels in names.items() for level in levels)
    updates = STATES[0] if batch.hyperparameters.updates else STATES[-1]
    return with_state(replace(batch, feature_maps=maps, origin="", hazards=frozenset()), updates)


def total_is_linear(runs: BranchRuns, judgement: Judgement, clause: str) -> None:
    """Compare the total at a mean weight a with the mean of the totals at both weights (E2E-3)."""
    if not runs.has_weights:
        raise NotApplicable(f"{clause} does not apply: the dialect has no branch weights")
    first, middle, last = (_loss(runs, with_state(runs.batch, updates)).total.double() for updates in STATES)
    eps = torch.finfo(torch.float32).eps
    error = SUM_ROUNDINGS * eps * (middle.abs() + (first.abs() + last.abs()) / 2)
    to = Comparison(judgement, clause, "at a mean weight a")
    to.assert_within(StageName.TOTAL, "total", middle, (first + last) / 2, error)


def items_of_one2one(runs: BranchRuns, judgement: Judgement, clause: str) -> None:
    """Compare the items after a change of weights and of one2many's predictions: nothing may change (E2E-3)."""
    if not runs.has_weights:
        raise NotApplicable(f"{clause} does not apply: the items are those of both branches")
    before, now = (_loss(runs, batch) for batch in (runs.batch, without(runs.batch, "one2many")))
    if not before.shows_items:
        raise NotObservable(f"{clause}: the implementation has no items")
    error = SUM_ROUNDINGS * torch.finfo(torch.float32).eps * before.items.double().abs()
    to = Comparison(judgement, clause, "with other weights and other predictions of one2many")
    to.assert_within(StageName.ITEMS, "item", now.items, before.items, error, ("term",))


def branches_are_separate(runs: BranchRuns, judgement: Judgement, clause: str) -> None:
    """Compare each branch's own loss after a change of weights and of the other branch (E2E-6): nothing may change."""
    parts = runs.parts(runs.batch)
    for name, other in zip(parts, reversed(parts), strict=True):
        changed = runs.parts(without(runs.batch, other))[name]
        part, how = parts[name], f"with other predictions of {other} and other weights"
        pairs = tuple(Pair(0, image, image, unchanged(part, image)) for image in range(part.images))
        own = Judgement(part.family)
        compare(
            TransformationPlan(how, (part,), (FollowUp(changed, pairs),)), runs, Comparison(own, clause, how)
        )
        merge_branch(judgement, name, own)


def one_positive(runs: BranchRuns, judgement: Judgement, clause: str) -> None:
    """Check that a ground truth has at most one positive in one2one (E2E-2).

    If the assignment is hidden, the anchors with a gradient on distances must not be more than the ground truths.
    """
    if not runs.has_weights:
        raise NotApplicable(f"{clause} does not apply: without topk2, a ground truth may win further anchors")
    part = runs.parts(runs.batch)["one2one"]
    outcome = runs.outcome(runs.batch).branches["one2one"]
    to = Comparison(judgement, clause, "within one run")
    for image, truths in enumerate(Expectation(part, runs.subject.implementation.dialect).truths):
        if outcome.assignment is not None and (outcome.loss is None or outcome.from_loss):
            owners = outcome.assignment.truth_index[image][outcome.assignment.foreground[image]]  # (P,)
            counts = torch.bincount(owners.long(), minlength=1)  # (M,)
            most, found = torch.ones_like(counts), torch.maximum(counts, torch.ones_like(counts))
            what = "number of positives of a ground truth, at least 1"
        else:
            assert outcome.loss is not None
            learns = (flatten(outcome.loss.gradients, part.head)[0][image] != 0).flatten(1).any(1)  # (A,)
            most = torch.tensor([len(truths)], device=part.device)
            found = torch.maximum(learns.sum()[None], most)
            what = "number of anchors that learn distances, at least that of ground truths"
        to.equal(stage_name(StageName.CONFLICT, "one2one"), what, found, most, ("GT",), image)


def _loss(runs: BranchRuns, batch: Batch) -> LossOutcome:
    """Return the values of the whole loss.

    Raises:
        NotObservable: the implementation has no loss.
    """
    loss = runs.outcome(batch).loss
    if loss is None:
        raise NotObservable("the implementation has no loss")
    return loss


OWN_RELATIONS = (
    BranchRelation("META-E2E-LINEAR", "the total is linear in the weight a", of_both=total_is_linear),
    BranchRelation(
        "META-E2E-ITEMS", "the items depend neither on the weights nor on one2many", of_both=items_of_one2one
    ),
    BranchRelation(
        "META-E2E-SEPARATE",
        "a branch's own loss depends neither on the other branch nor on the weights",
        of_both=branches_are_separate,
    ),
    BranchRelation(
        "META-E2E-ONE", "a ground truth has at most one positive in one2one", of_both=one_positive
    ),
)
"""The relations of end-to-end heads."""


def lifted(relation: Relation) -> BranchRelation:
    """Return a relation of detection as a relation of both branches."""
    return BranchRelation(relation.clause, relation.meaning, relation.change, relation.check)
