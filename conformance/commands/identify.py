"""`tal-conformance identify NAME`: find the dialect and the choices in it that an implementation follows.

A dialect is the behaviour of a range of releases. It consists of choices, such as CIoU instead of IoU as the overlap.
"""

import argparse
from typing import Any

from tal_conformance.commands.arguments import VISIBLE
from tal_conformance.commands.compared_task import with_task
from tal_conformance.commands.program import CommandError, prepare_judging
from tal_conformance.commands.results import failure_fields, implementation_fields, set_result
from tal_conformance.core.progress import progress
from tal_conformance.dialects.identification import distinguishable, identify
from tal_conformance.dialects.identified import Identification, choice_fields, tie_fields
from tal_conformance.implementations.registry import find
from tal_conformance.mutation import diagnosis
from tal_conformance.mutation.plant import MODES
from tal_conformance.mutation.planted_faults import FAULTS_BY_TASK
from tal_reference.eras_of_tasks import dialects_of
from tal_text import say

SHOWN = 4
"""Number of clauses for which an unexplained batch is printed in full."""


def run(options: argparse.Namespace) -> int:
    """Print the dialect and choices that explain an implementation's results, and the unexplained batches.

    Returns:
        0 if dialect and choices explain every batch, 1 otherwise; with `--measure`, 1 if a search named something else.

    Raises:
        CommandError: the arguments are inconsistent.
        UnknownImplementation, ProtocolViolation: the implementation could not be loaded.
    """
    if (options.implementation is None) == (options.measure is None):
        found = "neither" if options.measure is None else "both"
        raise CommandError(f"expected the NAME of an implementation or --measure KIND, got {found}")
    if options.measure is not None:
        return measured(options)
    prepare_judging()
    (implementation,) = with_task([find(options.implementation)], options.task)
    dialects = distinguishable(dialects_of(implementation.task).values())
    faults = FAULTS_BY_TASK[implementation.task].values()
    with progress("Judging by each dialect", len(dialects)) as advance:
        identification = identify(implementation, dialects, advance, options.seconds, faults)
    say("\n".join(format_identification(identification)))
    set_result(**identification_fields(identification))
    return int(not identification.explained)


def measured(options: argparse.Namespace) -> int:
    """Search for the causes of known deviations, print the result of each search, and return the exit status."""
    prepare_judging()
    mode = dict(zip(VISIBLE, MODES, strict=True))[options.visible]
    implementations = list(
        diagnosis.faulty_implementations(options.measure, options.number, mode, options.first - 1)
    )
    found = []
    with progress("Searching for known causes", len(implementations)) as advance:
        for faulty in implementations:
            result = diagnosis.measure_search(faulty, options.seconds)
            found.append(result)
            say(f"{result.result:8}{result.seconds:6.1f} s  {result.name}: {result.sentence}")
            advance()
    say("\n".join(diagnosis.table(found)))
    set_result(
        kind=options.measure,
        visible=options.visible,
        budget=options.seconds,
        diagnoses=[vars(result) for result in found],
    )
    return int(any(result.result == diagnosis.WRONG for result in found))


def format_identification(identification: Identification) -> list[str]:
    """Return the dialect and choices that were identified as lines of text."""
    implementation, (lacking, smaller) = identification.implementation, identification.unexplained_by_base
    lines = [identification.sentence, f"  {implementation.name} {implementation.version}"]
    if identification.choices and identification.fault is None:
        lines.append(f'  declare it: dialect = "{identification.dialect.name}"')
    if lacking:
        lines.append(
            f"  {identification.base.name} alone does not explain {lacking} of the {smaller} smallest batches"
        )
    for choice in identification.choices:
        alone = f"; this choice alone explains {choice.alone} of these {lacking} batches" if lacking else ""
        lines.append(f"  {choice.clause}: {choice.words}{alone}")
        if choice.smallest is not None:
            lines.append(f"    needed on {choice.smallest}")
    for tie in identification.ties:
        decision = (
            f"decided by {tie.deciding}" if tie.deciding else "no generated batch distinguishes the two"
        )
        lines += [f"  {tie.words} explains as many batches", f"    {decision}"]
    lines += format_left(identification)
    for fit in identification.fits:
        if fit.refuting is None and fit.dialect != identification.dialect:
            lines.append(f"  {fit.dialect.name} explains all {fit.batches} batches too")
    refuted = [fit.dialect.name for fit in identification.fits if fit.refuting is not None]
    if refuted:
        lines.append(f"  without choices, these dialects do not explain all batches: {', '.join(refuted)}")
    return lines


def format_left(identification: Identification) -> list[str]:
    """Return lines about the unexplained batches, counted by clause, the most frequent clause first."""
    lines = []
    left = sorted(identification.left.items(), key=lambda pair: -pair[1][0])
    for clause, (count, failure) in left[:SHOWN]:
        lines.append(f"  unexplained: {clause or 'exceptions'} on {count} batches: {failure.summary}")
        lines.append(f"    {failure.batch.origin}")
    if len(left) > SHOWN:
        lines.append(f"  also unexplained: {', '.join(clause or 'exceptions' for clause, _ in left[SHOWN:])}")
    return lines


def identification_fields(identification: Identification) -> dict[str, Any]:
    """Return the machine-readable result of an identification."""
    return {
        "implementation": implementation_fields(identification.implementation),
        "task": identification.implementation.task,
        "sentence": identification.sentence,
        "explained": identification.explained,
        "complete": identification.complete,
        "base": identification.base.name,
        "dialect": identification.dialect.name,
        "batches": identification.batches,
        "choices": choice_fields(identification),
        "unexplained": [
            {"batches": count, **failure_fields(failure)} for count, failure in identification.left.values()
        ],
        "ties": tie_fields(identification),
    }
