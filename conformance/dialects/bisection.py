"""Find the release at which a choice changed, by bisection over the published releases."""

from collections.abc import Callable, Sequence
from dataclasses import replace

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.progress import Advance
from tal_conformance.core.task import DETECT
from tal_conformance.dialects.choices import Choice, conforms_to
from tal_conformance.dialects.releases import version_text
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Subject
from tal_reference import Dialect
from tal_reference.eras import Version


def behaves_as_before(
    dialect: Dialect, choice: Choice, advance: Advance, task: str = DETECT.name
) -> Callable[[Version], bool]:
    """Return a function that returns True if a release still has the older value of a choice, on the choice's recipe.

    A release of detection is judged by the older dialect, whose recipes show one choice at a time. A release of another
    task is judged by its own dialect with the older value, because nearly every batch shows several choices.

    Args:
        dialect: the older dialect.
        choice: a choice with a recipe.
        advance: called once for each release that is judged.
        task: name of the task.
    """
    recipe = choice.recipe
    assert isinstance(recipe, Recipe)

    def is_as_before(release: Version) -> bool:
        implementation = find(f"ultralytics=={version_text(release)}").of_task(task)
        old = dialect
        if task != DETECT.name:
            old = replace(implementation.dialect, **{choice.name: getattr(dialect, choice.name)})
        try:
            as_before = conforms_to(Subject(replace(implementation, dialect=old), "cpu"), recipe)
        finally:
            close_worker(implementation)
        advance(f"{choice.clause}: {version_text(release)} is {'as before' if as_before else 'changed'}")
        return as_before

    return is_as_before


def close_worker(implementation: Implementation) -> None:
    """End the worker process of an implementation, if it has one. A later call would start a new process."""
    worker = getattr(implementation.adapter, "worker", None)
    if worker is not None:
        worker.close()


def first_changed_release(
    releases: Sequence[Version], is_as_before: Callable[[Version], bool]
) -> tuple[Version, Version] | None:
    """Return the neighbouring releases between which a behaviour changed; None if the last release is as before.

    If the behaviour changed several times, one of the changes is returned.

    Raises:
        UnknownImplementation: the first release does not behave as its own dialect prescribes.
    """
    low, high = 0, len(releases) - 1
    if not is_as_before(releases[low]):
        raise UnknownImplementation(
            f"ultralytics {version_text(releases[low])} does not follow the dialect of its era; expected the old "
            "behaviour in the first release of the range, because the release that changed the behaviour cannot be "
            "found otherwise"
        )
    if is_as_before(releases[high]):
        return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if is_as_before(releases[middle]) else (low, middle)
    return releases[low], releases[high]
