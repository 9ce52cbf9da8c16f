"""Find properties that failing batches have and conforming batches lack, if no choice explains the failures.

A choice is a known difference between releases, such as CIoU instead of IoU as the overlap.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from math import prod
from typing import Any

from tal_conformance.batches.hazards.catalogue import MEANINGS
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.recipe_source import recipe_from
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.core.verdicts import Verdict
from tal_conformance.dialects.choices import strategies_for
from tal_conformance.dialects.observations import Observations, size_of
from tal_reference import Dialect, Hyperparameters

Line = dict[str, Any]

MAX_SHOWN = 3
"""Maximum number of properties that are reported."""
DRAWN = 80
"""Number of batches that are drawn to test the properties."""
PER_STRATEGY = 12
"""Number of recipes of each strategy among which batches are drawn."""
MAX_THRESHOLDS = 12
"""Maximum number of thresholds that are tried for one number, such as the number of anchors."""
FAILING = tuple(verdict.value for verdict in Verdict if verdict.fails)
"""Names of the verdicts with which a run fails."""
DEFAULTS = Hyperparameters()


@dataclass(frozen=True)
class Property:
    """A property that a batch has or lacks.

    Attributes:
        having: predicate of batches with the property, in the plural: "are not square".
        lacking: predicate of batches without the property: "are square".
        of_content: True for a property of the batch, False for a property of the call, such as its dtype. Only
            properties of the batch are tested on newly generated batches.
    """

    having: str
    lacking: str
    of_content: bool = True


@dataclass(frozen=True)
class Sample:
    """A judged batch: its properties, and True if it failed."""

    properties: frozenset[Property]
    failed: bool


@dataclass(frozen=True)
class Split:
    """Numbers of failing batches among the batches that have a property, and among the batches that lack the property.

    Attributes:
        words: predicate of the group that fails more often: the batches that have the property, or the batches that
            lack it.
        failing, total: number of failing batches and number of all batches in this group.
        other_failing, other_total: number of failing batches and number of all batches in the other group.
    """

    words: str
    failing: int
    total: int
    other_failing: int
    other_total: int

    @property
    def errors(self) -> int:
        """Number of batches that are wrongly predicted by "a batch fails if and only if the predicate holds"."""
        return self.total - self.failing + self.other_failing

    @property
    def is_sharp(self) -> bool:
        """True if `errors` is at most half the errors of the better of "every batch fails" and "no batch fails"."""
        failing = self.failing + self.other_failing
        return 2 * self.errors <= min(failing, self.total + self.other_total - failing)

    @property
    def information(self) -> float:
        """Mutual information of predicate and failure in bits, times the number of batches."""
        failing, all_batches = self.failing + self.other_failing, self.total + self.other_total
        return (
            _entropy(failing, all_batches)
            - _entropy(self.failing, self.total)
            - _entropy(self.other_failing, self.other_total)
        )

    @property
    def sentence(self) -> str:
        """A sentence with the numbers of failing batches in both groups."""
        return (
            f"It fails on {self.failing} of {self.total} batches that {self.words}, and on {self.other_failing} of "
            f"{self.other_total} others."
        )


def _entropy(failing: int, total: int) -> float:
    """Return `total` times the entropy in bits of a batch's result, if `failing` of `total` batches fail."""
    parts = [part for part in (failing, total - failing) if part]
    return -sum(part * math.log2(part / total) for part in parts)


def shared_properties(
    observations: Observations,
    dialect: Dialect,
    lines: Sequence[Line],
    failed: Callable[[Line], bool | None],
    out_of_time: Callable[[], bool],
) -> list[dict[str, str | None]]:
    """Return the properties that separate failing from conforming batches, the sharpest first, as log fields.

    Newly generated batches are judged too. A property that separates failing from conforming batches of the run only by
    chance does not separate the newly generated batches, and is left out.

    Args:
        observations: outcomes of the implementation, which also judge newly generated batches.
        dialect: the dialect by which newly generated batches are judged.
        lines: `batch` lines of the run.
        failed: returns True if the batch of a line fails, False if it conforms, None if that is unknown.
        out_of_time: returns True when no more batches may be judged.
    """
    judged = [(line, recipe_of(line), result) for line in lines if (result := failed(line)) is not None]
    new_samples = [] if out_of_time() else new_results(observations, dialect, out_of_time)
    recipes = [recipe for _, recipe, _ in judged if recipe is not None] + [
        recipe for recipe, _ in new_samples
    ]
    limits = thresholds([numbers_of(recipe) for recipe in recipes])
    of_run = [
        Sample(frozenset((*call_properties(line), *properties_of(line["hazards"], recipe, limits))), result)
        for line, recipe, result in judged
    ]
    of_draws = [
        Sample(frozenset(properties_of(observations.batch(recipe).hazards, recipe, limits)), result)
        for recipe, result in new_samples
    ]
    found = [
        {"sentence": split_by(prop, of_run).sentence, "tested": tested_sentence(prop, of_draws)}
        for prop in sharpest([*of_run, *of_draws])
        if split_by(prop, of_run).is_sharp and not is_refuted(prop, of_draws)
    ]
    return found[:MAX_SHOWN] or without_property(of_run)


def without_property(samples: Sequence[Sample]) -> list[dict[str, str | None]]:
    """Return a sentence about failures that no property explains, as log fields; no sentence if no batch fails."""
    failing, judged = sum(sample.failed for sample in samples), len(samples)
    if failing == judged:
        sentence = f"It fails on all {judged} batches."
    else:
        sentence = f"It fails on {failing} of {judged} batches; no property of the batches separates them from others."
    return [{"sentence": sentence, "tested": None}] if failing else []


def is_refuted(prop: Property, new_samples: Sequence[Sample]) -> bool:
    """Return True if some newly generated batches fail and others conform, but a property does not separate them."""
    results = {sample.failed for sample in new_samples}
    return prop.of_content and len(results) == 2 and not split_by(prop, new_samples).is_sharp


def tested_sentence(prop: Property, new_samples: Sequence[Sample]) -> str | None:
    """Return a sentence about how a property separates newly generated batches.

    Return None if no batches were generated, or if the property is a property of the call.
    """
    if not new_samples or not prop.of_content:
        return None
    split = split_by(prop, new_samples)
    return (
        f" Of {len(new_samples)} batches drawn to test this, it fails on {split.failing} of {split.total}, and on "
        f"{split.other_failing} of {split.other_total} others."
    )


def recipe_of(line: Line) -> Recipe | None:
    """Return the recipe of a line's batch; None if the batch was not generated."""
    try:
        return recipe_from(line.get("recipe") or "")
    except ValueError:
        return None


def failing_line(line: Line) -> bool | None:
    """Return True if the verdict in a `batch` line is a failure, False if it conforms, None for other verdicts."""
    if line["verdict"] in FAILING:
        return True
    return False if line["verdict"] in ("exact", "within_bound", "admissible", "rejected") else None


def numbers_of(recipe: Recipe) -> dict[str, int]:
    """Return the sizes of a recipe's batch that may cause a failure, such as the number of images, by name."""
    return {
        "images": len(recipe.images),
        "ground truths in an image": max(map(len, recipe.images)),
        "anchors": sum(map(prod, recipe.grids)),
        "classes": recipe.classes,
        "bins": recipe.reg_max,
        "levels": len(recipe.strides),
        "selected anchors for a ground truth (k)": recipe.hyperparameters.topk,
    }


def thresholds(numbers: Sequence[dict[str, int]]) -> dict[str, list[int]]:
    """Return for every size of a batch, by name, at most `MAX_THRESHOLDS` of its occurring values as thresholds."""
    limits = {}
    for name in numbers[0] if numbers else ():
        values = sorted({of[name] for of in numbers})[1:]
        limits[name] = values[:: max(1, -(-len(values) // MAX_THRESHOLDS))]
    return limits


def properties_of(
    hazards: Sequence[str] | frozenset[str], recipe: Recipe | None, limits: dict[str, list[int]]
) -> Iterator[Property]:
    """Yield the properties that a batch has by its content.

    Args:
        hazards: names of the hazards of the batch.
        recipe: recipe of the batch; None if the batch was not generated.
        limits: thresholds of each size of a batch, as returned by `thresholds`.
    """
    for hazard in hazards:
        meaning = MEANINGS.get(hazard, "").rstrip(".")
        yield Property(
            f"have the hazard {hazard} ({meaning})", f"do not have the hazard {hazard} ({meaning})"
        )
    if recipe is None:
        return
    if recipe.cells[0] != recipe.cells[1]:
        yield Property("are not square", "are square")
    for name, number in numbers_of(recipe).items():
        for limit in limits.get(name, ()):
            if number >= limit:
                yield Property(f"have at least {limit} {name}", f"have fewer than {limit} {name}")
    strides = "/".join(map(str, recipe.strides))
    yield Property(f"have strides {strides}", f"do not have strides {strides}")
    yield Property(f"have {recipe.predictions} predictions", f"do not have {recipe.predictions} predictions")
    numbers = recipe.hyperparameters
    if numbers.effective_topk2 is not None:
        yield Property("have a topk2", "have no topk2")
    for name in ("alpha", "beta", "box_gain", "cls_gain", "dfl_gain"):
        if getattr(numbers, name) != getattr(DEFAULTS, name):
            yield Property(f"have another {name} than the default", f"have the default {name}")


def call_properties(line: Line) -> Iterator[Property]:
    """Yield the properties of a call: dtype, autocast, the test's own parameter, earlier calls."""
    precision = f"{line['dtype']} under autocast" if line.get("autocast") else line["dtype"]
    yield Property(f"are in {precision}", f"are not in {precision}", False)
    if line.get("parameter"):
        name = f"{line['test']}[{line['parameter']}]"
        yield Property(f"are of {name}", f"are not of {name}", False)
    yield Property(f"are of {line['test']}", f"are not of {line['test']}", False)
    if line["test"] == "test_state":
        yield Property("follow other calls", "follow no other calls", False)


def sharpest(samples: Sequence[Sample]) -> list[Property]:
    """Return the properties that separate failing from conforming batches sharply, the most informative first.

    Of several properties that divide the batches in the same way, the one with the shortest words is returned.
    """
    properties = dict.fromkeys(sorted({p for sample in samples for p in sample.properties}, key=repr))
    splits = [(split_by(prop, samples), prop) for prop in properties]
    sharp = [(split, prop) for split, prop in splits if split.is_sharp]
    order = sorted(sharp, key=lambda pair: (-round(pair[0].information, 6), len(pair[0].words)))
    first: dict[tuple[bool, ...], Property] = {}
    for _, prop in order:
        having = tuple(prop in sample.properties for sample in samples)
        first.setdefault(having if having[0] else tuple(not has for has in having), prop)
    return list(first.values())


def split_by(prop: Property, samples: Sequence[Sample]) -> Split:
    """Count failing batches with and without a property; the group that fails more often comes first."""
    having = [sample.failed for sample in samples if prop in sample.properties]
    lacking = [sample.failed for sample in samples if prop not in sample.properties]
    more_often = sum(having) * max(1, len(lacking)) >= sum(lacking) * max(1, len(having))
    first, second = (having, lacking) if more_often else (lacking, having)
    words = prop.having if more_often else prop.lacking
    return Split(words, sum(first), len(first), sum(second), len(second))


def new_results(
    observations: Observations, dialect: Dialect, out_of_time: Callable[[], bool]
) -> list[tuple[Recipe, bool]]:
    """Return newly generated recipes, each with True if the implementation fails on its batch.

    The recipes are every n-th of the smaller half of all recipes of the strategies on which the implementation can be
    tested.

    Args:
        observations: outcomes of the implementation.
        dialect: the dialect by which the batches are judged.
        out_of_time: returns True when no more batches may be judged.
    """
    strategies = strategies_for(observations.implementation)
    recipes = {recipe for strategy in strategies for recipe in sample_recipes(strategy, PER_STRATEGY)}
    smaller = sorted(recipes, key=size_of)[: max(DRAWN, len(recipes) // 2)]
    results = []
    for recipe in smaller[:: max(1, len(smaller) // DRAWN)]:
        if out_of_time():
            break
        results.append((recipe, not observations.conforms(recipe, dialect)))
    return results
