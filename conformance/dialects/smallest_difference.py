"""The smallest batch on which a dialect and the newest dialect have different results."""

from dataclasses import replace

from hypothesis import find, settings
from hypothesis.errors import NoSuchExample

from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.dialects.choices import CLAUSES, MAX_EXAMPLES, SEARCH
from tal_conformance.dialects.distinguishing import DISTINGUISHING
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import NEWEST, Dialect


def smallest_difference(declared: Dialect, alone: bool = False) -> Recipe | None:
    """Return the smallest batch on which the reference's results in `declared` and in the newest dialect differ.

    The differing choices are tried one after the other, on batches on which the choice affects the results.

    Args:
        declared: the dialect to compare with the newest.
        alone: True to compare assigners without losses.

    Returns:
        The recipe; None if the assigners agree on every generated batch, and only losses may differ.

    Raises:
        LookupError: assigners and losses agree on every generated batch, so that the dialect has no effect.
    """
    reference = implementation_from(ReferenceAdapter(declared), "reference")
    subject = Subject(replace(reference, dialect=NEWEST), "cpu")
    search = settings(SEARCH, max_examples=MAX_EXAMPLES)
    for choice, batches in DISTINGUISHING.items():
        changed = getattr(declared, choice) != getattr(NEWEST, choice)
        if not changed or (alone and not CLAUSES[choice].startswith("TAL-")):
            continue
        try:
            return find(batches, lambda recipe: _fails(subject, recipe, alone), settings=search)
        except NoSuchExample:
            continue
    if alone:
        return None
    raise LookupError(
        f"the dialect {declared.name} agrees with the newest dialect, {NEWEST.name}, on every generated batch"
    )


def _fails(subject: Subject, recipe: Recipe, alone: bool) -> bool:
    """Return True if the implementation, or its assigner alone, does not conform on the recipe's batch."""
    try:
        judge_against_reference(subject, recipe.build(), alone=alone)
    except Failure:
        return True
    return False
