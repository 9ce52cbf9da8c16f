"""Group failures that follow from one cause: by the choice that explains them, else by the first diverging stage.

A choice is one property of an implementation's behaviour, such as CIoU instead of IoU as the overlap. If an
implementation differs from its declared dialect in a choice, this choice is the cause of many failures.
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tal_reports.analysis.causes import (
    Cause,
    causes,
    example_rank,
    failed_batches,
    place_of,
    severity,
    worst_first,
)
from tal_reports.log.batches import Batches
from tal_reports.log.reader import Log
from tal_reports.text import counted, shortened

Line = dict[str, Any]
KEYS = ("test", "parameter", "device", "dtype", "case")
"""Fields that identify the line of a failure in the log of an implementation."""
FOLDED = ("divergent", "error")
"""Verdicts of failures that can follow from a cause at an earlier stage."""


def causes_of(log: Log, failures: Iterable[Line]) -> list[Cause]:
    """Return the causes of failure of a run; a cause contains the failures that follow from it.

    Failures that one choice explains have one cause. Any other failure follows from the first cause at the same stage,
    or at an earlier stage that diverges, or is not visible, on the failing batches.

    Args:
        log: the log of the run.
        failures: the `divergence` lines to group.
    """
    explained, others = _by_choice(log, list(failures))
    found = list(explained.values())
    stages = log.stages
    rest: list[Cause] = []
    for cause in sorted(causes(others, stages, log.batches), key=lambda cause: _place(cause, stages)):
        head = next((head for head in _heads(log, found, rest, cause) if _follows(cause, head, stages)), None)
        if head is None:
            rest.append(cause)
        else:
            heads = found if head in found else rest
            heads[heads.index(head)] = _with(head, cause)
    counted = [_counted(cause, log.batches) for cause in [*found, *rest]]
    return worst_first(counted, stages)


def _by_choice(log: Log, failures: Sequence[Line]) -> tuple[dict[tuple[str, str], Cause], list[Line]]:
    """Return a cause for every choice that explains failures, and the failures that no choice explains."""
    choices = {
        (line["implementation"], *(failure.get(name) for name in KEYS)): (cause["words"], cause.get("clause"))
        for line in log.identifications
        for cause in line.get("causes") or ()
        for failure in cause["lines"]
    }
    groups: dict[tuple[str, str, str | None], list[Line]] = {}
    others = []
    for line in failures:
        choice = choices.get((line["implementation"], *(line.get(name) for name in KEYS)))
        if choice is None:
            others.append(line)
        else:
            groups.setdefault((line["implementation"], *choice), []).append(line)
    found = {}
    for (name, words, clause), lines in groups.items():
        ordered = sorted(
            lines, key=lambda line: (*_example_place(line, clause, log.stages), *example_rank(line))
        )
        parts = causes(ordered, log.stages)
        follows = tuple(part for part in parts if ordered[0] not in part.lines)
        found[name, words] = Cause(tuple(ordered), None, words, follows)
    return found, others


def _example_place(line: Line, clause: str | None, stages: Sequence[str]) -> tuple[bool, bool, int]:
    """Return a sort key: failures of the choice's clause first, then failures at earlier stages, relations last.

    The first failure, which becomes the example of the choice, then shows the change itself and not a consequence. A
    consequence can be at an earlier stage: if all metrics are 0, an anchor that is not a candidate can be selected.
    """
    stage, failed = line.get("stage"), str(line.get("clause") or "")
    place = stages.index(stage) if stage in stages else len(stages)
    return failed != clause, failed.startswith("META-"), place


def _heads(log: Log, found: Sequence[Cause], rest: Sequence[Cause], cause: Cause) -> Iterator[Cause]:
    """Yield the causes of the same implementation of which `cause` may be a consequence.

    Causes that stand for a choice are included only if the choices that were found explain every batch.
    """
    name = cause.example["implementation"]
    whole = any(
        line["implementation"] == name and line.get("complete") and line.get("unexplained") == 0
        for line in log.identifications
    )
    yield from (head for head in (*(found if whole else ()), *rest) if head.example["implementation"] == name)


def _follows(cause: Cause, head: Cause, stages: Sequence[str]) -> bool:
    """Return True if `cause` is a consequence of `head`, a cause at the same or at an earlier stage.

    A cause at a later stage is a consequence only if the stage of `head` diverges, or is not visible, on all batches of
    the cause.
    """
    if cause.verdict not in FOLDED or head.verdict not in FOLDED or not cause.example.get("stage"):
        return False
    if head.choice:
        return cause.example["stage"] in {line.get("stage") for line in head.lines}
    first, later = head.example.get("stage"), cause.example["stage"]
    if first == later:
        return True
    if first not in stages or later not in stages or stages.index(first) > stages.index(later):
        return False
    states = [_state(line, first) for line in cause.lines]
    return all(state in ("not shown", "diverges") for state in states)


def _state(line: Line, stage: str | None) -> str | None:
    """Return the state of a stage on the batch of a failure; None if the log does not contain the state."""
    return next((part["state"] for part in line.get("stages") or () if part["stage"] == stage), None)


def _with(head: Cause, cause: Cause) -> Cause:
    """Return the cause `head`, with the failures of `cause` added as failures that follow from it."""
    return Cause((*head.lines, *cause.lines), None, head.choice, (*head.follows, cause))


def _counted(cause: Cause, batches: Batches) -> Cause:
    """Return a cause with the number of batches that failed at the same stage and clause (`place_of`)."""
    if not cause.choice and not cause.follows:
        return cause
    first = {place_of(line): line for line in cause.lines}
    counts = [failed_batches(line, batches) for line in first.values()]
    known = [count for count in counts if count is not None]
    return Cause(cause.lines, sum(known) if known else None, cause.choice, cause.follows)


def _place(cause: Cause, stages: Sequence[str]) -> tuple[int, ...]:
    """Return a sort key that puts causes at earlier stages first, and the worst verdict of a stage first."""
    worst, place, batches = severity(cause, stages)
    return place, worst, batches


def cause_fields(cause: Cause) -> dict[str, Any]:
    """Return the fields of a cause in the summary: its example, its tests, and the causes that follow from it."""
    line = cause.example
    return {key: line.get(key) or None for key in ("stage", "clause", "case", "verdict")} | {
        "summary": line["summary"],
        "id": cause.id,
        "choice": cause.choice or None,
        "tests": cause.every("test"),
        "follows": [
            {key: part.example.get(key) or None for key in ("stage", "clause", "case")}
            | {"summary": part.example["summary"]}
            for part in cause.follows
        ],
    }


LISTS = ("choices", "ties", "left", "shared")
FIELDS = (
    *(
        "sentence",
        "problem",
        "seconds",
        "budget",
        "dialect",
        "complete",
        "batches",
        "unexplained",
        "unjudged",
    ),
    *LISTS,
)
"""Fields of the log line about an identification that the summary has too."""


def identification_fields(log: Log, name: str) -> dict[str, Any] | None:
    """Return the logged explanation of an implementation's failures; None if no explanation was searched for."""
    line = next((line for line in log.identifications if line["implementation"] == name), None)
    if line is None:
        return None
    return {key: line.get(key, [] if key in LISTS else None) for key in FIELDS}


def identified_in_words(found: dict[str, Any], brief: bool = False) -> tuple[str, list[str]]:
    """Return the sentence that explains an implementation's failures, and further sentences.

    A planted fault cannot be declared: its identification has no dialect.

    Args:
        found: the `identification` of an implementation in the summary.
        brief: True to leave out all shared properties of failing batches but the first, which has the sharpest split.
    """
    if found["problem"]:
        return shortened(found["problem"], 400), []
    details = []
    if found["dialect"] and found["choices"]:
        details.append(
            f'if this behaviour is intended, declare it in the adapter: dialect = "{found["dialect"]}"'
        )
    if found["dialect"] and found["complete"] and not (found["choices"] or found["unexplained"]):
        details.append(
            f'judged by the dialect {found["dialect"]}, no batch fails: set dialect = "{found["dialect"]}" in the '
            "adapter, or run tal-conformance identify"
        )
    for tie in found["ties"]:
        decision = f"decided by {tie['deciding']}" if tie.get("deciding") else "no generated batch decides"
        details.append(f"{tie['words']} explains as much; {decision}")
    details += [
        f"{shared['sentence']}{shared.get('tested') or ''}"
        for shared in found["shared"][: 1 if brief else None]
    ]
    if found["unjudged"] and "not judged" not in (found["sentence"] or ""):
        details.append(f"{counted(found['unjudged'], 'batch')} more were not judged within the budget")
    return shortened(found["sentence"] or "", 600), [shortened(detail, 400) for detail in details]
