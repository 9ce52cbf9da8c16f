"""`tal-conformance export FOLDER`: write test vectors, batches as files for programs in any language."""

import argparse
from collections import Counter
from pathlib import Path
from typing import Any

from tal_conformance.checks.profiles import PROFILES
from tal_conformance.commands.arguments import SHIPPED
from tal_conformance.commands.program import (
    DISTRIBUTION,
    CommandError,
    dialect_named,
    prepare_judging,
    version,
)
from tal_conformance.commands.results import set_result
from tal_conformance.core.task import DETECT
from tal_conformance.core.vectors import MANIFEST, VectorSet
from tal_conformance.mutation.vector_set import shipped_vectors
from tal_conformance.mutation.vectors import VectorBatch, batches_of_checks, left_out, write_vectors
from tal_reference import NEWEST, Dialect
from tal_text import say


def run(options: argparse.Namespace) -> int:
    """Write the vectors, and print the next step.

    Raises:
        CommandError: the dialect is unknown, or the folder is not empty or cannot be written.
    """
    prepare_judging()
    dialect = dialect_named("--dialect", options.dialect) or NEWEST
    make_folder(options.folder)
    batches, facts = selected(options, dialect)
    vectors = write(options.folder, batches, dialect, facts)
    size = sum(path.stat().st_size for path in options.folder.rglob("*") if path.is_file())
    results = Counter(vector.result for vector in vectors.vectors)
    say(
        f"{len(vectors.vectors):,} vectors of task {vectors.task}, {size / 1e6:.1f} MB, in {options.folder}: "
        + ", ".join(f"{results[kind]:,} {kind}" for kind in sorted(results))
    )
    say(f"next: write a program's outcomes into {options.folder / 'outcomes' / 'NAME'}, then judge them:")
    say(f"  tal-conformance judge {options.folder}")
    set_result(folder=options.folder, vectors=len(vectors.vectors), bytes=size, results=dict(results))
    return 0


def selected(options: argparse.Namespace, dialect: Dialect) -> tuple[list[VectorBatch], dict[str, Any]]:
    """Return the batches that the options select, and further fields of the list of vectors.

    Raises:
        CommandError: options contradict each other, or the shipped set cannot be built.
    """
    facts = {
        "task": options.task,
        "profile": options.profile,
        "left_out": left_out(options.task, options.profile == SHIPPED),
    }
    if options.profile != SHIPPED:
        number = options.examples or PROFILES[options.profile].examples
        return batches_of_checks(number, dialect, options.task), facts
    if options.task != DETECT.name or options.examples is not None or dialect != NEWEST:
        raise CommandError(
            f"--profile {SHIPPED}: the set is of task detect and dialect {NEWEST.name}: leave out --task, --examples "
            "and --dialect, or name another profile"
        )
    try:
        batches, fields = shipped_vectors()
    except ValueError as error:
        raise CommandError(f"the shipped vectors cannot be built: {error}") from error
    return batches, facts | {"number": fields["set"]}


def make_folder(folder: Path) -> None:
    """Make the folder of the vectors.

    Raises:
        CommandError: the folder has files, or cannot be made.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        if any(folder.iterdir()):
            raise CommandError(
                f"{folder} is not empty: name a new folder, or remove {folder / MANIFEST} and the rest"
            )
    except OSError as error:
        raise CommandError(f"cannot make the folder {folder}: {error}") from error


def write(folder: Path, batches: list[VectorBatch], dialect: Dialect, facts: dict[str, Any]) -> VectorSet:
    """Write vectors into a folder.

    Raises:
        CommandError: a file cannot be written.
    """
    generator = f"{DISTRIBUTION} {version()}"
    try:
        return write_vectors(folder, batches, dialect, facts, generator)
    except OSError as error:
        raise CommandError(f"cannot write the vectors: {error}") from error
