"""Measure how often the search for a cause names what an implementation computes.

The subjects are the reference with planted faults, and the reference with two or three choices changed at random. The
search is that of a failing run (`explain`), on a fixed set of batches instead of the batches of a run. For a planted
fault, batches of the check that must find it are added.

A dialect is the complete behaviour of an implementation. A choice is one property of a dialect.
"""

import random
import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from itertools import islice
from typing import Any

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies.named import LOSS_STRATEGIES
from tal_conformance.checks.registry import CHECKS
from tal_conformance.dialects.choices import differ
from tal_conformance.dialects.distinguishing import DISTINGUISHING
from tal_conformance.dialects.identification import explain
from tal_conformance.dialects.identified import Identification
from tal_conformance.dialects.known_faults import words_of
from tal_conformance.dialects.moves import values_of
from tal_conformance.dialects.observations import Observations, key_of
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.plant import HIDDEN, OUTPUTS_ALONE, STAGES_SHOWN, Hidden, implementation_with
from tal_conformance.mutation.planted_faults import FAULTS, Fault
from tal_conformance.mutation.planted_faults.as_choices import FAULTS_AS_CHOICES
from tal_reference import DIALECTS, NEWEST, Dialect, parse
from tal_reference.choices import differences
from tal_reference.choices import spelling as spelling_of

KINDS = {"faults": 0, "pairs": 2, "triples": 3}
"""Kinds of implementations with a known fault, with the number of changed choices; 0 for a planted fault."""
SEED = 18
"""Seed of the random dialects."""
SECONDS = 60.0
"""Budget of processor time of each search, that of a failing run."""
OF_CHOICE, OF_TEST, OF_CHECK = 4, 3, 24
"""Number of batches of each strategy for a choice, of each strategy of the suite's tests, and of the strategy of the
test that must find a planted fault."""
MAX_DISTINGUISHING = 40
"""Number of batches of a choice's strategy, of which one must show the choice for it to be planted."""
EXACT, TIE, PARTLY, NOTHING, WRONG, UNSEEN = "exact", "tie", "partly", "nothing", "wrong", "unseen"
RESULTS = {
    EXACT: "the planted choices and no others are named",
    TIE: "another set of choices is named, and no batch that was drawn distinguishes the two",
    PARTLY: "some of the planted choices are named, and batches are left",
    NOTHING: "no choice is named, and batches are left",
    WRONG: "choices are named that another batch refutes",
    UNSEEN: "the implementation conforms on all batches",
}
"""Results of a diagnosis, with their meanings."""
_OF_8_0_51 = {"metric_masked", "at_least_one"}
"""Choices that have an effect only where overlaps are computed off candidates too."""


@dataclass(frozen=True)
class FaultyImplementation:
    """An implementation with a known fault: it deviates from the newest release, which it declares.

    Attributes:
        name: name of the fault, or notation of the dialect.
        implementation: the implementation, which declares the newest release.
        planted: the dialect that it computes; None if no dialect describes its fault.
    """

    name: str
    implementation: Implementation
    planted: Dialect | None


@dataclass(frozen=True)
class Diagnosis:
    """Result of the search for the cause of the failures of one implementation with a known fault.

    Attributes:
        name: name of the fault, or notation of the dialect.
        result: a key of `RESULTS`.
        sentence: the sentence that a run prints.
        seconds: processor time of the search and its proof.
    """

    name: str
    result: str
    sentence: str
    seconds: float


def faulty_implementations(
    kind: str, number: int, mode: str = OUTPUTS_ALONE, begin: int = 0
) -> Iterator[FaultyImplementation]:
    """Yield implementations with a known fault, of one kind.

    Args:
        kind: a key of `KINDS`.
        number: number of implementations.
        mode: one of `MODES`: the visible parts of the results.
        begin: number of implementations that are left out at the beginning, to continue an earlier measurement.
    """
    if not KINDS[kind]:
        for name in visible_faults()[begin : begin + number]:
            spelling = FAULTS_AS_CHOICES.get(name)
            planted = parse(f"{NEWEST.name}, {spelling}") if spelling else None
            yield FaultyImplementation(name, implementation_with(FAULTS[name], mode), planted)
        return
    for dialect in islice(random_dialects(KINDS[kind]), begin, begin + number):
        yield FaultyImplementation(spelling_of(dialect), computing(dialect, mode), dialect)


def visible_faults() -> list[str]:
    """Return the names of the planted faults that small batches in float32 can show."""
    elsewhere = ("crossings", "precision", "class_weights")
    return [name for name, fault in FAULTS.items() if not fault.check.startswith(elsewhere)]


def computing(dialect: Dialect, mode: str) -> Implementation:
    """Return the reference in a dialect, as an implementation that declares the newest release."""
    adapter: Any = ReferenceAdapter(dialect)
    adapter.exposes_stages = mode == STAGES_SHOWN
    found = implementation_from(Hidden(adapter) if mode == HIDDEN else adapter, "faulty")
    return replace(found, dialect=NEWEST)


def random_dialects(size: int) -> Iterator[Dialect]:
    """Yield dialects that differ from a release in `size` random choices, the same in every process.

    Each choice must change the reference's results on some batch in the presence of the others.
    """
    chance = random.Random(SEED)
    names = list(DISTINGUISHING)
    while True:
        chosen = sorted(chance.sample(names, size), key=names.index)
        base = DIALECTS["ultralytics-8.0.51"] if _OF_8_0_51 & set(chosen) else NEWEST
        values = {name: chance.choice(other_values(name, base)) for name in chosen}
        dialect = base.but(**values)
        if all(has_effect(dialect, name, getattr(base, name)) for name in chosen):
            yield dialect


def other_values(name: str, base: Dialect) -> list[Any]:
    """Return the values of a choice that differ from that of `base`."""
    return [value for value in values_of(name) if value != getattr(base, name)]


def has_effect(dialect: Dialect, name: str, official: Any) -> bool:
    """Return True if the value of a choice changes the reference's results on a batch of the choice's strategy."""
    without = replace(dialect, **{name: official})
    return any(
        differ(dialect, without, recipe)
        for recipe in sample_recipes(DISTINGUISHING[name], MAX_DISTINGUISHING)
    )


@cache
def fixed_recipes() -> list[Recipe]:
    """Return the recipes of the batches on which each search is measured."""
    of_choices = [sample_recipes(strategy, OF_CHOICE) for strategy in dict.fromkeys(DISTINGUISHING.values())]
    of_tests = [sample_recipes(strategy, OF_TEST) for strategy in LOSS_STRATEGIES.values()]
    return list(dict.fromkeys(recipe for drawn in (*of_choices, *of_tests) for recipe in drawn))


def recipes_of_check(name: str) -> Sequence[Recipe]:
    """Return recipes of the check that must find a planted fault, as a run has them; none for changed choices."""
    check = CHECKS[FAULTS[name].check.partition("[")[0]] if name in FAULTS else None
    if check is None or check.argument != "recipe":
        return ()
    return sample_recipes(check.strategy, OF_CHECK)


def measure_search(faulty: FaultyImplementation, seconds: float = SECONDS) -> Diagnosis:
    """Search for the cause of an implementation's failures on the fixed batches, and compare it with the true one."""
    observations = Observations(faulty.implementation)
    recipes = list(dict.fromkeys([*fixed_recipes(), *recipes_of_check(faulty.name)]))
    failing = [recipe for recipe in recipes if not observations.conforms(recipe, NEWEST)]
    if not failing:
        return Diagnosis(faulty.name, UNSEEN, "", 0.0)
    passing = [recipe for recipe in recipes if observations.conforms(recipe, NEWEST)]
    began = time.process_time()
    found = explain(observations, failing, passing, seconds, faults=FAULTS.values())
    spent = time.process_time() - began
    return Diagnosis(faulty.name, result_of(found, faulty.name, faulty.planted), found.sentence, spent)


def result_of(found: Identification, name: str, planted: Dialect | None) -> str:
    """Return the result of a diagnosis, a key of `RESULTS`.

    Args:
        found: the result of the search.
        name: name of the planted fault or choices.
        planted: the dialect that the implementation computes; None if no dialect describes its fault.
    """
    if found.as_declared:
        return NOTHING
    if found.fault is not None and found.fault.name == name:
        return EXACT
    if planted is None:
        if found.missing or not found.complete:
            return PARTLY
        return WRONG if is_refuted(found, FAULTS[name]) else TIE
    if key_of(found.dialect) == key_of(planted):
        return PARTLY if found.missing else EXACT
    if found.missing:
        right = {name for name, value in vars(found.dialect).items() if value == getattr(planted, name)}
        return PARTLY if right & set(differences(found.dialect, NEWEST)) else NOTHING
    return WRONG if distinguishing_batch(found.dialect, planted) else TIE


def is_refuted(found: Identification, fault: Fault) -> bool:
    """Return True if an implementation with a fault does not conform to the dialect that was found on some batch.

    The batches are those of the check that must find the fault.
    """
    if found.fault is not None:
        return words_of(fault) not in {tie.words for tie in found.ties}
    check = CHECKS[fault.check.partition("[")[0]]
    recipes = sample_recipes(check.strategy, MAX_DISTINGUISHING) if check.argument == "recipe" else ()
    observations = Observations(found.implementation)
    return not all(observations.conforms(recipe, found.dialect) for recipe in recipes)


def distinguishing_batch(found: Dialect, planted: Dialect) -> Recipe | None:
    """Return a batch on which the reference's results in two dialects differ; None if none was drawn."""
    names = differences(found, planted)
    drawn = (
        r
        for name in names
        if name in DISTINGUISHING
        for r in sample_recipes(DISTINGUISHING[name], MAX_DISTINGUISHING)
    )
    return next((recipe for recipe in drawn if differ(found, planted, recipe)), None)


def table(diagnoses: Sequence[Diagnosis]) -> list[str]:
    """Return lines of text with the number of diagnoses by result, and the seconds."""
    counts = Counter(diagnosis.result for diagnosis in diagnoses)
    lines = [f"{counts[name]:5} {name}: {meaning}" for name, meaning in RESULTS.items() if counts[name]]
    seconds = [diagnosis.seconds for diagnosis in diagnoses if diagnosis.result != UNSEEN]
    if seconds:
        lines.append(
            f"seconds of processor time: median {statistics.median(seconds):.1f}, largest {max(seconds):.1f}"
        )
    return lines
