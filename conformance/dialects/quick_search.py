"""A quick search for a dialect, by the reference's results alone.

A judgement of a batch takes 20 to 200 times as long as a run of the reference. This search therefore compares an
implementation's results with the reference's results in thousands of dialects on few batches. Whether the dialect that
it finds explains the implementation is then decided by judging.

The search changes one choice after another: the one whose change brings the most results closer. If a dialect remains
that does not fit, the search begins again, and follows several dialects at once.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import zip_longest
from typing import Any

from tal_conformance.batches.recipe import Recipe
from tal_conformance.dialects.observations import Key, key_of
from tal_conformance.dialects.resemblance import Resemblance
from tal_reference import Dialect

DIFFERENT, EQUAL = 12, 6
"""Numbers of batches of the first sample with other results than in the declared dialect, and with equal results."""
FEW = 4
"""Number of batches on which all changes are tried."""
PROMISING = 10
"""Number of the best changes that are tried on the whole sample."""
WIDTHS = (1, 4)
"""Numbers of dialects that are followed at once, in the first search and in the second."""
PATIENCE = 2
"""Number of steps without an improvement before a search ends."""
GROWTHS, GROWTH = 6, 6
"""Number of times that the sample grows, and number of batches that are added to it at a time."""


class QuickSearch:
    """A search for the dialect in which the reference's results are the most similar to an implementation's.

    Args:
        resemblance: distances between the results of the implementation and of the reference.
        recipes: recipes of the batches to explain, the smallest first.
        moves_from: function that returns every change of a dialect to try: new values by name of the choice.
        check_time: function that raises if the budget is used up.
        wide: True to follow several dialects at once, if following one does not find a dialect that fits.
    """

    def __init__(
        self,
        resemblance: Resemblance,
        recipes: Sequence[Recipe],
        moves_from: Callable[[Dialect], Sequence[dict[str, Any]]],
        check_time: Callable[[], None],
        wide: bool = True,
    ) -> None:
        self.resemblance, self.recipes = resemblance, recipes
        self.widths = WIDTHS if wide else WIDTHS[:1]
        self.moves_from, self.check_time = moves_from, check_time
        self.best: Dialect | None = None

    def run(self, bases: Sequence[Dialect], declared: Dialect) -> Dialect:
        """Return the dialect with the most similar results; it is also stored in `best` as long as the search runs.

        Args:
            bases: dialects to start from.
            declared: the dialect that the implementation declares.
        """
        sample = self.first_sample(declared)
        self.best = best = bases[0]
        for _ in range(GROWTHS):
            best = self.fitting([best, *bases], sample)
            self.best = (
                best if self.misfit(best, self.recipes) <= self.misfit(self.best, self.recipes) else self.best
            )
            unlike = [r for r in self.recipes if r not in sample and self.resemblance.misfit(r, best)]
            if not unlike:
                break
            sample = [*sample, *self.diverse(unlike, best, GROWTH)]
        return self.best

    def first_sample(self, declared: Dialect) -> list[Recipe]:
        """Return recipes with other results than in the declared dialect, and with equal results."""
        unlike: list[Recipe] = []
        like: list[Recipe] = []
        for recipe in self.recipes:
            self.check_time()
            (unlike if self.resemblance.misfit(recipe, declared) else like).append(recipe)
        return [*self.diverse(unlike, declared, DIFFERENT), *like[:: max(1, len(like) // EQUAL)][:EQUAL]]

    def diverse(self, recipes: Iterable[Recipe], dialect: Dialect, count: int) -> list[Recipe]:
        """Return up to `count` recipes: the smallest of each set of results that differ, then further ones."""
        rows: dict[tuple[bool, ...], list[Recipe]] = {}
        for recipe in recipes:
            rows.setdefault(self.resemblance.pattern(recipe, dialect), []).append(recipe)
        turns = zip_longest(*rows.values())
        return [recipe for turn in turns for recipe in turn if recipe is not None][:count]

    def fitting(self, bases: Sequence[Dialect], sample: Sequence[Recipe]) -> Dialect:
        """Return the dialect with the smallest misfit on a sample, by a narrow search and, if asked, by a wide one."""
        found: list[Dialect] = []
        for width in self.widths:
            found.append(self.descended([*found, *bases], sample, width))
            if not self.misfit(found[-1], sample):
                break
        return min(found, key=lambda dialect: self.misfit(dialect, sample))

    def descended(self, bases: Sequence[Dialect], sample: Sequence[Recipe], width: int) -> Dialect:
        """Return the best dialect of a search that follows `width` dialects at once."""
        beam = self.best_of(bases, sample, width)
        seen: set[Key] = {key_of(dialect) for dialect in beam}
        best, waited = beam[0], 0
        while waited < PATIENCE and self.misfit(best, sample):
            children = {key_of(child): child for dialect in beam for child in self.children(dialect, sample)}
            beam = self.best_of([child for key, child in children.items() if key not in seen], sample, width)
            if not beam:
                break
            seen |= {key_of(dialect) for dialect in beam}
            if self.misfit(beam[0], sample) < self.misfit(best, sample):
                best, waited = beam[0], 0
            else:
                waited += 1
        return best

    def children(self, dialect: Dialect, sample: Sequence[Recipe]) -> list[Dialect]:
        """Return the most promising of the dialects that differ from a dialect by one change."""
        wrong = [recipe for recipe in sample if self.resemblance.misfit(recipe, dialect)]
        few = self.diverse(wrong, dialect, FEW)
        return self.best_of([replace(dialect, **move) for move in self.moves_from(dialect)], few, PROMISING)

    def best_of(self, dialects: Sequence[Dialect], recipes: Sequence[Recipe], count: int) -> list[Dialect]:
        """Return the `count` dialects with the smallest misfit, the first ones among equals."""
        return sorted(dialects, key=lambda dialect: self.misfit(dialect, recipes))[:count]

    def misfit(self, dialect: Dialect, recipes: Iterable[Recipe]) -> float:
        """Return the sum of the misfits of a dialect on the batches of recipes, 0 if all results are similar."""
        self.check_time()
        return sum(self.resemblance.misfit(recipe, dialect) for recipe in recipes)
