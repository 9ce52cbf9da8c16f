"""Run an implementation on a batch and return its outcome, the results that the suite judges later."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from time import perf_counter
from typing import Any, TypeVar

import torch
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, branch_gradients, has_branches
from tal_conformance.core.outcome import AssignerInputs, CheckedAssignment, Loss, LossOutcome, Outcome
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.core.supervision import supervised
from tal_conformance.implementations.calling.call import Answer, Call
from tal_conformance.implementations.calling.run import run_calls
from tal_conformance.implementations.errors import (
    AnsweredUnsupported,
    ImplementationFailed,
    NotSupported,
    ProtocolViolation,
)
from tal_conformance.implementations.guards.code_state import baseline
from tal_conformance.implementations.guards.exceptions import exceptions_as_failures
from tal_conformance.implementations.guards.plain_copies import PlainCopies
from tal_conformance.implementations.guards.process_state import unchanged_process
from tal_conformance.implementations.guards.side_effects import (
    check_inputs_unchanged,
    forbid_side_effects,
    returned_tensors,
)
from tal_conformance.implementations.guards.torch_state import unchanged_torch_state
from tal_conformance.implementations.kept import fresh_adapter
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.validation import Findings, check_assignment, check_inputs, check_loss
from tal_reference import Dialect
from tal_reference.composed import total_factor

T = TypeVar("T")


@dataclass
class Stopwatch:
    """Time that implementations under test spend in their calls and gradients, without the suite's own time.

    Attributes:
        seconds: total time of all calls in this process.
    """

    seconds: float = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """Add the time that the `with` block takes, even if it raises."""
        began = perf_counter()
        try:
            yield
        finally:
            self.seconds += perf_counter() - began

    def timed(self, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
        """Call a function, add the time that it takes, even if it raises, and return its result."""
        with self.running():
            return function(*arguments, **options)


calls = Stopwatch()
"""Stopwatch of this process."""


def execute(
    implementation: Implementation,
    batch: Batch,
    each_term: bool = False,
    alone: bool = False,
    inputs: AssignerInputs | None = None,
) -> Outcome:
    """Run the implementation on a copy of the batch, so that it can neither modify nor retain the original.

    Args:
        implementation: the implementation to run.
        batch: any batch.
        each_term: differentiate box, cls and dfl separately too, if `Loss.total` has three elements.
        alone: run only the assigner, on `inputs`, even if the implementation has a loss.
        inputs: the inputs of the assigner as the reference decodes them; None to decode the batch here.

    Raises:
        ImplementationFailed: the implementation raised, or returned a result that the protocol does not allow.
        AnsweredUnsupported: the implementation returned a result for a batch that its adapter declares not to
            support.
        NotSupported: the implementation raised on a batch that its adapter declares not to support, which is correct;
            or the implementation was not called, because the batch has class weights and the adapter does not declare
            `class_weights = True`, or is in mixed precision and the adapter does not declare that in `precisions`.
    """
    reason = implementation.support.reason_not_to_call(batch) or _undeclared_precision(implementation, batch)
    if reason is not None:
        raise NotSupported(reason)
    unsupported: list[str] = []
    try:
        outcome = _guarded(implementation, batch, each_term, alone, inputs, unsupported)
    except ImplementationFailed as error:
        raised = error.details is not None and "Exception" in error.types
        if raised and unsupported:
            raise NotSupported(unsupported[0]) from None
        if raised and not len(batch.annotations):
            error.formal = (
                f"{error.what} on a batch without ground truths, which has zero targets (TAL-EMPTY-1)"
            )
        raise
    if unsupported and len(
        batch.annotations
    ):  # without ground truths, a returned result is judged like any other result
        raise AnsweredUnsupported(unsupported[0])
    return outcome


def _undeclared_precision(implementation: Implementation, batch: Batch) -> str | None:
    """Return the reason why the adapter must not be called with a batch in mixed precision, or None if it may be."""
    name = f"autocast-{str(batch.dtype).removeprefix('torch.')}"
    if not batch.autocast or name in implementation.precisions:
        return None
    return f"precision {name} (attribute `precisions`)"


def _guarded(
    implementation: Implementation,
    batch: Batch,
    each_term: bool,
    alone: bool,
    inputs: AssignerInputs | None,
    unsupported: list[str],
) -> Outcome:
    """Run the implementation like `execute`; append the adapter's reason to exclude the batch to `unsupported`."""
    own = assigner_inputs(batch) if inputs is None else replace(inputs, hyperparameters=batch.hyperparameters)
    with (
        supervised.calling(implementation.name),
        exceptions_as_failures(),
        unchanged_torch_state(),
        nullcontext() if implementation.in_subprocess else forbid_side_effects(),
        torch.autocast(batch.device.type, dtype=batch.dtype, enabled=batch.autocast),
        baseline.unchanged(),
    ):
        support = implementation.support
        asked = support.supports is not None  # code of the implementation answers
        reason = _call(implementation, support.reason, batch) if asked else support.reason(batch)
        if reason is not None:
            unsupported.append(reason)
        memory = returned_tensors(implementation.identity)
        memory.begin()
        outcome = _observe(implementation, batch, own, each_term, alone, PlainCopies(memory, batch.device))
        memory.check()
        return outcome


def _call(implementation: Implementation, function: Callable[..., T], *arguments: Any, **options: Any) -> T:
    """Call a function of an implementation; in this process, undo what the call changes in the process.

    Raises:
        StateChanged: the call changed this process.
    """
    if implementation.in_subprocess:
        return function(*arguments, **options)
    return unchanged_process(function, *arguments, **options)


def execute_calls(implementation: Implementation, way: str, calls: Sequence[Call]) -> list[Answer]:
    """Call the implementation in the given way, starting from its state before the first call.

    Args:
        implementation: the implementation.
        way: way of calling: a key of `WAYS`, or `IN_TURN` for all calls one after the other.
        calls: the arguments of the calls.

    Returns:
        The results of the calls; the last result has a failure if the implementation raised or violated the protocol.

    Raises:
        ImplementationFailed: the implementation left files, processes or output behind, or its worker process died.
    """
    with supervised.calling(implementation.name), exceptions_as_failures():
        if implementation.in_subprocess:
            answers: list[Answer] = implementation.adapter.answers(way, calls)
            return answers
        with unchanged_torch_state(), forbid_side_effects(), baseline.unchanged():
            return unchanged_process(run_calls, lambda: fresh_adapter(implementation), way, calls)


def _observe(
    implementation: Implementation,
    batch: Batch,
    own: AssignerInputs,
    each_term: bool,
    alone: bool,
    copies: PlainCopies,
) -> Outcome:
    findings = Findings()
    if "loss" in implementation.capabilities and not alone:
        outcome = _observe_loss(implementation, batch, own, each_term, copies, findings)
    elif has_branches(batch):
        branches = {
            name: Outcome(inputs, False, _observe_assigner(implementation, inputs, copies, findings), None)
            for name, part in branch_batches(batch, implementation.dialect).items()
            for inputs in [assigner_inputs(part)]
        }
        outcome = Outcome(own, False, None, None, branches=branches)
    else:
        outcome = Outcome(own, False, _observe_assigner(implementation, own, copies, findings), None)
    return replace(outcome, formal=tuple(findings.mistakes), absent=tuple(findings.absent))


def _observe_assigner(
    implementation: Implementation, inputs: AssignerInputs, copies: PlainCopies, findings: Findings
) -> CheckedAssignment:
    originals = {name: value for name, value in vars(inputs).items() if isinstance(value, Tensor)}
    given: dict[str, Any] = {name: value.clone() for name, value in originals.items()}
    private = replace(inputs, **given)
    returned = _call(implementation, calls.timed, implementation.adapter.assign, private)
    returned = copies.assignment(returned)
    check_inputs_unchanged(given, originals)
    return check_assignment(returned, inputs, implementation.exposes_stages, findings)


def _observe_loss(
    implementation: Implementation,
    batch: Batch,
    own: AssignerInputs,
    each_term: bool,
    copies: PlainCopies,
    findings: Findings,
) -> Outcome:
    feature_maps = tuple(level.detach().clone().requires_grad_() for level in batch.feature_maps)
    annotations = batch.annotations.clone()
    arguments = feature_maps, annotations, batch.head, batch.hyperparameters
    returned = _call(implementation, calls.timed, implementation.adapter.loss, *arguments)
    returned = copies.loss(returned, feature_maps)
    after = {f"feature_maps[{level}]": values.detach() for level, values in enumerate(feature_maps)}
    originals = {f"feature_maps[{level}]": values.detach() for level, values in enumerate(batch.feature_maps)}
    check_inputs_unchanged(
        after | {"annotations": annotations}, originals | {"annotations": batch.annotations}
    )
    values_only = implementation.values_only
    loss = check_loss(returned, feature_maps, batch.family, findings=findings, values_only=values_only)
    total = loss.total.sum()
    terms = loss.total.unbind() if each_term and loss.total.ndim and loss.gradients is None else ()
    differentiate = partial(
        _call, implementation, torch.autograd.grad, inputs=feature_maps, allow_unused=True
    )
    term_gradients = tuple(
        _gradients(differentiate(term, retain_graph=True), feature_maps, copies, findings) for term in terms
    )
    gradients: tuple[Tensor, ...] = ()
    if loss.gradients is None:
        with calls.running():
            gradients = _gradients(differentiate(total), feature_maps, copies, findings)
    items, shows_items = items_of(loss, batch, implementation.dialect)
    outcome = LossOutcome(items, total.detach().clone(), gradients, term_gradients, shows_items)
    if not has_branches(batch):
        return _with_assignment(implementation, own, loss, outcome, copies, findings)
    branches = _observe_branches(implementation, batch, loss, outcome, copies, findings)
    return Outcome(own, False, None, outcome, branches=branches)


def _with_assignment(
    implementation: Implementation,
    own: AssignerInputs,
    loss: Loss,
    outcome: LossOutcome,
    copies: PlainCopies,
    findings: Findings,
) -> Outcome:
    """Return the outcome of a loss with the assignment that it exposes, or that the adapter's `assign` returns."""
    inputs = own if loss.inputs is None else check_inputs(loss.inputs, own, findings)
    if loss.assignment is not None:
        assignment = check_assignment(loss.assignment, inputs, implementation.exposes_stages, findings)
        return Outcome(inputs, loss.inputs is not None, assignment, outcome, True)
    if "assign" in implementation.capabilities:
        return Outcome(own, False, _observe_assigner(implementation, own, copies, findings), outcome)
    if implementation.exposes_stages:
        raise ProtocolViolation(
            "the adapter declares exposes_stages, but Loss.assignment is None: "
            "return the assignment that the loss used, with its stages"
        )
    return Outcome(own, False, None, outcome)


def _observe_branches(
    implementation: Implementation,
    batch: Batch,
    loss: Loss,
    whole: LossOutcome,
    copies: PlainCopies,
    findings: Findings,
) -> dict[str, Outcome]:
    """Return the outcome of each branch of an end-to-end loss.

    The gradients are those of the whole loss on the branch's feature maps, divided by the branch's weight (E2E-6). The
    other values come from the adapter.

    Raises:
        ProtocolViolation: the adapter exposes one branch only, an assignment without naming its branch, or no
            gradients.
    """
    parts = branch_batches(batch, implementation.dialect)
    shown = loss.branches
    if loss.assignment is not None or loss.inputs is not None:
        raise ProtocolViolation(
            "Loss.assignment or Loss.inputs is set in an end-to-end loss: expected them in the losses of "
            f"Loss.branches, whose keys are {' and '.join(parts)}"
        )
    if shown is not None and (not isinstance(shown, dict) or set(shown) != set(parts)):
        raise ProtocolViolation(
            f"Loss.branches is {shown if not isinstance(shown, dict) else sorted(shown)!r:.100}, expected None or a "
            f"dict with a Loss for {' and for '.join(parts)}"
        )
    if not whole.gradients:
        raise ProtocolViolation(
            "Loss.gradients is empty: expected the gradients of an end-to-end loss, by which its branches are judged"
        )
    if shown is None:
        findings.absent.append("Loss.branches")
    gradients = branch_gradients(batch, whole.gradients, implementation.dialect)
    terms = [branch_gradients(batch, levels, implementation.dialect) for levels in whole.term_gradients]
    outcomes = {}
    for name, part in parts.items():
        own_gradients, own_terms = gradients[name], tuple(levels[name] for levels in terms)
        if shown is None:
            nothing = torch.zeros_like(whole.items)
            of_branch = Loss(torch.full_like(whole.total, torch.nan), nothing)
            outcome = LossOutcome(nothing, of_branch.total, own_gradients, own_terms, False, False)
        else:
            of_branch = check_loss(shown[name], part.feature_maps, part.family, False, findings)
            items, shows_items = items_of(of_branch, part, implementation.dialect)
            total = of_branch.total.detach().sum()
            outcome = LossOutcome(items, total, own_gradients, own_terms, shows_items)
        own = assigner_inputs(part)
        outcomes[name] = _with_assignment(implementation, own, of_branch, outcome, copies, findings)
    return outcomes


def items_of(loss: Loss, batch: Batch, dialect: Dialect) -> tuple[Tensor, bool]:
    """Return the items (box, cls, dfl) of a loss, and True if every item is known.

    A loss without items may have a total with one value for each term, from which the items follow (LOSS-GAIN-1). Of a
    total in one number only the sum is known, which is returned as the first item; the others are 0.
    """
    known: Tensor | None = loss.items
    if known is not None:
        return known, True
    whole = loss.total.detach() / total_factor(batch.images, dialect)
    if whole.ndim:
        return whole.clone(), True
    items = whole.new_zeros(len(batch.family.terms))
    items[0] = whole
    return items, False


def _gradients(
    gradients: tuple[Tensor | None, ...],
    feature_maps: tuple[Tensor, ...],
    copies: PlainCopies,
    findings: Findings,
) -> tuple[Tensor, ...]:
    """Return copies of the gradients on the feature maps, zeros for a gradient that is None, which is a mistake."""
    missing = [level for level, gradient in enumerate(gradients) if gradient is None]
    if missing:
        findings.mistakes.append(
            f"Loss.total has no gradient on feature map {missing[0]} (LOSS-GRAD-1: zero, not None)"
        )
    return tuple(
        copies.gradient(level, torch.zeros_like(feature_maps[level]) if gradient is None else gradient)
        for level, gradient in enumerate(gradients)
    )
