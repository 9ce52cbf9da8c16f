"""`python -m conformance diff A B`: what changed for training from one implementation to another."""

import textwrap
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache

from tal_conformance.batches.recorded import shipped
from tal_conformance.batches.sample import some
from tal_conformance.batches.strategies import recipes
from tal_conformance.core.batch import Batch
from tal_conformance.dialects.choices import Choice, choices_between, differ, failure, lanes_of
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import Dialect

ORDINARY = recipes(
    kinds=("ordinary", "off_lattice"),
    predictions=("near", "random"),
    strides=((8, 16, 32),),
    bins=(16,),
    classes=(80, 3),
    max_images=2,
)
"""Batches without hazards: ordinary ground truths, three levels."""
MEASURED = 100
"""Ordinary batches on which a change is counted."""
LOOKED_AT = 12
"""Batches of each lane on which both are held to what they should do."""
UNDEFINED = "what comes of rows out of order is not defined, so that no batch shows it"
WIDTH = 100


@dataclass(frozen=True)
class Difference:
    """One thing that the second does otherwise than the first.

    Attributes:
        choice: what, if it is a choice of their dialects.
        failure: how the second fails the choice of the first, on the smallest batch; None where that is not judged.
        share: of ordinary batches that meet it; None where drawn batches have no right answer.
        met: how many of the recorded batches do.
    """

    choice: Choice
    failure: Failure | None
    share: float | None
    met: int

    @property
    def how_often(self) -> str:
        """Who meets it: `25% of 100 ordinary batches and by 3 of 7 recorded real batches`."""
        recorded = f"{self.met or 'none'} of {len(shipped())} recorded real batches"
        if self.share is None:
            return recorded
        return f"{f'{self.share:.0%}' if self.share else 'none'} of {MEASURED} ordinary batches and by {recorded}"


@dataclass(frozen=True)
class Compared:
    """Two implementations, compared.

    Attributes:
        one, other: who.
        differences: what the second does otherwise.
        unexpected: batches on which one of them does not even conform to its own dialect.
        batches: how many they were held to it on, each.
    """

    one: Implementation
    other: Implementation
    differences: list[Difference]
    unexpected: list[Failure]
    batches: int

    @property
    def same(self) -> bool:
        """Assigner and loss are the same, as far as was looked."""
        return not self.differences and not self.unexpected


def compare(one: Implementation, other: Implementation) -> Compared:
    """Hold both to their own dialects, and the second to each choice of the first."""
    differences = []
    for choice in choices_between(one.dialect, other.dialect):
        found = shown(other, one.dialect, choice) if choice.recipe is not None else None
        share = share_of(one.dialect, choice.changed) if choice.recipe is not None else None
        met = sum(exercises_choice(batch, one.dialect, choice) for batch in recorded())
        differences.append(Difference(choice, found, share, met))
    unexpected = [each for who in (one, other) for each in violations(who)]
    looked = LOOKED_AT * min(len(lanes_of(who)) for who in (one, other))
    return Compared(one, other, differences, unexpected, looked)


def shown(other: Implementation, before: Dialect, choice: Choice) -> Failure | None:
    """How the second fails, on the choice's batch, the dialect that makes this one choice as before.

    Where that batch shows nothing then (the other choices hide it), it is held to all that the first chose.
    """
    assert choice.recipe is not None
    alone = replace(other.dialect, **{choice.name: getattr(before, choice.name)})
    for dialect in (alone, before):
        found = failure(
            Subject(replace(other, dialect=replace(dialect, name=before.name)), "cpu"), choice.recipe
        )
        if found is not None:
            return found
    return None


def violations(implementation: Implementation) -> Iterator[Failure]:
    """The first failure of each lane: where an implementation leaves its own dialect."""
    subject = Subject(implementation, "cpu")
    for lane in lanes_of(implementation):
        for recipe in some(lane, LOOKED_AT):
            found = failure(subject, recipe)
            if found is not None:
                yield found
                break


def share_of(one: Dialect, other: Dialect) -> float:
    """Share of ordinary batches on which the two dialects differ."""
    batches = some(ORDINARY, MEASURED)
    return sum(differ(one, other, recipe) for recipe in batches) / len(batches)


def exercises_choice(batch: Batch, one: Dialect, choice: Choice) -> bool:
    """Whether a batch meets a choice that is another one than in the dialect `one`.

    One without a right answer is met by annotation rows out of order (ANN-1).
    """
    if choice.recipe is not None:
        return differ(one, choice.changed, batch)
    images = batch.annotations[:, 0]  # (N,)
    return bool((images[1:] < images[:-1]).any())


@cache
def recorded() -> Sequence[Batch]:
    """The recorded batches that come with the project."""
    return [Batch.load(path) for path in shipped()]


def format_comparison(compared: Compared) -> list[str]:
    """What is printed."""
    one, other = compared.one, compared.other
    head = f"{one.name} ({one.dialect.name}) -> {other.name} ({other.dialect.name})"
    lines = [head]
    if compared.same:
        claim = "assigner and loss are the same: look elsewhere"
        return [*lines, f"  {claim} ({compared.batches} batches each, every stage and gradient)."]
    for difference in compared.differences:
        lines += ["", *_told(difference, other.name)]
    for found in compared.unexpected:
        lines += ["", f"  {found.subject.implementation.name} leaves its own dialect:"]
        lines += textwrap.indent(str(found), "    ").splitlines()
    if not compared.unexpected:
        lines += ["", f"  Nothing else was found on {compared.batches} batches."]
    return lines


def _told(difference: Difference, who: str) -> list[str]:
    choice = difference.choice
    lines = textwrap.wrap(f"{choice.clause}: before, {choice.before}; now, {choice.after}.", WIDTH - 2)
    if choice.recipe is None:
        lines += textwrap.wrap(f"met by {difference.how_often}; {UNDEFINED}", WIDTH - 2)
    else:
        lines.append(f"met by {difference.how_often}; the smallest that does:")
        lines.append(f"  {choice.recipe}")
        lines += textwrap.wrap(f"there, {does(difference, who)}", WIDTH - 2)
    return [f"  {line}" for line in lines]


def does(difference: Difference, who: str) -> str:
    """What the second does on the smallest batch."""
    found = difference.failure
    return f"{who} does as before" if found is None else f"{who}: {found.summary}"
