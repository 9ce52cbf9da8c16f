"""The search for the dialect that explains the outcomes of an implementation.

A dialect is the complete behaviour of an implementation, such as a release of Ultralytics. A choice is one property of
a dialect, such as CIoU instead of IoU as the overlap. A dialect explains a batch if the implementation conforms to the
dialect on the batch; otherwise the batch is unexplained.

A quick search by the reference's results comes first (`quick_search`). If its dialect does not explain all batches,
the search starts from this dialect, and then from the most similar official one. In each step, the search changes the
choice whose change leaves the fewest batches unexplained. If no change of a single choice helps, the search tries
pairs and then triples of changes. Then all batches are judged by the resulting dialect, and unexplained batches are
added to the sample. Finally, changes that are not needed to explain the batches are undone.
"""

import math
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from itertools import combinations, islice

from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.task import DETECT, StageName
from tal_conformance.dialects.choices import differ
from tal_conformance.dialects.moves import Move, joint_moves, moves_from
from tal_conformance.dialects.observations import (
    RAISED,
    READING,
    RETURNED,
    UNDECIDED,
    Key,
    Observations,
    key_of,
    size_of,
)
from tal_conformance.dialects.quick_search import QuickSearch
from tal_conformance.dialects.resemblance import Resemblance
from tal_reference import ARTICLE, CHOICES, NEWEST, Dialect
from tal_reference.choices import differences
from tal_reference.eras_of_tasks import dialects_of

PROBES = 48
"""Number of batches in the first sample to be explained; official dialects are ranked on half of it."""
FEW, MANY = 4, 10
"""Numbers of unexplained batches on which changes are tried: few at first, many if those show no gain."""
BASES = 3
"""Number of similar official dialects to whose values needless choices are reset."""
STARTS = 2
"""Number of official dialects from which the search starts, beside the quick search, until all is explained."""
NEARLY_ALL = 0.95
"""Share of the batches that a dialect must explain for the search not to start from another official dialect: the rest
is more likely a fault that no choice describes than a reason to start again."""
STUCK = 2
"""Number of times that the sample grows without an improvement before the search ends."""
MISSING = 8
"""Number of unexplained batches that are added to the sample at a time."""
SIMILAR = 12
"""Number of changes that are judged: the most similar ones by the reference's results, which cost little."""
PROMISING = 3
"""Number of the best changes that are compared on many batches."""
WAITING = 10
"""Largest number of seconds of waiting per second of the budget: an implementation in another process, which may
hang, uses no processor time of this one."""
ASSIGNMENT_STAGES = (*DETECT.stages_of("assignment"), StageName.DECODE)
OF_LOSSES = ("LOSS-", "OBB-BOX-", "OBB-DFL-", "OBB-ANG-", "E2E-")
"""Beginnings of the clauses of choices that concern a loss, not an assignment."""


class OutOfTimeError(Exception):
    """Error: the search has used up its budget of processor time."""


class Search:
    """A search for the dialect of an implementation.

    Args:
        observations: outcomes of the implementation under test.
        recipes: recipes of the batches to explain, the smallest first.
        seconds: budget of processor time.
    """

    deadline = latest = math.inf

    def __init__(self, observations: Observations, recipes: Sequence[Recipe], seconds: float) -> None:
        self.observations, self.recipes, self.task = observations, recipes, observations.implementation.task
        self.extended(seconds)
        self.best, self.tried = NEWEST, 0
        self._passed: set[Key] = set()
        self._quickest: dict[bool, Dialect] = {}
        self.resemblance = Resemblance(observations)
        self.reads_rows = "loss" in observations.implementation.capabilities
        outcomes = (observations.observed(recipe, NEWEST).outcome for recipe in self.spread(FEW))
        self.shows_assignment = any(
            outcome is not None and outcome.assignment is not None for outcome in outcomes
        )

    def check_time(self) -> None:
        """Raise if the budget of processor time is used up.

        Raises:
            OutOfTimeError: the budget is used up.
        """
        if self.out_of_time:
            raise OutOfTimeError

    @property
    def out_of_time(self) -> bool:
        """True if the budget of processor time is used up, or `WAITING` times as many seconds have passed."""
        return time.process_time() > self.deadline or time.monotonic() > self.latest

    def extended(self, seconds: float) -> bool:
        """Set a new budget of processor time in seconds; return True if the previous budget was not used up."""
        in_time = not self.out_of_time
        self.deadline = time.process_time() + seconds
        self.latest = time.monotonic() + WAITING * seconds
        return in_time

    def add(self, recipes: Iterable[Recipe]) -> None:
        """Add recipes of batches to explain."""
        self.recipes = sorted({*self.recipes, *recipes}, key=size_of)
        self._quickest.clear()

    def misfit(self, dialect: Dialect, recipes: Iterable[Recipe]) -> float:
        """Return the number of batches that the dialect does not explain, plus 0.02 for each diverging stage."""
        total = 0.0
        for recipe in recipes:
            self.check_time()
            if self.seems_explained(recipe, dialect):
                continue
            stages = self.observations.diverging(recipe, dialect)
            total += 1 + 0.02 * len(stages) if stages else 0
        return total

    def seems_explained(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if a batch need not be judged during the search. The proof after the search judges all batches.

        This is so if its results equal the reference's in the dialect up to rounding, and either differ from the
        reference's in the declared dialect, or conform to the declared dialect too.
        """
        if self.observations.is_judged(recipe, dialect):
            return False
        declared = self.observations.implementation.dialect
        if not self.resemblance.is_similar(recipe, dialect):
            return False
        if not self.resemblance.is_similar(recipe, declared):
            return True
        return self.observations.is_judged(recipe, declared) and self.observations.conforms(recipe, declared)

    def fits(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if a batch seems explained by a dialect, or else is explained by it.

        Raises:
            OutOfTimeError: the budget is used up.
        """
        self.check_time()
        return self.seems_explained(recipe, dialect) or self.conforming(recipe, dialect)

    def unexplained(self, dialect: Dialect, recipes: Iterable[Recipe]) -> list[Recipe]:
        """Return the first `MANY` recipes on whose batches the implementation does not conform to a dialect.

        Further recipes are not needed to decide one change of the dialect, and each judgement of a loss that hides its
        assignment takes long.
        """
        return list(islice((recipe for recipe in recipes if not self.fits(recipe, dialect)), MANY))

    def run(self, bases: Sequence[Dialect], probes: int = PROBES // 2) -> Dialect:
        """Return the dialect that leaves the fewest batches unexplained, without needless choices.

        Args:
            bases: official dialects; the search starts from the most similar ones.
            probes: number of batches on which the official dialects are ranked by similarity.
        """
        self.best = bases[0]
        try:
            for number, base in enumerate(self.starts(bases, probes)):
                dialect, explained = self.explained_from(base, first=number == 0)
                if explained or self.misfit(dialect, self.spread(PROBES)) < self.misfit(
                    self.best, self.spread(PROBES)
                ):
                    self.best = dialect
                if explained or self.explains_nearly_all(dialect):
                    break
            self.best = self.without_needless(self.best)
        except OutOfTimeError:
            pass
        return self.best

    def starts(self, bases: Sequence[Dialect], probes: int) -> Iterator[Dialect]:
        """Yield the dialects to start from: the `STARTS` most similar official ones, and that of the quick search.

        The quick search comes first, except for an implementation that shows its assignment: its batches are judged
        fast, and the most similar release is the likeliest start. The arguments are those of `run`.
        """
        number = 0
        if self.shows_assignment:
            number = 1
            yield self.ranked(bases, probes)[0]
        quick = self.quickest(bases)
        yield quick
        for base in self.ranked(bases, probes)[number:STARTS]:
            if key_of(base) != key_of(quick):
                yield base

    def quickest(self, bases: Sequence[Dialect], wide: bool = True) -> Dialect:
        """Return the dialect with the most similar results. It is searched once, or twice if `wide` only later.

        Args:
            bases: those of `run`.
            wide: True to follow several dialects at once, if following one does not find a dialect that fits.
        """
        if wide not in self._quickest:
            quick = QuickSearch(self.resemblance, self.recipes, self.moves_from, self.check_time, wide)
            try:
                self._quickest[wide] = quick.run([*self._quickest.values(), *bases], bases[0])
            except OutOfTimeError:
                self.best = quick.best or bases[0]
                raise
        return self._quickest[wide]

    def explained_from(self, dialect: Dialect, first: bool) -> tuple[Dialect, bool]:
        """Search from one official dialect. Return the dialect found, and True if it explains all batches.

        Args:
            dialect: the official dialect.
            first: True to store the best dialect so far in `best`, where it remains if the budget is used up.
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

    def explains_nearly_all(self, dialect: Dialect) -> bool:
        """Return True if a dialect explains at least the share `NEARLY_ALL` of the batches that can be explained."""
        explained = [
            self.fits(r, dialect)
            for r in self.recipes
            if self.seems_explained(r, dialect) or self.can_be_explained(r, dialect)
        ]
        return sum(explained) >= NEARLY_ALL * len(explained)

    def first_missing(self, dialect: Dialect, known: set[Recipe]) -> list[Recipe]:
        """Return up to `MISSING` recipes of the search, not in `known`, that a dialect does not explain.

        Recipes that no dialect can explain are left out. Recipes that refute the most dialects come first.
        """
        missing: list[Recipe] = []
        for recipe in self.telling_first(self.recipes):
            if (
                recipe not in known
                and not self.fits(recipe, dialect)
                and self.can_be_explained(recipe, dialect)
            ):
                missing.append(recipe)
                if len(missing) == MISSING:
                    break
        return missing

    def telling_first(self, recipes: Iterable[Recipe]) -> list[Recipe]:
        """Return recipes by the number of dialects that do not explain the recipe's batch, largest number first."""
        refutations = self.observations.refutations
        return sorted(recipes, key=lambda recipe: -refutations.get(recipe, 0))

    def ranked(self, bases: Sequence[Dialect], probes: int) -> list[Dialect]:
        """Return official dialects, the most similar one first, by the results on `probes` batches."""
        return self.most_similar(bases, self.spread(probes))

    def most_similar(self, dialects: Iterable[Dialect], recipes: Sequence[Recipe]) -> list[Dialect]:
        """Return dialects by the similarity of the reference's results to the implementation's, most similar first."""
        distances = []
        for number, dialect in enumerate(dialects):
            self.check_time()
            distances.append((self.resemblance.total(dialect, recipes), number, dialect))
        return [dialect for _, _, dialect in sorted(distances, key=lambda entry: entry[:2])]

    def least_similar(self, dialect: Dialect, recipes: Iterable[Recipe]) -> list[Recipe]:
        """Return the recipes with other results than the reference's in a dialect, the largest difference first."""
        different = []
        for recipe in sorted(recipes, key=size_of):
            self.check_time()
            if not self.resemblance.is_similar(recipe, dialect):
                different.append(recipe)
        return sorted(different, key=lambda recipe: -self.resemblance.distance(recipe, dialect))

    def spread(self, count: int) -> list[Recipe]:
        """Return about `count` recipes from the smaller half of all recipes, whose batches are judged fastest.

        Recipes on which the implementation raises are left out.
        """
        smaller = self.recipes[: max(count, len(self.recipes) // 2)]
        returned = [recipe for recipe in smaller if not self.observations.observed(recipe, NEWEST).raised]
        return list(returned[:: max(1, len(returned) // count)])

    def explain(self, dialect: Dialect, sample: Sequence[Recipe], first: bool = True) -> Dialect:
        """Change choices of a dialect as long as it explains more of the sample, and return the dialect.

        The search does not return to an earlier dialect: gains are measured on the unexplained batches of a sample, so
        that each of two dialects may seem better than the other. The argument `first` is that of `explained_from`.
        """
        self._passed = set()
        while unexplained := self.unexplained(dialect, sample):
            self._passed.add(key_of(dialect))
            better = self.improved(dialect, unexplained)
            if better is None:
                return dialect
            dialect = better
            if first:
                self.best = dialect
        return dialect

    def improved(self, dialect: Dialect, unexplained: Sequence[Recipe]) -> Dialect | None:
        """Return the best dialect with one to three changed choices; None if no change explains more."""
        unexplained = [recipe for recipe in unexplained if self.can_be_explained(recipe, dialect)]
        if not unexplained:
            return None
        singles = self.moves_from(dialect)
        likely = self.likely(dialect, singles, unexplained)
        for moves in (likely, [move for move in singles if move not in likely]):
            found = self.best_of(dialect, moves, unexplained)
            if found is not None:
                return found
        self.tried = max(self.tried, 1)
        for size in (2, 3):
            found = self.best_of(dialect, self.combined(dialect, singles, size, unexplained), unexplained)
            if found is not None:
                return found
            self.tried = max(self.tried, size)
        return None

    def moves_from(self, dialect: Dialect) -> list[Move]:
        """Return every change of one choice of a dialect that the implementation can make, and those of `JOINT`.

        An implementation without a loss does not read annotation rows. A dialect that reads the rows differently leads
        to other inputs, perhaps without any candidate, on which every assigner agrees.
        """
        moves = [*moves_from(dialect, self.task), *joint_moves(dialect, self.task)]
        return [move for move in moves if self.reads_rows or not move.keys() & set(READING)]

    def likely(self, dialect: Dialect, moves: Sequence[Move], unexplained: Sequence[Recipe]) -> list[Move]:
        """Return the `moves` (changes of choices) that concern the assignment if it diverges, else the loss.

        All moves are returned if a loss does not expose its assignment: a wrong assignment then shows in the loss
        terms.
        """
        if not self.shows_assignment:
            return list(moves)
        stages = {
            stage.rpartition("/")[2]
            for recipe in unexplained
            for stage in self.observations.diverging(recipe, dialect)
        }
        of_loss = not stages & {*ASSIGNMENT_STAGES, RAISED, RETURNED, UNDECIDED}
        return [move for move in moves if CHOICES[next(iter(move))].clause.startswith(OF_LOSSES) == of_loss]

    def can_be_explained(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return False if the implementation raises on a batch that every dialect supports, else True.

        No choice explains such an exception: it shows a limit or an error of the implementation.
        """
        stages = self.observations.diverging(recipe, dialect)
        supported = len(recipe.strides) > 1 and recipe.hyperparameters.effective_topk2 is None
        return not (RAISED in stages and (supported or recipe.reg_max == 1))

    def combined(
        self, dialect: Dialect, singles: Sequence[Move], size: int, unexplained: Sequence[Recipe]
    ) -> Iterator[Move]:
        """Yield combinations of moves (changes of choices) that explain the smallest unexplained batch.

        Only moves that change the reference's result on this batch are combined, the most similar combinations first.
        """
        (smallest,) = self.representative(dialect, unexplained, 1)
        active = [move for move in singles if differ(dialect, replace(dialect, **move), smallest)]
        joined = [
            {name: value for part in moves for name, value in part.items()}
            for moves in combinations(active, size)
            if len({name for move in moves for name in move}) == size
        ]
        changed = {key_of(d): move for d, move in zip(self.changed(dialect, joined), joined, strict=True)}
        for similar in self.most_similar(self.changed(dialect, joined), [smallest])[:SIMILAR]:
            if self.conforming(smallest, similar):
                yield changed[key_of(similar)]

    def best_of(
        self, dialect: Dialect, moves: Iterable[Move], unexplained: Sequence[Recipe]
    ) -> Dialect | None:
        """Return the dialect changed by the best move; None if no move explains more than before."""
        promising: list[Dialect] = []
        candidates = [d for d in self.changed(dialect, moves) if key_of(d) not in self._passed]
        if len(candidates) > SIMILAR:
            few = self.representative(dialect, unexplained, FEW)
            candidates = self.most_similar(candidates, few)[:SIMILAR]
        for count in (FEW, MANY):
            few = self.representative(dialect, unexplained, count)
            before = self.misfit(dialect, few)
            misfits: list[tuple[float, int]] = []
            for index, changed in enumerate(candidates):
                misfits.append((self.misfit(changed, few), index))
                if not misfits[-1][0]:  # no other move can explain more
                    break
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
        """Yield for each move (change of choices) the dialect that results from it."""
        for move in moves:
            yield replace(dialect, **move)

    def representative(self, dialect: Dialect, unexplained: Sequence[Recipe], count: int) -> list[Recipe]:
        """Return up to `count` unexplained recipes: one for each set of diverging stages, then others.

        Recipes with one admissible assignment, which are judged fastest, come first, the smallest before
        larger ones.
        """
        ambiguous = self.observations.ambiguous
        fastest = sorted(unexplained, key=lambda recipe: (recipe in ambiguous, size_of(recipe)))
        first: dict[frozenset[str], Recipe] = {}
        for recipe in fastest:
            first.setdefault(self.observations.diverging(recipe, dialect), recipe)
        chosen = list(first.values())
        return (chosen + [recipe for recipe in fastest if recipe not in chosen])[:count]

    def without_needless(self, dialect: Dialect) -> Dialect:
        """Return the dialect with as few unofficial choices as possible, based on a release's dialect if possible.

        A choice is reset to its official value if as many batches are explained with that value.
        """
        explained = [recipe for recipe in self.recipes if self.fits(recipe, dialect)]
        shortest = dialect
        nearest = sorted(
            dialects_of(self.task).values(), key=lambda base: len(judged_differences(dialect, base))
        )
        for base in nearest[:BASES]:
            pruned = self.pruned(dialect, base, explained)
            if named(pruned, self.task) < named(shortest, self.task):
                shortest = pruned
            if named(shortest, self.task) == (0, False):
                break
        is_article = base_of(shortest, self.task) is ARTICLE
        return self.of_a_release(shortest, explained) if is_article else shortest

    def of_a_release(self, dialect: Dialect, explained: Sequence[Recipe]) -> Dialect:
        """Return the first release's dialect that explains as much with the choices of an article-based dialect.

        The name of a release tells a user more than the article's. Without such a release, `dialect` is returned.
        """
        changes = judged_differences(dialect, ARTICLE)
        releases = (
            replace(base, **changes) for base in dialects_of(self.task).values() if base is not ARTICLE
        )
        return next((one for one in releases if self.fits_all(explained, one)), dialect)

    def pruned(self, dialect: Dialect, base: Dialect, explained: Sequence[Recipe]) -> Dialect:
        """Return the dialect, with the values of `base` for all choices that are not needed to explain the recipes.

        `explained` are the recipes that the dialect explains.
        """
        for name in judged_differences(dialect, base):
            simpler = replace(dialect, **{name: getattr(base, name)})
            if self.fits_all(explained, simpler):
                dialect = simpler
        return dialect

    def fits_all(self, recipes: Iterable[Recipe], dialect: Dialect) -> bool:
        """Return True if a dialect fits the batches of all recipes; those with the least similar results come first."""
        return all(self.fits(recipe, dialect) for recipe in self.doubtful_first(recipes, dialect))

    def doubtful_first(self, recipes: Iterable[Recipe], dialect: Dialect) -> list[Recipe]:
        """Return recipes: first those whose results are not similar in a dialect, the smallest batches first."""
        return sorted(recipes, key=lambda r: (self.resemblance.is_similar(r, dialect), size_of(r)))

    def conforming(self, recipe: Recipe, dialect: Dialect) -> bool:
        """Return True if the implementation conforms to a dialect on a batch.

        Raises:
            OutOfTimeError: the budget is used up.
        """
        self.check_time()
        return self.observations.conforms(recipe, dialect)


def base_of(dialect: Dialect, task: str = DETECT.name) -> Dialect:
    """Return a task's official dialect with the fewest differing choices; among equals, prefer a release's dialect."""
    return min(
        dialects_of(task).values(), key=lambda base: (len(judged_differences(dialect, base)), base is ARTICLE)
    )


def named(dialect: Dialect, task: str = DETECT.name) -> tuple[int, bool]:
    """Return a dialect's sort key: the number of unofficial choices, and True if its base is the article's dialect."""
    base = base_of(dialect, task)
    return len(judged_differences(dialect, base)), base is ARTICLE


def judged_differences(dialect: Dialect, base: Dialect) -> Move:
    """Return by name the choices of `dialect` that differ from the choices of `base`, except the order of rows."""
    return {name: value for name, value in differences(dialect, base).items() if name != "rows_sorted"}
