"""Dialects: an implementation that declares another than the newest differs where it says so, and only there."""

import pytest
from hypothesis import find, settings
from hypothesis.errors import NoSuchExample

from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.dialects.choices import DISTINGUISHING, MAX_EXAMPLES, SEARCH
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.suite.checker import Checker
from tal_reference import NEWEST, Dialect


@pytest.mark.clauses("DIALECT")
def test_declared_differences(checker: Checker) -> None:
    """The smallest batch on which the declared dialect and the newest one differ; both are checked on it."""
    declared = checker.subject.implementation.dialect
    if declared == NEWEST:
        return  # nothing is declared: every other test holds it to the newest dialect
    alone = "loss" not in checker.subject.implementation.capabilities
    recipe = smallest_difference(declared, alone)
    if recipe is None:
        reason = f"the assigner of {declared.name} is that of {NEWEST.name} on every batch that was drawn"
        name = checker.subject.implementation.name
        checker.recorder.line("not_tested", implementation=name, device=None, reason=reason)
        pytest.skip(reason)
    checker(recipe)  # it does what it declares ...
    against_newest = Subject(held_to(checker.subject.implementation, NEWEST), checker.subject.device)
    with pytest.raises(Failure) as caught:  # ... and so is not what the newest release does
        judge_against_reference(against_newest, recipe.build())
    checker.recorder.difference(caught.value, declared, NEWEST)


def smallest_difference(declared: Dialect, alone: bool = False) -> Recipe | None:
    """The smallest batch on which the reference in one dialect differs from the newest.

    It is sought among batches that show a choice in which they differ, choice by choice.

    Args:
        declared: the dialect.
        alone: its assigner alone.

    Returns:
        The recipe; None if the assigners differ on no batch that was drawn: the two may differ in the loss.

    Raises:
        Failed: with the loss there is none either, so that the dialect declares nothing.
    """
    subject = Subject(held_to(implementation_from(ReferenceAdapter(declared), "reference"), NEWEST), "cpu")
    wanted = settings(SEARCH, max_examples=MAX_EXAMPLES)
    for choice, (clause, batches) in DISTINGUISHING.items():
        if getattr(declared, choice) == getattr(NEWEST, choice) or (alone and not clause.startswith("TAL-")):
            continue
        try:
            return find(batches, lambda recipe: differs(subject, recipe, alone), settings=wanted)
        except NoSuchExample:
            continue
    if alone:
        return None
    pytest.fail(f"the dialect {declared.name} differs from {NEWEST.name} on no batch that was drawn")


def differs(subject: Subject, recipe: Recipe, alone: bool = False) -> bool:
    """Whether the subject, or its assigner alone, does not conform on the recipe's batch."""
    try:
        judge_against_reference(subject, recipe.build(), alone=alone)
    except Failure:
        return True
    return False


def held_to(implementation: Implementation, dialect: Dialect) -> Implementation:
    """The same implementation, held to another dialect."""
    return Implementation(**{**vars(implementation), "dialect": dialect})
