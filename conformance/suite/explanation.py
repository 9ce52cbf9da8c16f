"""Explain at the end of a run what a failing implementation computes, and log the explanation.

The behaviour that an implementation must follow is called its dialect. A dialect consists of choices, such as CIoU
instead of IoU as the overlap. An explanation names the dialect, with changed choices, that a failing implementation
follows. It only adds lines to the log, and does not change a verdict. If the search for an explanation raises, a line
of the log says so.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from hypothesis.strategies import SearchStrategy

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.recipe_source import recipe_from
from tal_conformance.checks.registry import CHECKS
from tal_conformance.core.progress import progress
from tal_conformance.core.task import DETECT, E2E, OBB
from tal_conformance.dialects.identification import explain
from tal_conformance.dialects.identified import Identification, choice_fields, tie_fields
from tal_conformance.dialects.known_faults import KnownFault
from tal_conformance.dialects.observations import Observations
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.suite.followers import followers
from tal_conformance.suite.other_calls import precision_of, sentence_about_calls
from tal_conformance.suite.session import SessionState
from tal_conformance.suite.shared_properties import FAILING, failing_line, recipe_of, shared_properties
from tal_reference.choices import title
from tal_reports import Log, batch_lines, read_log

MAX_FAILING, MAX_PASSING = 200, 280
"""Maximum numbers of failing and of conforming batches of a run that the search explains."""
CONFORMING = ("exact", "within_bound", "admissible", "rejected")
"""Verdicts of batches on which an implementation conforms, without known issues and without inconclusive ones."""
EXPLAINING, SHARING = 0.8, 0.9
"""Share of the budget for search and proof, and share of the budget after which no more batches are generated to test
shared properties of failing batches. The rest is for judging the logged failures by the dialect that was found."""

Line = dict[str, Any]

known_faults: Callable[[], Iterable[KnownFault]] = tuple
"""Function that returns the planted faults with which implementations are compared. They are in a room above this one,
which therefore sets the function."""


def explain_failures(run: SessionState, seconds: float, begins: Callable[[], None] = lambda: None) -> None:
    """Log for every failing implementation the dialect and choices that explain its failures.

    Nothing is logged for a run of case files, which judges too few batches for an explanation.

    Args:
        run: the session.
        seconds: budget of processor time for each implementation; 0: nothing is explained.
        begins: called before a search begins, which prints its progress.
    """
    if not seconds or run.cases or run.recorder.lost is not None:
        return
    log = read_log(run.folder)
    names = {
        cell.implementation for cell, verdicts in log.batches.cells.items() if set(verdicts) & set(FAILING)
    }
    failing = [implementation for implementation in run.implementations if implementation.name in names]
    if not failing:
        return
    begins()
    title = f"Looking for the cause (at most {seconds:g} s of processor time for an implementation)"
    with progress(title, len(failing)) as advance:
        for implementation in failing:
            run.recorder.line("identification", **explanation(run, log, implementation, seconds))
            advance()


def explanation(run: SessionState, log: Log, implementation: Implementation, seconds: float) -> Line:
    """Return the log line with the explanation of an implementation's failures, or why it is missing."""
    began = time.process_time()
    try:
        fields = _explained(run, log, implementation, seconds)
    except KeyboardInterrupt:
        fields = {"problem": "the search for the cause was interrupted"}
    except Exception as error:
        fields = {"problem": f"the search for the cause failed: {type(error).__name__}: {error}"[:400]}
    spent = round(time.process_time() - began, 2)
    return {"implementation": implementation.name, "seconds": spent, "budget": seconds} | fields


def _not_searched(task: str) -> str:
    """Return the reason why a run does not search for the cause in a task, and the command that does."""
    reason = f"task {task}: a run searches for the cause in the task {DETECT.name} only"
    searched = task in (E2E.name, OBB.name)
    return f"{reason}; `tal-conformance identify NAME --task {task}` searches for it" if searched else reason


def _explained(run: SessionState, log: Log, implementation: Implementation, seconds: float) -> Line:
    if implementation.task != DETECT.name:
        return {"problem": _not_searched(implementation.task)}
    began = time.process_time()
    lines = list(batch_lines(run.folder, implementation.name))
    failing, passing = sample_of(lines)
    observations = Observations(implementation)
    if not failing:
        shared = shared_properties(observations, implementation.dialect, lines, failing_line, lambda: True)
        return {"sentence": sentence_about_calls(lines), "shared": shared}
    identification = explain(
        observations,
        failing,
        passing,
        EXPLAINING * seconds,
        strategies=failing_strategies(lines),
        faults=known_faults(),
    )
    fields = fields_of(identification)
    if identification.missing or identification.as_declared:
        fields["shared"] = shared_properties(
            observations,
            identification.dialect,
            lines,
            lambda line: is_left(observations, identification, line),
            lambda: time.process_time() > began + SHARING * seconds,
        )
    deadline = max(began + seconds, time.process_time() + (1 - SHARING) * seconds)
    own = [line for line in log.divergences if line["implementation"] == implementation.name]
    return fields | {"causes": followers(run.folder, identification, own, deadline)}


def is_left(observations: Observations, identification: Identification, line: Line) -> bool | None:
    """Return True if the dialect that was found does not explain the batch of a `batch` line.

    Return False if the implementation conforms to that dialect on the batch, None if the batch was not judged. If no
    better dialect than the declared one was found, the verdict in the line counts.
    """
    if identification.as_declared:
        return failing_line(line)
    recipe = recipe_of(line) if is_plain(line) else None
    if recipe is None or not observations.is_judged(recipe, identification.dialect):
        return None
    return not observations.conforms(recipe, identification.dialect)


def is_plain(line: Line) -> bool:
    """Return True if a batch was judged in float32 without autocast."""
    return precision_of(line) == "float32"


def sample_of(lines: Sequence[Line]) -> tuple[list[Recipe], list[Recipe]]:
    """Return recipes of failing and of conforming float32 batches: every n-th in the `batch` lines of a run."""
    plain = [line for line in lines if is_plain(line)]
    failing = {line["recipe"] for line in plain if line["verdict"] in FAILING and line.get("recipe")}
    passing = {line["recipe"]: None for line in plain if line["verdict"] in CONFORMING and line.get("recipe")}
    others = [text for text in passing if text not in failing]
    return list(_read(sorted(failing), MAX_FAILING)), list(_read(others, MAX_PASSING))


def failing_strategies(lines: Sequence[Line]) -> list[SearchStrategy[Recipe]]:
    """Return the strategies of the tests that failed on float32 batches, from the `batch` lines of a run."""
    tests = {line["test"] for line in lines if is_plain(line) and line["verdict"] in FAILING}
    checks = [CHECKS.get(str(test).removeprefix("test_")) for test in sorted(tests)]
    return [check.strategy for check in checks if check is not None and check.argument == "recipe"]


def _read(texts: Sequence[str], most: int) -> Iterator[Recipe]:
    """Yield up to `most` recipes, parsed from every n-th text; a text that is not a recipe is left out."""
    step = max(1, -(-len(texts) // most))
    for text in texts[::step]:
        try:
            yield recipe_from(text)
        except ValueError:
            continue


def fields_of(identification: Identification) -> Line:
    """Return an identification as fields of the run log."""
    left = sorted(identification.left.items(), key=lambda pair: -pair[1][0])
    return {
        "sentence": sentence_of(identification),
        "dialect": "" if identification.fault else title(identification.dialect),
        "base": identification.base.name,
        "complete": identification.complete,
        "batches": identification.batches,
        "unexplained": identification.missing,
        "unjudged": identification.unjudged,
        "choices": choice_fields(identification),
        "ties": tie_fields(identification),
        "left": [
            {"clause": clause, "batches": count, "summary": failure.summary, "recipe": failure.batch.origin}
            for clause, (count, failure) in left
        ],
    }


def sentence_of(identification: Identification) -> str:
    """Return a sentence about what the implementation computes.

    If the implementation conforms on each batch by itself, although the run failed, the sentence says so.
    """
    if identification.as_declared and identification.complete and not identification.missing:
        return (
            f"On each of {identification.batches} batches by itself it computes {identification.base.name}: the "
            "failures come from another dtype, way of calling, relation or order of calls."
        )
    return identification.sentence
