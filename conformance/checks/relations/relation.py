"""A metamorphic relation of specification section 7: two runs of an implementation, or properties of one run."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.compare_images import Comparison
from tal_conformance.checks.relations.compare_runs import compare
from tal_conformance.checks.relations.runs import NotApplicable, Run
from tal_conformance.checks.relations.transformations import Transformation, TransformationPlan
from tal_conformance.core.batch import Batch
from tal_conformance.core.verdicts import Divergence, Judgement
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Subject, failure_from
from tal_conformance.judgement.rejection import loss_is_finite
from tal_reference import Dialect


class NotObservable(Exception):
    """Error: the implementation does not expose the values that the relation constrains."""


class RunCache:
    """Cache of the runs of one implementation, so that it runs only once on the same batch."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self._runs: list[Run] = []

    def __call__(self, batch: Batch) -> Run:
        """Run the implementation on a batch, or return the stored result of an earlier run on the same batch.

        Raises:
            ImplementationFailed: the implementation raised, or violated the protocol.
        """
        known = next((run for run in self._runs if run.batch is batch), None)
        if known is None:
            expected = Expectation(batch, self.subject.implementation.dialect)
            known = Run(execute(self.subject.implementation, batch, inputs=expected.inputs), expected)
            self._runs.append(known)
        return known


@dataclass(frozen=True)
class Relation:
    """A relation of specification section 7.

    Attributes:
        clause: id of the clause.
        meaning: description of the relation in one line.
        change: transformation of the batch, for a relation between runs.
        check: function that checks a run, for a relation within one outcome.
    """

    clause: str
    meaning: str
    change: Transformation | None = None
    check: Callable[[Run, Comparison], None] | None = None

    def __call__(self, subject: Subject, batch: Batch) -> Judgement:
        """Judge an implementation on a batch by this relation only.

        Args:
            subject: the implementation, and the device to run it on.
            batch: any batch; it is moved to the device.

        Returns:
            The judgement, not a failure. Its verdict is ADMISSIBLE if an open choice was resolved differently after the
            transformation, so that not everything could be compared.

        Raises:
            Failure: the relation does not hold, or the implementation raised or violated the protocol.
            NotApplicable: the relation does not apply to this batch.
            NotObservable: the implementation does not expose the values that the relation constrains.
        """
        batch = batch.to(subject.batch_device)
        session, given = RunCache(subject), None
        try:
            plans = list(self.change(batch)) if self.change else []
            refuse_undefined(self.clause, plans, subject.implementation.dialect)
            given = session(plans[0].sources[0] if plans else batch)
            if not given.is_finite:  # reported as a divergence from the dialect, not from the relation
                judge_against_reference(subject, given.batch)
            judgement = self.judged(plans, session, given)
            if judgement.verdict.fails:
                raise Divergence(judgement)
        except (Divergence, ImplementationFailed) as error:
            failure = failure_from(subject, batch, error)
            failure.assignment, failure.pictured = given.outcome.assignment if given else None, True
            raise failure from error
        return judgement

    def judged(
        self, plans: list[TransformationPlan], session: Callable[[Batch], Run], given: Run
    ) -> Judgement:
        """Return the judgement: compare the runs of the plans or, for a relation within one run, check `given`."""
        judgement = Judgement(given.batch.family)
        if self.check is not None:
            if given.outcome.assignment is None:
                raise NotObservable(f"{self.clause}: the implementation does not expose target scores")
            self.check(given, Comparison(judgement, self.clause, "within one run"))
        elif not plans:
            raise NotApplicable(
                f"{self.clause} does not apply to {given.batch.describe()}: its transformation is not possible"
            )
        for plan in plans:
            compare(plan, session, Comparison(judgement, self.clause, plan.how))
        judgement.uniqueness = given.uniqueness
        return judgement


def refuse_undefined(clause: str, plans: Sequence[TransformationPlan], dialect: Dialect) -> None:
    """Raise NotApplicable if the loss of a batch to be compared is undefined (IOU-1 or SEG-3 divides zero by zero).

    Only a single bin (R = 1) can exchange the edges of a box (IOU-1), and only a mask has a box without area in its
    divisor (SEG-3), so that other batches need no check. Dialects that may divide by an N of zero do not support
    relations (`supports_relations`).
    """
    batches = [batch for plan in plans for batch in (*plan.sources, *(made.batch for made in plan.changed))]
    for batch in batches:
        divides = batch.head.reg_max == 1 or batch.family.has_masks
        if divides and not loss_is_finite(batch, dialect):
            rule = "SEG-3 or IOU-1" if batch.family.has_masks else "IOU-1"
            raise NotApplicable(f"{clause} does not apply to {batch.describe()}: {rule} divides zero by zero")
