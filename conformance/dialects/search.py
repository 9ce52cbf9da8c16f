"""The smallest set of choices that explains everything that an implementation does.

The search starts from the official dialect that explains the most batches of a sample. It makes one choice differently
at a time, the one that leaves the fewest batches unexplained; where no choice helps, pairs and then triples. Then all
batches of the run are judged by the composed dialect, and those that it does not explain join the sample. Choices
without which everything is explained as well are dropped again.
"""

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, replace
from enum import Enum
from itertools import combinations
from typing import Any

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.task import DETECT, StageName
from tal_conformance.dialects.choices import differ
from tal_conformance.dialects.observations import RAISED, READING, RETURNED, Observations, size_of
from tal_reference import ARTICLE, CHOICES, DIALECTS, NEWEST, Dialect
from tal_reference.choices import differences

PROBES = 48
"""Batches of the sample that official dialects are ranked on, at first."""
FEW, MANY = 4, 10
"""Unexplained batches on which every choice is tried, and those on which the most promising choices are."""
BASES = 3
"""Official dialects relative to which choices are dropped."""
STARTS = 2
"""Official dialects that the search starts from, if the first one does not lead to an explanation of all."""
STUCK = 2
"""Times that unexplained batches join the sample without an improvement before the search ends."""
MISSING = 8
"""Unexplained batches that join the sample at a time."""
PROMISING = 3
"""Choices that are tried on many batches."""
ASSIGNMENT_STAGES = (*DETECT.stages_of("assignment"), StageName.DECODE)
Move = dict[str, Any]
"""Choices to make differently, by name of the field."""

_FIELDS = {field.name: field.default for field in fields(Dialect)}
_EPS = (1e-9, 1e-8, 1e-7, 1e-6, 1e-12, 1e-16)
"""Values of the normalisation's eps that are tried: those of one digit that float32 or float64 code has."""


def values_of(name: str) -> list[Any]:
    """Return the values of a choice that the search tries."""
    default = _FIELDS[name]
    if isinstance(default, bool):
        return [False, True]
    if isinstance(default, Enum):
        return list(type(default))
    return list(_EPS) if name == "norm_eps" else [0.0, 1.0]


def moves_from(dialect: Dialect) -> list[Move]:
    """Return every single choice made differently, in the order of the stages."""
    return [
        {name: value}
        for name in CHOICES
        if name != "rows_sorted"
        for value in values_of(name)
        if value != getattr(dialect, name)
    ]


class OutOfTimeError(Exception):
    """The search has used its budget of processor time."""


class Search:
    """A search for the dialect of an implementation.

    Args:
        observations: outcomes of the implementation.
        recipes: the batches of the run, the smallest first.
        seconds: budget of processor time.
    """

    def __init__(self, observations: Observations, recipes: Sequence[Recipe], seconds: float) -> None:
        self.observations, self.recipes = observations, recipes
        self.deadline = time.process_time() + seconds
        self.best = NEWEST
        self.reads_rows = "loss" in observations.implementation.capabilities
        outcomes = (observations.observed(recipe, NEWEST).outcome for recipe in self.spread(FEW))
        self.shows_assignment = any(
            outcome is not None and outcome.assignment is not None for outcome in outcomes
        )

    def check_time(self) -> None:
        """Raise if the budget is used up.

        Raises:
            OutOfTimeError: it is.
        """
        if time.process_time() > self.deadline:
            raise OutOfTimeError

    def extended(self, seconds: float) -> bool:
        """Grant a new budget of seconds, and return True if the one before was not used up."""
        in_time = time.process_time() <= self.deadline
        self.deadline = time.process_time() + seconds
        return in_time

    def misfit(self, dialect: Dialect, recipes: Iterable[Recipe]) -> float:
        """Return a measure of what a dialect leaves unexplained: batches, and a little for every diverging stage."""
        total = 0.0
        for recipe in recipes:
            self.check_time()
            stages = self.observations.diverging(recipe, dialect)
            total += 1 + 0.02 * len(stages) if stages else 0
        return total

    def unexplained(self, dialect: Dialect, recipes: Iterable[Recipe]) -> list[Recipe]:
        """Return the batches that a dialect does not explain, without those that no choice can explain.

        An implementation that raises on a supported batch has a limit or a fault, and no choice.
        """
        return [recipe for recipe in recipes if self.observations.diverging(recipe, dialect)]

    def run(self, bases: Sequence[Dialect]) -> Dialect:
        """Return the dialect that leaves the fewest batches unexplained, with no choice that makes no difference."""
        self.best = bases[0]
        try:
            for number, base in enumerate(self.ranked(bases)[:STARTS]):
                dialect, explained = self.explained_from(base, first=number == 0)
                if explained or self.misfit(dialect, self.spread(PROBES)) < self.misfit(
                    self.best, self.spread(PROBES)
                ):
                    self.best = dialect
                if explained:
                    break
            self.best = self.without_needless(self.best)
        except OutOfTimeError:
            pass
        return self.best

    def explained_from(self, dialect: Dialect, first: bool) -> tuple[Dialect, bool]:
        """Return the best explanation from one official dialect, and True if no batch that it could explain is left.

        Args:
            dialect: the official dialect.
            first: True if the explanation so far is the best one, which is kept if the budget is used up.
        """
        sample, stuck = self.spread(PROBES), 0
        while stuck < STUCK:
            better = self.explain(dialect, sample, first)
            stuck, dialect = (stuck + 1 if better is dialect else 0), better
            missing = self.first_missing(dialect, known=set(sample))
            if not missing:
                break
            sample = [*sample, *missing]
        return dialect, not self.first_missing(dialect, known=set())

    def first_missing(self, dialect: Dialect, known: set[Recipe]) -> list[Recipe]:
        """Return the first unexplained batches of the run beside the known ones, those that refute most first."""
        missing: list[Recipe] = []
        for recipe in self.telling_first(self.recipes):
            if (
                recipe not in known
                and not self.conforming(recipe, dialect)
                and self.can_be_explained(recipe, dialect)
            ):
                missing.append(recipe)
                if len(missing) == MISSING:
                    break
        return missing

    def telling_first(self, recipes: Iterable[Recipe]) -> list[Recipe]:
        """Return batches in the order of the number of dialects that they have refuted so far, then of their size."""
        refutations = self.observations.refutations
        return sorted(recipes, key=lambda recipe: -refutations.get(recipe, 0))

    def ranked(self, bases: Sequence[Dialect]) -> list[Dialect]:
        """Return official dialects, the one that fits a sample best first."""
        sample = self.spread(PROBES // 2)
        return sorted(bases, key=lambda dialect: self.misfit(dialect, sample))

    def spread(self, count: int) -> list[Recipe]:
        """Return about `count` batches of the smaller half, which is judged soonest, without those that raise."""
        smaller = self.recipes[: max(count, len(self.recipes) // 2)]
        returned = [recipe for recipe in smaller if not self.observations.observed(recipe, NEWEST).raised]
        return list(returned[:: max(1, len(returned) // count)])

    def explain(self, dialect: Dialect, sample: Sequence[Recipe], first: bool = True) -> Dialect:
        """Make choices differently as long as the sample is explained better; `first` as in `explained_from`."""
        while unexplained := self.unexplained(dialect, sample):
            better = self.improved(dialect, unexplained)
            if better is None:
                return dialect
            dialect = better
            if first:
                self.best = dialect
        return dialect

    def improved(self, dialect: Dialect, unexplained: Sequence[Recipe]) -> Dialect | None:
        """Return the dialect with one, two or three choices made differently that explains the most; None if none."""
        unexplained = [recipe for recipe in unexplained if self.can_be_explained(recipe, dialect)]
        if not unexplained:
            return None
        singles = [move for move in moves_from(dialect) if self.reads_rows or not move.keys() & set(READING)]
        likely = self.likely(dialect, singles, unexplained)
        for moves in (likely, [move for move in singles if move not in likely]):
            found = self.best_of(dialect, moves, unexplained)
            if found is not None:
                return found
        for size in (2, 3):
            found = self.best_of(dialect, self.combined(dialect, singles, size, unexplained), unexplained)
            if found is not None:
                return found
        return None

    def likely(self, dialect: Dialect, moves: Sequence[Move], unexplained: Sequence[Recipe]) -> list[Move]:
        """Return the moves of the part that diverges first: that of the assignment, or that of the loss.

        A loss that shows nothing diverges in its terms whatever the cause: then every move is likely.
        """
        if not self.shows_assignment:
            return list(moves)
        stages = {stage for recipe in unexplained for stage in self.observations.diverging(recipe, dialect)}
        of_loss = not stages & {*ASSIGNMENT_STAGES, RAISED, RETURNED}
        return [move for move in moves if CHOICES[next(iter(move))].clause.startswith("LOSS-") == of_loss]

    def can_be_explained(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True unless the implementation raises on a batch that every dialect supports."""
        stages = self.observations.diverging(recipe, dialect)
        supported = len(recipe.strides) > 1 and recipe.hyperparameters.effective_topk2 is None
        return not (RAISED in stages and (supported or recipe.reg_max == 1))

    def combined(
        self, dialect: Dialect, singles: Sequence[Move], size: int, unexplained: Sequence[Recipe]
    ) -> Iterator[Move]:
        """Yield combinations of choices that explain the smallest batch, of those that change its result."""
        (smallest,) = self.representative(dialect, unexplained, 1)
        active = [move for move in singles if differ(dialect, replace(dialect, **move), smallest)]
        for moves in combinations(active, size):
            names = [name for move in moves for name in move]
            if len(set(names)) < size:
                continue
            move = {name: value for part in moves for name, value in part.items()}
            self.check_time()
            if self.observations.conforms(smallest, replace(dialect, **move)):
                yield move

    def best_of(
        self, dialect: Dialect, moves: Iterable[Move], unexplained: Sequence[Recipe]
    ) -> Dialect | None:
        """Return the dialect with the best of some moves; None if none explains more than before."""
        candidates, promising = list(self.changed(dialect, moves)), []
        for count in (FEW, MANY):
            few = self.representative(dialect, unexplained, count)
            before = self.misfit(dialect, few)
            misfits = [(self.misfit(changed, few), index) for index, changed in enumerate(candidates)]
            promising = [candidates[index] for misfit, index in sorted(misfits) if misfit < before]
            if promising or len(few) == len(unexplained):
                break
        explained = [recipe for recipe in self.spread(3 * FEW) if self.observations.conforms(recipe, dialect)]
        sample = [*self.representative(dialect, unexplained, MANY), *explained]
        best, least = None, self.misfit(dialect, sample)
        for changed in promising[:PROMISING]:
            misfit = self.misfit(changed, sample)
            if misfit < least:
                best, least = changed, misfit
        return best

    def changed(self, dialect: Dialect, moves: Iterable[Move]) -> Iterator[Dialect]:
        """Yield the dialect with each move made."""
        for move in moves:
            yield replace(dialect, **move)

    def representative(self, dialect: Dialect, unexplained: Sequence[Recipe], count: int) -> list[Recipe]:
        """Return up to `count` unexplained batches: the first of each set of diverging stages, then the others.

        Batches with one admissible assignment come first, which are judged soonest, and of them the smallest.
        """
        ambiguous = self.observations.ambiguous
        fastest = sorted(unexplained, key=lambda recipe: (recipe in ambiguous, size_of(recipe)))
        first: dict[frozenset[str], Recipe] = {}
        for recipe in fastest:
            first.setdefault(self.observations.diverging(recipe, dialect), recipe)
        chosen = list(first.values())
        return (chosen + [recipe for recipe in fastest if recipe not in chosen])[:count]

    def without_needless(self, dialect: Dialect) -> Dialect:
        """Return the dialect relative to the official one that leaves the fewest choices to be named.

        A choice is dropped if as many batches are explained without it.
        """
        explained = [
            recipe for recipe in self.telling_first(self.recipes) if self.conforming(recipe, dialect)
        ]
        shortest = dialect
        nearest = sorted(DIALECTS.values(), key=lambda base: len(judged_differences(dialect, base)))
        for base in nearest[:BASES]:
            pruned = self.pruned(dialect, base, explained)
            if named(pruned) < named(shortest):
                shortest = pruned
            if named(shortest) == (0, False):
                break
        return shortest

    def pruned(self, dialect: Dialect, base: Dialect, explained: Sequence[Recipe]) -> Dialect:
        """Return the dialect with the base's value of every choice that explains as much with it."""
        for name in judged_differences(dialect, base):
            simpler = replace(dialect, **{name: getattr(base, name)})
            if all(self.conforming(recipe, simpler) for recipe in explained):
                dialect = simpler
        return dialect

    def conforming(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if the implementation conforms to a dialect on a batch.

        Raises:
            OutOfTimeError: the budget is used up.
        """
        self.check_time()
        return self.observations.conforms(recipe, dialect)


def base_of(dialect: Dialect) -> Dialect:
    """Return the official dialect with the fewest choices to name, a release rather than the article."""
    return min(DIALECTS.values(), key=lambda base: (len(judged_differences(dialect, base)), base is ARTICLE))


def named(dialect: Dialect) -> tuple[int, bool]:
    """Return a sort key: the number of choices that tell a dialect from its base, and True if that is the article."""
    base = base_of(dialect)
    return len(judged_differences(dialect, base)), base is ARTICLE


def judged_differences(dialect: Dialect, base: Dialect) -> Move:
    """Return the choices of a dialect that differ from another's, without that of the rows' order."""
    return {name: value for name, value in differences(dialect, base).items() if name != "rows_sorted"}
