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
        return f"{_share(failing, tested, 'does', 'do')} not conform"
    if failing:
        return listed([f"{_name(line)} {predicate_of(line)}" for line in failing])
    unproven = [line for line in tested if line["result"] != "conforms"]
    if len(unproven) > 3:
        return f"{_share(unproven, tested, 'is', 'are')} not finished or inconclusive"
    if unproven:
        return listed([f"{_name(line)} {predicate_of(line)}" for line in unproven])
    return _passed(tested) + ("" if finished else " so far")


def _share(part: list[dict[str, Any]], tested: list[dict[str, Any]], one: str, several: str) -> str:
    """Return "2 of 4 implementations" with the verb `several`, or the name of a single one, in how many tasks.

    Args:
        part: lines of the implementations that have a common result.
        tested: lines of all tested implementations.
        one: verb after a single implementation.
        several: verb after several implementations.
    """
    names = _implementations(tested)
    if len(names) == 1 < len(tested):
        return f"In {len(part)} of {counted(len(tested), 'task')}, {names[0]} {one}"
    count = len(_implementations(part))
    return f"{count} of {counted(len(names), 'implementation')} {one if count == 1 else several}"


def _passed(tested: list[dict[str, Any]]) -> str:
    """Return which implementations conform, and in how many tasks if a single one was tested in several."""
    names = _implementations(tested)
    if len(names) > 3:
        return f"All {len(names)} implementations conform"
    verb = "conforms" if len(names) == 1 else "conform"
    tasks = f" in {len(tested)} tasks" if len(names) == 1 < len(tested) else ""
    return f"{listed(names)} {verb}{tasks}"


def _implementations(lines: list[dict[str, Any]]) -> list[str]:
    """Return the names of implementations, each once: a further task has an own line, `ultralytics (obb)`."""
    return list(dict.fromkeys(shortened(_without_task(line), 60) for line in lines))


def _without_task(line: dict[str, Any]) -> str:
    return str(line["name"]).removesuffix(f" ({line.get('task')})")


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
