"""`tal-conformance identify IMPLEMENTATION`: find the dialects that explain everything an implementation does."""

import argparse

from tal_conformance.commands.program import prepare_judging
from tal_conformance.core.progress import progress
from tal_conformance.dialects.identification import Identification, Violations, distinguishable, identify
from tal_conformance.implementations.registry import find
from tal_reference import DIALECTS


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "implementation", metavar="NAME", help="implementation, as for the option --implementation"
    )


def run(options: argparse.Namespace) -> int:
    """Print the dialects that explain an implementation, or else the nearest dialect and its violations.

    Returns:
        0 if at least one dialect explains the implementation, 1 otherwise.

    Raises:
        UnknownImplementation, ProtocolViolation: the implementation could not be loaded.
    """
    prepare_judging()
    implementation, dialects = find(options.implementation), distinguishable(DIALECTS.values())
    with progress("Comparing with dialects", len(dialects)) as advance:
        identification = identify(implementation, dialects, advance)
    print("\n".join(format_identification(identification)))
    return int(not identification.explained)


def format_identification(identification: Identification) -> list[str]:
    """Return the lines of text about an identification."""
    implementation, nearest = identification.implementation, identification.nearest
    lines = [f"{implementation.name} {implementation.version}"]
    lines += [
        f"  {fit.dialect.name} explains all {fit.batches} batches"
        for fit in identification.fits
        if fit.refutation is None
    ]
    if nearest is not None:
        lines += format_violations(nearest)
    for fit in identification.fits:
        if fit.refutation is not None and (nearest is None or fit.dialect != nearest.dialect):
            clause = f"{fit.refutation.clause}: " if fit.refutation.clause else ""
            lines.append(f"  not {fit.dialect.name}: {clause}{fit.refutation.summary}")
            lines.append(f"    {fit.refutation.batch.origin}")
    return lines


def format_violations(nearest: Violations) -> list[str]:
    """Return the lines of text about the nearest dialect: its violations by clause, the most frequent first."""
    share = f"{nearest.total} of {nearest.batches} batches"
    lines = [
        f"  no known dialect explains the implementation; the nearest is {nearest.dialect.name}, violated on {share}:"
    ]
    for clause, count in sorted(nearest.counts.items(), key=lambda pair: -pair[1]):
        failure = nearest.smallest[clause]
        lines.append(f"    {clause or 'raises an error'} (first divergence on {count}): {failure.summary}")
        lines.append(f"      {failure.batch.origin}")
    return lines
