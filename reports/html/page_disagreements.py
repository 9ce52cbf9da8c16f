"""Disagreements and declared differences: one card for each cause, and causes counted by stage."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from tal_reports.analysis.causes import Cause, causes
from tal_reports.html.cards import Card, card_of, filter_link
from tal_reports.html.tables import place_in
from tal_reports.log.batches import FAILING
from tal_reports.log.reader import Log

MAX_OPEN_CARDS = 3
"""With up to this many causes all cards are open at first; with more, only the first card is."""
MAX_CARDS = 1000
"""Maximum number of cards in each of the two sections."""
PICTURE_BUDGET = 1_000_000
"""Approximate number of characters of HTML for all pictures together, so that a report stays below 2 MB."""


@dataclass(frozen=True)
class StageTable:
    """Table of causes by stage and implementation; a cell has the count and a link that filters the cards."""

    columns: list[str]
    rows: list[tuple[str, list[tuple[int, str]]]]


@dataclass(frozen=True)
class Disagreements:
    """Causes of failure, and differences that a dialect declares.

    Attributes:
        stages: number of causes by stage; None if there are few causes.
        cards: cards of the first causes.
        more_cards: number of causes without a card.
        unexplained: failing batches for which the log has no smallest batch, because the run stopped early.
        differences: one card for each declared difference.
    """

    stages: StageTable | None
    cards: list[Card]
    more_cards: int
    unexplained: list[dict[str, Any]]
    differences: list[Card]


def disagreements_of(log: Log, found: list[Cause], new: set[str]) -> Disagreements:
    """Return the data of the section with the cards of a run.

    Args:
        log: the log of the run.
        found: causes of failure.
        new: ids of the causes that the previous run did not have.
    """
    failures, declared = found[:MAX_CARDS], causes(log.differences, log.stages)[:MAX_CARDS]
    open_cards = 1 if len(found) > MAX_OPEN_CARDS else len(found)
    cards = _cards(log, [*failures, *declared], open_cards, new)
    return Disagreements(
        stages=_stage_table(found, log.stages),
        cards=cards[: len(failures)],
        more_cards=len(found) - len(failures),
        unexplained=_unexplained(log),
        differences=cards[len(failures) :],
    )


def _cards(log: Log, found: list[Cause], open_cards: int, new: set[str]) -> list[Card]:
    """Return a card for each cause; the total size of their pictures is limited."""
    cards, budget = [], PICTURE_BUDGET
    titles = log.run.get("clauses", {})
    for number, cause in enumerate(found):
        share = budget // (len(found) - number)
        is_open = number < open_cards and cause.verdict != "declared"
        card = card_of(log.folder, cause, is_open, share, cause.id in new, titles)
        budget -= card.drawing.characters if card.drawing else 0
        cards.append(card)
    return cards


def _stage_table(found: list[Cause], order: Sequence[str]) -> StageTable | None:
    """Return the table of causes by stage; None if there are so few causes that all cards are open."""
    if len(found) <= MAX_OPEN_CARDS:
        return None
    counts = Counter((cause.example["implementation"], cause.example.get("stage") or "") for cause in found)
    columns = sorted({stage: None for _, stage in counts}, key=place_in(["", *order]))
    rows = [
        (name, [(counts[name, stage], _stage_link(name, stage, found)) for stage in columns])
        for name in dict.fromkeys(name for name, _ in counts)
    ]
    return StageTable([stage or "before any stage" for stage in columns], rows)


def _stage_link(name: str, stage: str, found: list[Cause]) -> str:
    if stage:
        return filter_link(impl=name, stage=stage)
    own = [
        cause for cause in found if cause.example["implementation"] == name and not cause.example.get("stage")
    ]
    return filter_link(impl=name, verdict=own[0].verdict if own else "error")


def _unexplained(log: Log) -> list[dict[str, Any]]:
    explained = {(line["implementation"], line.get("clause_group")) for line in log.divergences}
    cases = {line.get("case") for line in log.divergences}
    return [
        {
            "cell": cell,
            "failures": failures,
            "count": sum(log.batches.cells[cell][verdict] for verdict in FAILING),
        }
        for cell, failures in log.batches.failures.items()
        if (cell.implementation, cell.clause_group) not in explained
        and not any(failure.case in cases for failure in failures)
    ]
