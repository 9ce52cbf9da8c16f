"""`python -m conformance identify IMPLEMENTATION`: which dialects explain all that it does."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from hypothesis import find as find_recipe
from hypothesis import settings
from hypothesis.errors import NoSuchExample
from hypothesis.strategies import SearchStrategy

from conformance.batches import Recipe
from conformance.dialects.choices import SEARCH, SHOWN_BY, failure
from conformance.dialects.diff import some
from conformance.implementations import Implementation, find
from conformance.lanes import LANES
from conformance.recording import Failure, Subject
from reference import DIALECTS, Dialect

LOOKED_AT = 20
"""Batches of each lane."""
SHRUNK = 300
"""Batches that are drawn to shrink a refutation."""


@dataclass
class Held:
    """An implementation, held to one dialect.

    Attributes:
        dialect: which.
        refuted: the smallest batch on which it does otherwise, and how; None if there is none.
        failures: how often it left the dialect, by clause.
        batches: on how many it was judged.
    """

    dialect: Dialect
    refuted: Failure | None = None
    failures: Counter[str] = field(default_factory=Counter)
    batches: int = 0


def identify(name: str) -> int:
    """Print which dialects explain all that an implementation does.

    Returns:
        0 if there is one, 1 if there is none.

    Raises:
        UnknownImplementation, ProtocolViolation: it cannot be had.
    """
    implementation = find(name)
    held = [hold(implementation, dialect) for dialect in distinct(DIALECTS.values())]
    print("\n".join(lines_of(implementation, held)))
    return int(all(each.refuted is not None for each in held))


def distinct(dialects: Iterable[Dialect]) -> list[Dialect]:
    """One dialect of those that make the same choices, and of those that differ only in what is not judged."""
    kept: dict[Dialect, Dialect] = {}
    for dialect in dialects:
        kept.setdefault(replace(dialect, name="", rows_sorted=True), dialect)
    return list(kept.values())


def hold(implementation: Implementation, dialect: Dialect) -> Held:
    """Judge an implementation by a dialect on every lane, and on batches that tell dialects apart."""
    subject = Subject(replace(implementation, dialect=dialect), "cpu")
    held = Held(dialect)
    found: dict[str, tuple[SearchStrategy[Recipe], Failure]] = {}
    for _, strategy in SHOWN_BY.values():
        look(held, subject, strategy, found)
    for strategy in LANES.values():
        look(held, subject, strategy, found)
    if found:
        clause = held.failures.most_common(1)[0][0]
        strategy, first = found.get(clause) or next(iter(found.values()))
        held.refuted = shrunk(subject, strategy, first)
    return held


def look(
    held: Held,
    subject: Subject,
    strategy: SearchStrategy[Recipe],
    found: dict[str, tuple[SearchStrategy[Recipe], Failure]],
) -> None:
    """Judge some batches, and keep the first failure of each clause with the strategy that drew it."""
    for recipe in some(strategy, LOOKED_AT):
        shown = failure(subject, recipe)
        held.batches += 1
        if shown is not None:
            clause = shown.clause or "error"
            held.failures[clause] += 1
            found.setdefault(clause, (strategy, shown))


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


def lines_of(implementation: Implementation, held: list[Held]) -> list[str]:
    """What is printed."""
    lines = [f"{implementation.name} {implementation.version}"]
    explain = [each for each in held if each.refuted is None]
    for each in explain:
        lines.append(f"  {each.dialect.name} explains all that it did on {each.batches} batches")
    if not explain:
        nearest = min(held, key=lambda each: each.failures.total() / max(each.batches, 1))
        left = ", ".join(f"{clause} ({count} batches)" for clause, count in nearest.failures.most_common())
        lines.append(
            f"  no known dialect explains it; nearest is {nearest.dialect.name}, which it leaves at {left}"
        )
    for each in held:
        if each.refuted is not None:
            where = f"{each.refuted.clause}: " if each.refuted.clause else ""
            lines.append(f"  not {each.dialect.name}: {where}{each.refuted.summary}")
            lines.append(f"    {each.refuted.batch.origin}")
    return lines
