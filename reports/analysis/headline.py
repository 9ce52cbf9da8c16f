"""The result of a run in one sentence."""

from typing import Any

from tal_reports.analysis.summary import is_complete
from tal_reports.log.batches import FAILING
from tal_reports.text import counted, listed, shortened

RESULTS = {
    "conforms": "conforms",
    "divergent": "diverges",
    "nondeterministic": "is not deterministic",
    "error": "fails",
    "not finished": "did not finish",
    "inconclusive": "is inconclusive",
    "not tested": "was not tested",
}
"""The predicate of the sentence about an implementation, by its result."""


def headline(
    implementations: list[dict[str, Any]], finished: bool, power: dict[str, dict[str, Any]] | None = None
) -> str:
    """Return the result of a run in one sentence.

    Args:
        implementations: field `implementations` of the run's summary.
        finished: True if all tests of the run finished.
        power: field `power` of the summary: counts of planted faults by profile; None or {} without planted faults.
    """
    failing = [line for line in implementations if line["result"] in FAILING]
    tested = [line for line in implementations if line["result"] != "not tested"]
    if not tested:
        return _mutation_headline(power, finished) if power else "Nothing was tested"
    if failing and (len(failing) > 3 or len(failing) == len(tested) > 1):
        return f"{len(failing)} of {counted(len(tested), 'implementation')} do not conform"
    if failing:
        return listed([f"{_name(line)} {predicate_of(line)}" for line in failing])
    unproven = [line for line in tested if line["result"] != "conforms"]
    if len(unproven) > 3:
        return (
            f"{len(unproven)} of {counted(len(tested), 'implementation')} did not finish or are inconclusive"
        )
    if unproven:
        return listed([f"{_name(line)} {predicate_of(line)}" for line in unproven])
    so_far = "" if finished else " so far"
    if len(tested) > 3:
        return f"All {len(tested)} implementations conform{so_far}"
    verb = "conforms" if len(tested) == 1 else "conform"
    return f"{listed([_name(line) for line in tested])} {verb}{so_far}"


def result_of(line: dict[str, Any], worth: str = "") -> str:
    """Return the result of an implementation as text: `conforms`, `not finished (12 of 104 tests)`.

    Args:
        line: the implementation's element of the summary's list `implementations`.
        worth: clause that is appended to `conforms`, such as "dev: finds 171 of 250 planted faults"; "" for no clause.
    """
    if is_complete(line):
        return with_worth(line["result"], line, worth)
    failing = f"{line['result']}, " if line["result"] in FAILING else ""
    return f"{failing}not finished{_extent(line['tests'])}"


def with_worth(text: str, line: dict[str, Any], worth: str) -> str:
    """Return the text of an implementation's result, with `worth` in brackets if the result is `conforms`."""
    return f"{text} ({worth})" if worth and has_worth(line) else text


def has_worth(line: dict[str, Any]) -> bool:
    """Return True if the number of planted faults that a profile finds is said of an implementation's result.

    It is measured for the task detect alone, and only `conforms` depends on it.
    """
    return line["result"] == "conforms" and line.get("task") in (None, "detect")


def predicate_of(line: dict[str, Any]) -> str:
    """Return the result of an implementation as a predicate: `conforms`, `did not finish (12 of 104 tests)`."""
    if is_complete(line):
        return RESULTS[line["result"]]
    failing = f"{RESULTS[line['result']]}, and " if line["result"] in FAILING else ""
    return f"{failing}{RESULTS['not finished']}{_extent(line['tests'])}"


def _extent(tests: dict[str, int | None]) -> str:
    planned, finished = tests["planned"], tests["finished"]
    if planned is None:
        return ""
    if finished is None:
        return f" ({counted(planned, 'test')} planned)"
    return f" ({finished:,} of {counted(planned, 'test')})"


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
