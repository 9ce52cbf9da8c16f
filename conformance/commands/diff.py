"""`tal-conformance diff A B`: list what changes for training from one implementation to another."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tal_conformance.commands.cases import case_files
from tal_conformance.commands.compared_task import with_task
from tal_conformance.commands.program import CommandError, prepare_judging
from tal_conformance.commands.results import failure_fields, implementation_fields, set_result
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.progress import progress
from tal_conformance.dialects.choices import strategies_for
from tal_conformance.dialects.comparison import (
    Comparison,
    Difference,
    compare,
    format_behaviour,
    format_comparison,
)
from tal_conformance.dialects.own_cases import CaseEffect, effect_on, format_effects
from tal_conformance.dialects.page import page_path, write_page
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_reports import visible
from tal_text import say


def run(options: argparse.Namespace) -> int:
    """Print the changes from one implementation to another, and write them as a page with pictures.

    Returns:
        0 if nothing changed, 1 otherwise.

    Raises:
        UnknownImplementation, ProtocolViolation: an implementation could not be loaded.
        CommandError: the page could not be written, or a case not be read; the exit status is 1 if something changed
            and the page could not be written, else 2.
    """
    prepare_judging()
    first, second = with_task(list(map(find, options.implementations)), options.task)
    path = options.html or page_path(Path.cwd(), first.name, second.name)
    steps = sum(len(strategies_for(implementation)) for implementation in (first, second))
    with progress(f"Comparing {first.name} and {second.name}", steps) as advance:
        comparison = compare(first, second, advance)
    say(visible("\n".join(format_comparison(comparison))))
    set_result(**comparison_fields(comparison), page=None, cases=[])
    if options.cases:
        effects = own_effects(first, second, options.cases)
        say(visible("\n".join(["", *format_effects(effects, first.name, second.name)])))
        set_result(cases=[_effect_fields(effect) for effect in effects])
    try:
        write_page(comparison, path)
    except OSError as error:
        raise CommandError(
            f"cannot write the page {path}: {error}. Name another file with --html",
            status=int(not comparison.same) or 2,
        ) from error
    say(visible(f"\n  page with pictures: {path}"))
    set_result(page=path)
    return int(not comparison.same)


def own_effects(first: Implementation, second: Implementation, cases: Sequence[Path]) -> list[CaseEffect]:
    """Return the effect of a change on case files, or on those of folders.

    Raises:
        CommandError: a case file was not found, or cannot be read.
    """
    effects = []
    for path in (file for case in cases for file in case_files(case)):
        try:
            batch = Batch.load(path)
        except (InvalidCase, OSError) as error:
            raise CommandError(str(error)) from error
        effects.append(effect_on(first, second, path, batch))
    return effects


def _effect_fields(effect: CaseEffect) -> dict[str, Any]:
    return {
        "file": effect.path,
        "clauses": [choice.clause for choice in effect.choices],
        "before": effect.before,
        "after": effect.after,
        "change": effect.change,
        "problem": effect.problem or None,
    }


def comparison_fields(comparison: Comparison) -> dict[str, Any]:
    """Return the machine-readable result of a comparison."""
    return {
        "first": implementation_fields(comparison.first),
        "second": implementation_fields(comparison.second),
        "task": comparison.first.task,
        "same": comparison.same,
        "batches": comparison.batches,
        "differences": [
            _difference_fields(difference, comparison.second.name) for difference in comparison.differences
        ],
        "unexpected": [failure_fields(failure) for failure in comparison.unexpected],
    }


def _difference_fields(difference: Difference, second: str) -> dict[str, Any]:
    choice = difference.choice
    has_batch = choice.recipe is not None
    return {
        "clause": choice.clause,
        "choice": choice.name,
        "before": choice.before,
        "after": choice.after,
        "batch": str(choice.recipe) if has_batch else None,
        "behaviour": format_behaviour(difference, second) if has_batch else None,
        "share": difference.share,
        "recorded": difference.recorded,
    }
