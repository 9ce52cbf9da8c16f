"""Check the table of eras: judge one release for each distinct source code of assigner and loss.

Releases with identical files of assigner, loss and metrics are judged once, because the suite tests only those files.
"""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from pathlib import Path

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.core.task import DETECT
from tal_conformance.dialects.choices import differ, failure_on, strategies_for
from tal_conformance.dialects.evidence import distinguishing_recipe, distinguishing_recipes
from tal_conformance.dialects.releases import version_text
from tal_conformance.implementations.errors import PackageUnavailable, UnknownImplementation
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.workers.packages import Package, ensure_package
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference.eras import Era, Version, era_of
from tal_reference.eras_of_tasks import ERAS_BY_TASK

BATCHES_PER_STRATEGY = 3
"""Number of batches of each strategy on which a source is judged."""
SOURCE_FILES = ("tal.py", "loss.py", "metrics.py", "ops.py")
"""Files of `utils` that compute the assigner and the loss."""


@dataclass
class CheckedSource:
    """One distinct source code of assigner and loss, shared by one or more releases.

    Attributes:
        era: era of the releases.
        hash: hash of the source files.
        releases: releases with this source, oldest first.
        problem: difference between the first release and the era's dialect; "" if none was found.
        batches: number of batches on which the first release was judged.
        task: name of the task whose era it is.
    """

    era: Era
    hash: str
    releases: list[Version]
    problem: str = ""
    batches: int = 0
    task: str = DETECT.name


def distinct_sources(releases: Sequence[Version], task: str = DETECT.name) -> list[CheckedSource]:
    """Return the releases grouped by era and source code. Releases that are not in the cache are installed.

    Raises:
        UnknownImplementation: a release could not be installed.
    """
    sources: dict[tuple[Version, str], CheckedSource] = {}
    for release in releases:
        try:
            folder = ensure_package(Package("ultralytics", version_text(release)))
        except PackageUnavailable as error:
            raise UnknownImplementation(str(error)) from error
        era, digest = era_of(release, ERAS_BY_TASK[task]), source_hash(folder)
        new = CheckedSource(era, digest, [], task=task)
        sources.setdefault((era.first, digest), new).releases.append(release)
    return list(sources.values())


def source_hash(folder: Path) -> str:
    """Return a hash of the assigner, loss and metrics below a package folder.

    Up to release 8.0.110 the loss is defined in the trainer's file.
    """
    files = [
        *(
            folder / "ultralytics" / utils / name
            for utils in ("utils", "yolo/utils")
            for name in SOURCE_FILES
        ),
        folder / "ultralytics/yolo/v8/detect/train.py",
    ]
    digest = hashlib.sha256()
    for file in files:
        if file.is_file():
            digest.update(file.name.encode() + hashlib.sha256(file.read_bytes()).digest())
    return digest.hexdigest()


def check_source(source: CheckedSource) -> None:
    """Judge the first release that has a source code: it must follow its era's dialect, not the previous era's.

    The result is stored in `source`.
    """
    try:
        implementation = find(f"ultralytics=={version_text(source.releases[0])}").of_task(source.task)
    except UnknownImplementation as error:
        source.problem = str(error)
        return
    subject = Subject(implementation, "cpu")
    try:
        for recipe in recipes_for(implementation):
            source.batches += 1
            failure = failure_on(subject, recipe)
            if failure is not None:
                source.problem = format_failure(failure)
                return
        source.problem = problem_with_previous_era(subject, source.era)
    finally:
        implementation.adapter.worker.close()


def recipes_for(implementation: Implementation) -> Iterator[Recipe]:
    """Yield recipes on which to judge a release: recipes that distinguish eras, then some recipes of each strategy.

    Recipes with unsorted annotation rows are left out if the dialect requires sorted rows (ANN-1).
    """
    strategies = strategies_for(implementation)
    generated = (
        recipe for strategy in strategies for recipe in sample_recipes(strategy, BATCHES_PER_STRATEGY)
    )
    for recipe in (*distinguishing_recipes(implementation.task), *generated):
        if not (implementation.dialect.rows_sorted and recipe.shuffled):
            yield recipe


def problem_with_previous_era(subject: Subject, era: Era) -> str:
    """Return a sentence if a release follows the previous era's dialect on its own era's recipe, else "".

    An era that only adds a requirement on the order of annotation rows cannot be distinguished.
    """
    task = subject.implementation.task
    eras = ERAS_BY_TASK[task]
    number = eras.index(era)
    if not number:
        return ""
    previous, recipe = eras[number - 1].dialect, distinguishing_recipe(era, task)
    if not differ(previous, era.dialect, recipe):
        return ""
    held_to_previous = replace(subject, implementation=replace(subject.implementation, dialect=previous))
    return "" if failure_on(held_to_previous, recipe) else f"still follows {previous.name} on {recipe}"


def format_failure(failure: Failure) -> str:
    """Return a failure as one line: clause, summary and recipe."""
    return f"{failure.clause + ': ' if failure.clause else ''}{failure.summary}, on {failure.batch.origin}"


def unchecked_edges(releases: Sequence[Version], task: str = DETECT.name) -> list[tuple[Version, Version]]:
    """Return pairs of neighbouring releases of different eras, if the later release is not the first of its era.

    The edge between the eras may lie at any release between the two.
    """
    eras = ERAS_BY_TASK[task]
    return [
        (earlier, later)
        for earlier, later in pairwise(sorted(releases))
        if era_of(earlier, eras) != era_of(later, eras) and era_of(later, eras).first != later
    ]
