"""`tal-conformance explain CASE`: explain why an anchor was assigned to its ground truth, or is background."""

import argparse

from tal_conformance.commands.cases import case_file, dialect_of_case
from tal_conformance.commands.doctor import first_finding
from tal_conformance.commands.program import CommandError, dialect_named
from tal_conformance.commands.results import set_result
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.outcome import CheckedAssignment
from tal_conformance.implementations.errors import ImplementationFailed, NotSupported
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.pictures.parts import parts_as_text
from tal_conformance.pictures.trace import ImageTrace, trace_as_text
from tal_reference.eras_of_tasks import for_task
from tal_reports import visible
from tal_text import say


def run(options: argparse.Namespace) -> int:
    """Print the explanation of an anchor, a ground truth or all ground truths, and return 0.

    Raises:
        CommandError: the case, image, anchor, ground truth or dialect was not found, or is unusable.
        UnknownImplementation, ProtocolViolation: the implementation could not be loaded.
    """
    path = case_file(options.case)
    try:
        batch = Batch.load(path)
    except (InvalidCase, OSError) as error:
        raise CommandError(str(error)) from error
    implementation = None if options.implementation is None else find(options.implementation)
    dialect = dialect_named("--dialect", options.dialect) or (
        implementation.dialect_of(batch.task) if implementation else dialect_of_case(path)
    )
    dialect = dialect and for_task(dialect, batch.task)
    if dialect is None:
        raise CommandError(f"this dialect is not specified for the task {batch.task} of {path.name}")
    if not 0 <= options.image < batch.images:
        raise CommandError(f"--image {options.image}: expected an index from 0 to {batch.images - 1}")
    try:
        trace = ImageTrace.of(batch, options.image, dialect, options.branch or "")
    except ValueError as error:
        raise CommandError(f"the reference cannot assign this batch: {error}") from error
    assignment = None
    if implementation is not None:
        held = implementation.with_dialect(dialect)
        assignment = assignment_by(held, batch, trace.branch)
    try:
        explanation = trace_as_text(trace, options.anchor, options.gt, assignment)
        explanation = [*explanation, *parts_as_text(trace, options.anchor, options.gt)]
    except IndexError as error:
        raise CommandError(str(error)) from error
    finding = first_finding(path, dialect)
    set_result(
        case=path,
        batch=batch.describe(),
        dialect=dialect.name,
        image=options.image,
        branch=trace.branch or None,
        implementation=None if implementation is None else implementation.name,
        finding=finding or None,
        explanation=explanation,
    )
    lines = [
        f"{path.name}: {batch.describe()}",
        *([f"Inputs: {finding}"] if finding else []),
        f"By the reference, dialect {dialect.name}{of_branch(batch, trace.branch)}:",
        "",
        *explanation,
    ]
    say("\n".join(visible(line) for line in lines))
    return 0


def of_branch(batch: Batch, branch: str) -> str:
    """Return words that name the explained branch and the option for the others; "" for a head without branches."""
    others = [name for name in batch.family.branches if name != branch]
    return f", branch {branch} (--branch {others[0]} for the other)" if branch else ""


def assignment_by(implementation: Implementation, batch: Batch, branch: str = "") -> CheckedAssignment:
    """Return the assignment of an implementation for a batch, or for a branch of an end-to-end head.

    Raises:
        CommandError: the implementation fails on the batch, or does not expose its assignment.
    """
    try:
        outcome = execute(implementation, batch)
        assignment = outcome.branches[branch].assignment if branch else outcome.assignment
    except ImplementationFailed as error:
        raise CommandError(f"{implementation.name} failed on this batch: {error.what}") from error
    except NotSupported as unsupported:
        raise CommandError(
            f"{implementation.name} does not support this batch: {unsupported.reason}"
        ) from unsupported
    if assignment is None:
        raise CommandError(
            f"{implementation.name} does not expose its assignment, which therefore cannot be explained. Leave out "
            "--implementation to explain the reference's assignment instead"
        )
    return assignment
