"""Compare the results of an unusual call with the outcome of a plain (ordinary) call on the same batch."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from tal_conformance.checks.devices.checks import first_difference, judged_against
from tal_conformance.checks.reference import judged_outcome
from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, branch_gradients, has_branches
from tal_conformance.core.outcome import AssignerInputs, LossOutcome, Outcome, Stages
from tal_conformance.core.outcome_tensors import assignment_from, branch_tensors, part_from
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.core.verdicts import Divergence, Judgement, Value, Verdict
from tal_conformance.implementations.calling.call import GRADIENT, Answer
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.kept import renewed
from tal_conformance.implementations.validation import Findings, check_assignment, check_inputs
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Subject
from tal_conformance.judgement.non_finite import judge_any
from tal_conformance.judgement.rejection import supports_relations
from tal_reference import Dialect


@dataclass(frozen=True)
class Plain:
    """The judged outcome of a plain call: an ordinary call on a batch, without earlier calls.

    Attributes:
        batch: the batch, on the device under test.
        expected: everything that the dialect prescribes for the batch.
        judgement: the judgement of the outcome, which is not a failure.
        outcome: the outcome of the plain call.
    """

    batch: Batch
    expected: Expectation
    judgement: Judgement
    outcome: Outcome


@dataclass(frozen=True)
class Difference:
    """A difference between the results of an unusual call and of the plain (ordinary) call on the same batch.

    Attributes:
        verdict: DIVERGENT, or ERROR if the call failed.
        text: the problem of a call that failed, as a predicate ("raised ..."), or the first difference, as a sentence.
        values: the first place where the results differ.
        details: traceback, if the implementation raised.
    """

    verdict: Verdict
    text: str
    values: tuple[Value, ...] = ()
    details: str | None = None

    @property
    def predicate(self) -> str:
        """The difference as a predicate, for a sentence whose subject is the implementation."""
        return self.text if self.verdict is Verdict.ERROR else f"gives another answer: {self.text}"


def plain_call(subject: Subject, expected: Expectation) -> Plain:
    """Call the implementation in the ordinary way on a batch, without earlier calls, and return the judged outcome.

    Raises:
        Failure: the implementation does not conform on the batch even in a plain call.
    """
    fresh = Subject(renewed(subject.implementation), subject.device)
    return Plain(expected.batch, expected, *judged_outcome(fresh, expected))


def difference(subject: Subject, answer: Answer, plain: Plain, same_bits: bool) -> Difference | None:
    """Return the difference between the results of an unusual call and of the plain call on a batch; None if equal.

    Args:
        subject: the implementation.
        answer: the results of the call.
        plain: the plain call: an ordinary call on the same batch.
        same_bits: True to require bitwise equality of normal numbers; False to allow the rounding of two correct runs.
    """
    if answer.failure is not None:
        return Difference(Verdict.ERROR, answer.failure, details=answer.details)
    try:
        observed = outcome_of(subject, answer, plain)
    except (ProtocolViolation, ValueError) as error:
        return Difference(Verdict.ERROR, str(error))
    if same_bits:
        observed = without_subnormal_differences(observed, plain.outcome)
    found = first_difference([plain.outcome, observed], plain.batch.family)
    if found is None:
        return None
    stage, text, value = found
    if not same_bits:
        judgement = judged_within_bounds(observed, plain, subject.implementation.dialect)
        if not judgement.verdict.fails:
            return None
        first = judgement.first
        if first is not None and first.mismatch is not None:
            stage, text = first.stage, first.mismatch.summary
            value = (first.mismatch.values or [value])[0]
    return Difference(Verdict.DIVERGENT, f"{text} (first at stage {stage!r})", (value,))


def judged_within_bounds(observed: Outcome, plain: Plain, dialect: Dialect) -> Judgement:
    """Judge the outcome of a call against that of the plain (ordinary) call, within the bounds of two correct runs.

    Two losses cannot be compared if their assignment is not visible and a tie may have been resolved differently, or if
    the dialect does not allow comparisons of runs. The outcome is then judged against the dialect, as that of an
    end-to-end loss always is.
    """
    if supports_relations(plain.batch, dialect) and not has_branches(plain.batch):
        judgement = judged_against(plain.outcome, observed, plain.batch, dialect, "", "called so")
        if judgement.verdict.fails or not judgement.chose_differently or observed.assignment is not None:
            return judgement
    try:
        return judge_any(observed, plain.expected)
    except Divergence as divergence:
        return divergence.judgement


def without_subnormal_differences(observed: Outcome, plain: Outcome) -> Outcome:
    """Return `observed`, with gradients of `plain` where the gradients differ by less than the smallest normal number.

    A power of two as a factor of the total loss commutes with every rounding of the backward pass, except for subnormal
    numbers, where the larger number keeps bits that the smaller one loses.
    """
    branches = {
        name: without_subnormal_differences(part, plain.branches[name])
        for name, part in observed.branches.items()
    }
    observed = replace(observed, branches=branches)
    if observed.loss is None or plain.loss is None:
        return observed
    gradients = tuple(
        torch.where((new - old).abs() < torch.finfo(old.dtype).tiny, old, new)
        for new, old in zip(observed.loss.gradients, plain.loss.gradients, strict=True)
    )
    return replace(observed, loss=replace(observed.loss, gradients=gradients))


def outcome_of(subject: Subject, answer: Answer, plain: Plain) -> Outcome:
    """Return the results of a call as an outcome; parts that the call did not compute are taken from `plain`.

    Raises:
        ProtocolViolation: a result does not follow the protocol.
        ValueError: an assignment lacks a field.
    """
    base, batch, dialect = plain.outcome, plain.batch, subject.implementation.dialect
    gradients: tuple[Tensor, ...] = ()
    if base.loss is not None:
        gradients = tuple(
            _shaped(answer.tensors.get(f"{GRADIENT}{level}", values), values)
            for level, values in enumerate(base.loss.gradients)
        )
    outcome = _outcome_of(subject, answer.tensors, base, gradients, plain.expected.inputs)
    if not base.branches:
        return outcome
    parts, of_branches = branch_batches(batch, dialect), branch_gradients(batch, gradients, dialect)
    branches = {
        name: _outcome_of(
            subject,
            branch_tensors(answer.tensors, name),
            own,
            of_branches[name],
            assigner_inputs(parts[name]),
        )
        for name, own in base.branches.items()
    }
    return replace(outcome, branches=branches)


def _outcome_of(
    subject: Subject,
    tensors: Mapping[str, Tensor],
    base: Outcome,
    gradients: tuple[Tensor, ...],
    expected_inputs: AssignerInputs,
) -> Outcome:
    """Return the results of a call, or of one branch of it, without its branches.

    Args:
        subject: the implementation.
        tensors: tensors of the answer, by name.
        base: outcome of the plain call, or of its branch.
        gradients: gradients of the loss.
        expected_inputs: inputs of the assigner as the reference decodes them.
    """
    implementation, given = subject.implementation, base.inputs
    stages = part_from(tensors, Stages, Stages.__name__)
    assignment = assignment_from(tensors, stages)
    inputs = part_from(
        tensors,
        AssignerInputs,
        AssignerInputs.__name__,
        head=given.head,
        hyperparameters=given.hyperparameters,
    )
    inputs = given if inputs is None else check_inputs(inputs, expected_inputs, Findings())
    if assignment is None:
        assignment = base.assignment
    else:
        assignment = check_assignment(assignment, inputs, implementation.exposes_stages, Findings())
    if base.loss is None:
        return replace(base, assignment=assignment)
    if not base.loss.knows_total:  # of a branch that the implementation hides
        return replace(base, loss=replace(base.loss, gradients=gradients))
    # a branch that this call hides, and the plain call does not, has the values of the plain call
    items, total = tensors.get("items"), tensors.get("total", base.loss.total)
    if items is None:  # of a total with one value for each term, an answer has the sum only
        same = torch.equal(total, base.loss.total)
        items = base.loss.items if same else base.loss.items * (total / base.loss.total)
    loss = LossOutcome(items, total, gradients, shows_items=base.loss.shows_items)
    return replace(base, inputs=inputs, assignment=assignment, loss=loss)


def _shaped(gradient: Tensor, like: Tensor) -> Tensor:
    """Return the gradient if it has the expected shape and dtype.

    Raises:
        ProtocolViolation: the gradient has another shape or dtype.
    """
    if gradient.shape != like.shape or gradient.dtype != like.dtype:
        raise ProtocolViolation(
            f"a gradient has shape {tuple(gradient.shape)} and dtype {gradient.dtype}, "
            f"expected {tuple(like.shape)} and {like.dtype}"
        )
    return gradient
