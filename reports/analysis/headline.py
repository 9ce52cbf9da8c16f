"""The result of a run in one sentence."""

from typing import Any

from tal_reports.log.batches import FAILING
from tal_reports.text import counted, listed, shortened

RESULTS = {
    "conforms": "conforms",
    "divergent": "diverges",
    "nondeterministic": "is not deterministic",
    "error": "fails",
    "not tested": "was not tested",
}
"""Each result of an implementation as a predicate."""


def headline(
    implementations: list[dict[str, Any]], finished: bool, power: dict[str, dict[str, Any]] | None = None
) -> str:
    """Return the result of a run in one sentence.

    Args:
        implementations: as the summary has them.
        finished: True if the run did not stop early.
        power: as the summary has it: counts of planted faults, which a run may hold in place of implementations.
    """
    failing = [line for line in implementations if line["result"] in FAILING]
    tested = [line for line in implementations if line["result"] != "not tested"]
    if not tested:
        return _mutation_headline(power, finished) if power else "Nothing was tested"
    if failing and (len(failing) > 3 or len(failing) == len(tested) > 1):
        return f"{len(failing)} of {counted(len(tested), 'implementation')} do not conform"
    if failing:
        return listed([f"{_name(line)} {RESULTS[line['result']]}" for line in failing])
    so_far = "" if finished else " so far"
    if len(tested) > 3:
        return f"All {len(tested)} implementations conform{so_far}"
    verb = "conforms" if len(tested) == 1 else "conform"
    return f"{listed([_name(line) for line in tested])} {verb}{so_far}"


def _mutation_headline(power: dict[str, dict[str, Any]], finished: bool) -> str:
    planted, missed = (sum(counts[name] for counts in power.values()) for name in ("mutants", "survived"))
    so_far = "" if finished else " so far"
    if missed:
        return f"{missed:,} of {counted(planted, 'planted fault')} not found{so_far}"
    equivalent = sum(counts["equivalent"] for counts in power.values())
    argued = f", but for {equivalent:,} argued to be equivalent" if equivalent else ""
    return f"Every planted fault was found{so_far}{argued}"


def _name(implementation: dict[str, Any]) -> str:
    return shortened(implementation["name"], 60)
