"""`python -m conformance identify IMPLEMENTATION`: which dialects explain all that it does."""

import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from math import prod

from hypothesis import find as find_recipe
from hypothesis import settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import some
from tal_conformance.dialects.choices import SEARCH, SHOWN_BY, failure, lanes_of
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import DIALECTS, Dialect

LOOKED_AT = 20
"""Batches of each lane."""
COMPARED = 3
"""Batches of each lane on which the nearest dialect is sought, where none explains the implementation."""
SHRUNK = 60
"""Batches that are drawn to shrink a refutation."""

Drawn = tuple[Recipe, SearchStrategy[Recipe]]
"""A recipe, and the strategy that drew it."""


@dataclass
class DialectFit:
    """An implementation, held to one dialect.

    Attributes:
        dialect: which.
        refuted: the smallest batch on which it does otherwise, and how; None if there is none.
        batches: on how many it was judged, up to the first that refutes the dialect.
    """

    dialect: Dialect
    refuted: Failure | None = None
    batches: int = 0


@dataclass
class Violations:
    """Where an implementation leaves a dialect.

    Attributes:
        dialect: which.
        batches: on how many it was judged.
        counts: how often it left the dialect, by clause; "" where it raised.
        first: the first batch of each clause, how it fails there, and what drew it.
        smallest: that batch, shrunk.
    """

    dialect: Dialect
    batches: int = 0
    counts: dict[str, int] = field(default_factory=dict)
    first: dict[str, tuple[Failure, SearchStrategy[Recipe]]] = field(default_factory=dict)
    smallest: dict[str, Failure] = field(default_factory=dict)


def identify(name: str) -> int:
    """Print which dialects explain all that an implementation does; on stderr each dialect as it is settled.

    Returns:
        0 if there is one, 1 if there is none.

    Raises:
        UnknownImplementation, ProtocolViolation: it cannot be had.
    """
    implementation = find(name)
    held = []
    for dialect in distinct(DIALECTS.values()):
        held.append(hold(implementation, dialect))
        progress(settled(held[-1]))
    explained = any(each.refuted is None for each in held)
    left = None if explained else nearest(implementation, [each.dialect for each in held])
    print("\n".join(format_identification(implementation, held, left)))
    return int(not explained)


def progress(line: str) -> None:
    """Say how far it is, where it can be told from the answer."""
    print(f"... {line}", file=sys.stderr, flush=True)


def settled(held: DialectFit) -> str:
    """One line about one dialect."""
    if held.refuted is None:
        return f"{held.dialect.name}: explains all {held.batches} batches"
    return f"{held.dialect.name}: refuted by batch {held.batches} ({held.refuted.clause or 'an error'})"


def distinct(dialects: Iterable[Dialect]) -> list[Dialect]:
    """One dialect of those that make the same choices, and of those that differ only in what is not judged."""
    kept: dict[Dialect, Dialect] = {}
    for dialect in dialects:
        kept.setdefault(replace(dialect, name="", rows_sorted=True), dialect)
    return list(kept.values())


def hold(implementation: Implementation, dialect: Dialect) -> DialectFit:
    """Judge an implementation by a dialect, small batches first, up to the first that refutes it."""
    subject = Subject(replace(implementation, dialect=dialect), "cpu")
    held = DialectFit(dialect)
    for recipe, strategy in drawn(implementation, LOOKED_AT):
        held.batches += 1
        found = failure(subject, recipe)
        if found is not None:
            held.refuted = shrunk(subject, strategy, found)
            break
    return held


def drawn(implementation: Implementation, count: int) -> Sequence[Drawn]:
    """So many batches of each lane, and of those that tell dialects apart: the smallest first."""
    return _drawn((*(strategy for _, strategy in SHOWN_BY.values()), *lanes_of(implementation)), count)


@cache
def _drawn(strategies: tuple[SearchStrategy[Recipe], ...], count: int) -> Sequence[Drawn]:
    every = {recipe: strategy for strategy in reversed(strategies) for recipe in some(strategy, count)}
    return sorted(every.items(), key=lambda pair: size_of(pair[0]))


def size_of(recipe: Recipe) -> tuple[int, int]:
    """How much there is to read: ground truths and anchors of all images; then the length of the recipe's line."""
    anchors = len(recipe.images) * sum(map(prod, recipe.grids))
    return anchors * (1 + sum(map(len, recipe.images))), len(repr(recipe))


def shrunk(subject: Subject, strategy: SearchStrategy[Recipe], first: Failure) -> Failure:
    """The smallest batch that fails as the first did; the first itself if none was found again."""

    def fails_so(recipe: Recipe) -> bool:
        shown = failure(subject, recipe)
        return shown is not None and (shown.stage, shown.clause) == (first.stage, first.clause)

    wanted = settings(SEARCH, max_examples=SHRUNK)
    try:
        smallest = find_recipe(strategy, fails_so, settings=wanted)
    except NoSuchExample:
        return first
    return failure(subject, smallest) or first


def nearest(
    implementation: Implementation, dialects: Sequence[Dialect], tell: Callable[[str], None] = progress
) -> Violations:
    """Of dialects that are all refuted, the one that is left on the fewest batches, and where."""

    def share(dialect: Dialect) -> float:
        left = left_at(implementation, dialect, COMPARED)
        tell(f"{dialect.name}: left on {sum(left.counts.values())} of {left.batches} batches")
        return sum(left.counts.values()) / left.batches

    left = left_at(implementation, min(dialects, key=share), LOOKED_AT)
    for clause, (found, strategy) in left.first.items():
        left.smallest[clause] = shrunk(found.subject, strategy, found)
        tell(f"{left.dialect.name}: left at {clause or 'an error'} on {left.counts[clause]} batches")
    return left


def left_at(implementation: Implementation, dialect: Dialect, count: int) -> Violations:
    """Where an implementation leaves a dialect, on so many batches of each lane; small ones first."""
    subject = Subject(replace(implementation, dialect=dialect), "cpu")
    left = Violations(dialect)
    for recipe, strategy in drawn(implementation, count):
        left.batches += 1
        found = failure(subject, recipe)
        if found is not None:
            left.counts[found.clause] = left.counts.get(found.clause, 0) + 1
            left.first.setdefault(found.clause, (found, strategy))
    return left


def format_identification(
    implementation: Implementation, held: Sequence[DialectFit], left: Violations | None
) -> list[str]:
    """What is printed; `left`: where the nearest dialect is left, if none explains the implementation."""
    lines = [f"{implementation.name} {implementation.version}"]
    lines += [
        f"  {each.dialect.name} explains all that it did on {each.batches} batches"
        for each in held
        if each.refuted is None
    ]
    if left is not None:
        differs = sum(left.counts.values())
        lines.append(
            f"  no known dialect explains it; nearest is {left.dialect.name}, which it leaves on {differs} of "
            f"{left.batches} batches:"
        )
        for clause, count in sorted(left.counts.items(), key=lambda pair: -pair[1]):
            found = left.smallest[clause]
            first = f"    {clause or 'it raises'} (first on {count}): {found.summary}"
            lines += [first, f"      {found.batch.origin}"]
    for each in held:
        if each.refuted is not None and (left is None or each.dialect != left.dialect):
            where = f"{each.refuted.clause}: " if each.refuted.clause else ""
            lines.append(f"  not {each.dialect.name}: {where}{each.refuted.summary}")
            lines.append(f"    {each.refuted.batch.origin}")
    return lines
