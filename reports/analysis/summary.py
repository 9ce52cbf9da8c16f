"""summary.json: the results of a run in a form for other tools."""

import json
from collections import Counter
from pathlib import Path
from statistics import median
from typing import Any

from tal_reports.analysis.causes import causes
from tal_reports.analysis.folding import cause_fields, causes_of, identification_fields
from tal_reports.analysis.worth import worth_in_words
from tal_reports.log.batches import FAILING, SHOWING, UNIQUENESS, VERDICTS, Cost
from tal_reports.log.reader import Log
from tal_reports.log.schemas import fault
from tal_reports.log.writer import write_whole
from tal_reports.text import counted, listed

SCHEMA = 3
NAME = "summary.json"
NO_BATCH = "no batch was judged"
PARTLY = "judged in part"
LEDGER = ("entry", "implementation", "device", "reason", "link", "expires", "met", "known", "state", "fails")
FINDING = ("finding", "title", "clause", "version", "reproduces")


def summarise(log: Log) -> dict[str, Any]:
    """Return the results of a run, following `summary.schema.json`.

    For an unfinished run, `finished` is None and `exit` is 1, as for a failing run.

    Raises:
        ValueError: the result violates the schema, which is an error of this package.
    """
    run, implementations = log.run, [_implementation(log, line) for line in implementations_of(log)]
    unfinished = not all(is_complete(line) for line in implementations)
    fails = any(item["result"] in FAILING for item in implementations)
    summary = {
        "schema": SCHEMA,
        "run": run["run"],
        "started": run["time"],
        "finished": None if log.end is None else log.end.get("finished") or log.end["time"],
        "profile": run["profile"],
        "seed": run["seed"],
        "environment": run["environment"],
        "devices": run["devices"],
        "implementations": implementations,
        "hazards": hazards_of(log),
        "benchmarks": [_without_log(line) | _ratio(line) for line in log.benchmarks],
        "differences": [_difference(cause.example) for cause in causes(log.differences, log.stages)],
        "training": [{"bound": None, "worst": None} | _without_log(line) for line in log.training],
        "scopes": [_scope(line) for line in log.scopes],
        "power": power_of(log),
        "worth": _worth(log),
        "ledger": [_part(line, *LEDGER) for line in log.ledger],
        "findings": [_part(line, *FINDING) for line in log.findings],
        "not_tested": not_tested(log),
        "problems": log.problems.sentences() + _otherwise_failed(log, fails),
        "exit": int(fails or unfinished or log.end is None or log.end["exit"] != 0),
    }
    wrong = fault(summary, "summary")
    if wrong is not None:
        raise ValueError(f"the summary of {log.folder} violates its schema: {wrong}")
    return summary


def power_of(log: Log) -> dict[str, dict[str, Any]]:
    """Count planted faults by profile and result. A fault that was found at a wrong stage counts as survived."""
    profiles: dict[str, dict[str, Any]] = {}
    for profile in dict.fromkeys(line["profile"] for line in log.power):
        lines = [line for line in log.power if line["profile"] == profile]
        counts = Counter(line["result"] for line in lines)
        batches = [line["batches"] for line in lines if line["result"] == "killed"]
        profiles[profile] = {
            "mutants": len(lines),
            "killed": counts["killed"],
            "equivalent": counts["equivalent"],
            "survived": counts["survived"] + counts["elsewhere"],
            "median_batches_to_kill": median(batches) if batches else None,
        }
    return profiles


def _worth(log: Log) -> dict[str, Any] | None:
    """Return how many planted faults the run's profile finds, also in words; None if the log lacks the number."""
    worth = log.run.get("worth")
    return worth and {**worth, "words": worth_in_words(worth)}


def _otherwise_failed(log: Log, fails: bool) -> list[str]:
    if fails or log.end is None or log.end["exit"] == 0:
        return []
    if any(not count.complete for count in log.tests.values()):
        return ["The run was cut short: not all selected tests finished."]
    if log.inconclusive:
        return []
    if not log.batches.judged:
        return ["No batch was judged: no test was selected, or all were skipped."]
    return [
        f"The run ended with exit status {log.end['exit']}, although no implementation fails: see its output."
    ]


def write_summary(summary: dict[str, Any], folder: Path) -> Path:
    """Write summary.json into a folder, atomically.

    Raises:
        OSError: the file cannot be written.
    """
    path = folder / NAME
    write_whole(path, json.dumps(summary, indent=1, allow_nan=False) + "\n")
    return path


def implementations_of(log: Log) -> list[dict[str, Any]]:
    """Return name, version, dialect and capabilities of every implementation that the log names."""
    declared = {line["name"]: line for line in log.run["implementations"]}
    lines = [*log.divergences, *log.differences, *log.not_tested, *log.training]
    named = [cell.implementation for cell in log.batches.cells] + [
        line.get("implementation") for line in lines
    ]
    names = dict.fromkeys([*declared, *(name for name in named if name is not None)])
    unknown: dict[str, Any] = {"version": None, "dialect": None, "capabilities": []}
    return [unknown | declared.get(name, {}) | {"name": name} for name in names]


def hazards_of(log: Log) -> dict[str, int]:
    """Return the number of different batches with each known hazard (risky property), most frequent first."""
    counts = dict.fromkeys(log.run.get("hazards", {}), 0) | dict(log.batches.hazards)
    return dict(sorted(counts.items(), key=lambda item: (-item[1], item[0])))


def failures_of(log: Log) -> list[dict[str, Any]]:
    """Return the `divergence` lines of the log, and such a line for every implementation that could not be loaded."""
    known = {cell.implementation for cell in log.batches.cells}
    known |= {line["implementation"] for line in log.divergences}
    known |= {line["name"] for line in log.run["implementations"] if line.get("capabilities")}
    absent = [
        {"kind": "divergence", "stage": None, "clause": None, "case": None, "verdict": "error"}
        | {"implementation": line["implementation"], "summary": line["reason"]}
        for line in log.not_tested
        if line.get("device") is None and line.get("implementation") not in (None, *known)
    ]
    return log.divergences + absent


def not_tested(log: Log) -> list[dict[str, Any]]:
    """Return implementation, device and reason of each part of the run that was not tested."""
    reasons = [
        {key: line.get(key) for key in ("implementation", "device", "reason")} for line in log.not_tested
    ]
    for device, state in log.run["devices"].items():
        if state != "tested":
            reason = state.removeprefix("not tested").lstrip(": ") or "no reason given"
            reasons.append({"implementation": None, "device": device, "reason": reason})
    reasons += [
        {key: line[key] for key in ("implementation", "device", "reason")} for line in log.inconclusive
    ]
    explained = {(line["implementation"], line["device"]) for line in reasons}
    reasons = [line for at, line in enumerate(reasons) if line not in reasons[:at]]
    for item in implementations_of(log):
        if (item["name"], None) not in explained:
            reasons += [_reason(item["name"], text) for text in _not_offered(log, item)]
        reasons += [
            _reason(item["name"], text) for text in inconclusive_in_words(inconclusive_of(log, item["name"]))
        ]
    return reasons


def inconclusive_of(log: Log, name: str) -> dict[str, dict[str, int]]:
    """Return, for every clause group with inconclusive batches, the number of all and of inconclusive batches."""
    counts = {}
    for group in log.batches.clause_groups():
        verdicts = log.batches.verdicts(name, group)
        if verdicts["inconclusive"]:
            counts[group] = {"batches": verdicts.total(), "inconclusive": verdicts["inconclusive"]}
    return counts


def inconclusive_in_words(counts: dict[str, dict[str, int]]) -> list[str]:
    """Return a list with one sentence about inconclusive batches by clause group; [] without inconclusive batches."""
    if not counts:
        return []
    total = sum(count["inconclusive"] for count in counts.values())
    groups = [
        f"{count['inconclusive']:,} of {count['batches']:,} in {group} ({count['inconclusive'] / count['batches']:.1%})"
        for group, count in counts.items()
    ]
    return [f"{counted(total, 'inconclusive batch')}, {PARTLY}: {listed(groups)}"]


def _reason(implementation: str, reason: str) -> dict[str, Any]:
    return {"implementation": implementation, "device": None, "reason": reason}


def _not_offered(log: Log, implementation: dict[str, Any]) -> list[str]:
    name, offers = implementation["name"], implementation["capabilities"]
    if not log.batches.verdicts(name):
        return [] if any(line["implementation"] == name for line in log.divergences) else [NO_BATCH]
    found = []
    if offers and "loss" not in offers:
        stages = f": {listed(log.loss_stages)} are not judged" if log.loss_stages else ""
        found.append(f"no loss{stages}")
    if offers and "stages" not in offers:
        found.append(
            "the stages of the assigner are not exposed: they are judged by the resulting assignment"
        )
    return found


def _implementation(log: Log, line: dict[str, Any]) -> dict[str, Any]:
    name = line["name"]
    verdicts = log.batches.verdicts(name)
    judged = sum(verdicts.values())
    divergences = [divergence for divergence in failures_of(log) if divergence["implementation"] == name]
    for divergence in divergences:
        if not divergence["case"]:  # failed before the first batch: count this failure too
            verdicts[divergence["verdict"]] += 1
        else:  # the batch may come from shrinking, and the line of the original batch may be cut off
            verdicts[divergence["verdict"]] = max(1, verdicts[divergence["verdict"]])
    training = any(not other["agrees"] for other in log.training if other["implementation"] == name)
    return {
        "name": name,
        "version": line["version"],
        "dialect": line["dialect"],
        "task": line.get("task"),
        "capabilities": line["capabilities"],
        "result": _result(log, name, verdicts, training),
        "tests": _tests(log, name),
        "batches": judged,
        "verdicts": {verdict: verdicts[verdict] for verdict in VERDICTS},
        "uniqueness": {kind: log.batches.uniqueness[name][kind] for kind in UNIQUENESS},
        "undecided": log.batches.undecided[name],
        "inconclusive": inconclusive_of(log, name),
        "undecided_because": dict(log.batches.undecided_because[name].most_common()),
        "not_supported": _not_supported(log, name, judged),
        "margins": _margins(log, name),
        "cost": _cost(log, name),
        "first_divergences": [cause_fields(cause) for cause in causes_of(log, divergences)],
        "identification": identification_fields(log, name),
    }


def _not_supported(log: Log, name: str, judged: int) -> dict[str, Any]:
    """Return the number of batches that an adapter declares not to support, their share, and the reasons."""
    reasons = log.batches.unsupported[name]
    share = reasons.total() / judged if judged else 0.0
    return {"batches": reasons.total(), "share": round(share, 4), "reasons": dict(reasons.most_common())}


def unsupported_sentence(line: dict[str, Any]) -> str:
    """Return how many batches of an implementation are not supported and why, or "" if all are supported.

    Args:
        line: the element of the summary's `implementations`.
    """
    found = line.get("not_supported") or {"batches": 0}
    if not found["batches"]:
        return ""
    reasons = "; ".join(f"{reason} ({count:,})" for reason, count in found["reasons"].items())
    share = f"{100 * found['share']:.0f} %" if found["share"] >= 0.01 else "less than 1 %"
    return f"{found['batches']:,} of {counted(line['batches'], 'batch')} ({share}): {reasons}"


def _tests(log: Log, name: str) -> dict[str, int | None] | None:
    """Return the numbers of planned and finished tests of an implementation; None if a complete log has no counts."""
    count = log.tests.get(name)
    if count is not None:
        return {"planned": count.planned, "finished": count.finished}
    return None if log.end is not None else {"planned": None, "finished": None}


def is_complete(line: dict[str, Any]) -> bool:
    """Return True if all planned tests of an implementation finished.

    Args:
        line: the element of the summary's `implementations`.
    """
    tests = line.get("tests")
    if tests is None:
        return True
    return None not in tests.values() and bool(tests["finished"] >= tests["planned"])


def _result(log: Log, name: str, verdicts: dict[str, int], training_differs: bool) -> str:
    for verdict in reversed(FAILING):
        if verdicts[verdict]:
            return verdict
    if training_differs:
        return "divergent"
    if not is_complete({"tests": _tests(log, name)}):
        return "not finished"
    if any(line["implementation"] == name for line in log.inconclusive):
        return "inconclusive"
    if any(verdicts[verdict] for verdict in SHOWING):
        return "conforms"
    return "inconclusive" if any(verdicts.values()) else "not tested"


def _margins(log: Log, name: str) -> dict[str, dict[str, Any]]:
    return {
        stage: {
            "p50": _finite(margins.quantile(0.5)),
            "p99": _finite(margins.quantile(0.99)),
            "largest": _finite(margins.largest),
        }
        for (implementation, stage), margins in log.batches.margins.items()
        if implementation == name
    }


def _cost(log: Log, name: str) -> dict[str, Any]:
    cost = log.batches.costs.get(name, Cost())
    return {
        "batches": cost.batches,
        "seconds": cost.seconds,
        "call_seconds": cost.call,
        "times_the_call": None if cost.times_the_call is None else _finite(cost.times_the_call),
        "batches_per_second": None if cost.per_second is None else _finite(cost.per_second),
    }


def _finite(value: float) -> float | str:
    return value if value - value == 0 else str(value)


def _ratio(line: dict[str, Any]) -> dict[str, Any]:
    return {"ratio_to_official": line.get("ratio_to_official")}


def _difference(line: dict[str, Any]) -> dict[str, Any]:
    keys = ("implementation", "dialect", "against", "stage", "clause", "case", "summary")
    return {key: line.get(key) for key in keys}


def _scope(line: dict[str, Any]) -> dict[str, Any]:
    keys = (
        "implementation",
        "device",
        "scope",
        "description",
        "images",
        "conforms",
        "tie",
        "near_tie",
        "alone",
    )
    return {key: line.get(key) for key in keys}


def _part(line: dict[str, Any], *keys: str) -> dict[str, Any]:
    return {key: line[key] for key in keys}


def _without_log(line: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in line.items() if key not in ("kind", "time")}
