"""history.jsonl: one line for each finished run, appended, from which trends are drawn and runs compared."""

import hashlib
import json
import os
from pathlib import Path
from types import NoneType
from typing import Any

from tal_reports.analysis.causes import Cause, causes
from tal_reports.analysis.summary import failures_of
from tal_reports.log.reader import Log
from tal_reports.text import real, shortened

NAME = "history.jsonl"
"""Beside the folders of the runs that it tells of."""
SCHEMA = 1
MAX_CAUSES, MAX_BENCHMARKS = 300, 300
"""Causes and benchmarks of one run that are remembered."""
MAX_SUMMARY_LENGTH = 300
"""Characters of a summary that are remembered."""
TIMING = ("cpu", "cuda", "platform", "python", "torch", "threads")
"""What must be the same for two timings to be compared."""

Entry = dict[str, Any]
"""What history.jsonl says of one run."""


def entry_of(log: Log, summary: dict[str, Any]) -> Entry:
    """What is remembered of a run."""
    found = causes(failures_of(log), log.stages, log.batches)
    environment = {
        name: value for name, value in log.run["environment"].items() if isinstance(value, (str, int, float))
    }
    return {
        "schema": SCHEMA,
        "run": summary["run"],
        "started": summary["started"],
        "finished": summary["finished"],
        "profile": summary["profile"],
        "seed": summary["seed"],
        "exit": summary["exit"],
        "seconds": log.seconds,
        "devices": summary["devices"],
        "environment": environment,
        "fingerprint": fingerprint(log.run["environment"]),
        "implementations": [_implementation(log, one) for one in summary["implementations"]],
        "causes": [_cause(cause) for cause in found[:MAX_CAUSES]],
        "benchmarks": [_benchmark(line) for line in log.benchmarks[:MAX_BENCHMARKS]],
        **({"power": summary["power"]} if summary.get("power") else {}),
    }


def repeats(log: Log) -> bool:
    """Whether a run judged case files in place of drawn batches."""
    return any(word == "--case" or word.startswith("--case=") for word in log.run["command"])


def fingerprint(environment: dict[str, Any]) -> str:
    """Ten hexadecimal digits that two machines share on which times can be compared."""
    told = json.dumps([environment.get(name) for name in TIMING], sort_keys=True)
    return hashlib.sha256(told.encode(errors="backslashreplace")).hexdigest()[:10]


def _implementation(log: Log, one: dict[str, Any]) -> dict[str, Any]:
    groups: dict[str, int] = {}
    for cell, verdicts in log.batches.cells.items():
        if cell.implementation == one["name"]:
            groups[cell.clause_group] = groups.get(cell.clause_group, 0) + sum(verdicts.values())
    keys = ("name", "version", "dialect", "result", "batches", "uniqueness")
    margins = one["margins"].values()
    return {key: one[key] for key in keys} | {
        "verdicts": {verdict: count for verdict, count in one["verdicts"].items() if count},
        "p50": max((real(margin["p50"]) or 0.0 for margin in margins), default=None),
        "p99": max((real(margin["p99"]) or 0.0 for margin in margins), default=None),
        "clause_groups": groups,
    }


def _cause(cause: Cause) -> dict[str, Any]:
    line = cause.example
    keys = ("implementation", "verdict", "stage", "clause", "clause_group", "case")
    told = {key: line.get(key) for key in keys}
    repeat = (line.get("reproduce") or {}).get("pytest")
    return told | {
        "id": cause.id,
        "summary": shortened(line["summary"], MAX_SUMMARY_LENGTH),
        "description": shortened(line.get("description") or "", MAX_SUMMARY_LENGTH),
        "pytest": repeat if repeat and len(repeat) <= MAX_SUMMARY_LENGTH * 3 else None,
        "clause_groups": cause.every("clause_group"),
    }


def _benchmark(line: dict[str, Any]) -> dict[str, Any]:
    keys = ("name", "implementation", "device", "seconds", "ratio_to_official", "ratio_low", "ratio_high")
    return {key: line.get(key) for key in keys}


def history_of(folder: Path) -> Path:
    """Where the history of the runs beside a run's folder is."""
    return folder.parent / NAME


def remember(path: Path, entry: Entry) -> bool:
    """Append what is known of a finished run, once; whether it was new.

    Raises:
        OSError: it cannot be written.
    """
    if entry["finished"] is None or any(known["run"] == entry["run"] for known in read_history(path)):
        return False
    line = json.dumps(_finite(entry), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if (size := os.fstat(file).st_size) and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line  # what a full disk left must not spoil this line
        os.write(file, line)
    finally:
        os.close(file)
    return True


def read_history(path: Path) -> list[Entry]:
    """Every run that is remembered, the oldest first; what cannot be read is left out."""
    if not path.is_file():
        return []
    entries = {}
    for raw in path.read_bytes().splitlines():
        try:
            entry = json.loads(raw.decode())
        except (ValueError, RecursionError):
            continue
        if _is_entry(entry):
            entries[entry["run"]] = entry
    return sorted(entries.values(), key=_when)


def _is_entry(entry: Any) -> bool:
    """Whether a line has what its readers rely on; others may have written into the file."""
    if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
        return False
    texts = all(isinstance(entry.get(name), str) for name in ("run", "started", "fingerprint"))
    lists = all(
        isinstance(entry.get(name), list) and all(isinstance(one, dict) for one in entry[name])
        for name in ("implementations", "causes", "benchmarks")
    )
    if not texts or not lists or not isinstance(entry.get("environment"), dict):
        return False
    named = all(
        isinstance(one.get("name"), str) and isinstance(one.get("uniqueness", {}), (dict, NoneType))
        for one in entry["implementations"]
    )
    flat = all(not isinstance(value, (dict, list)) for one in entry["benchmarks"] for value in one.values())
    causes = all(
        isinstance(cause.get("id"), str) and isinstance(cause.get("implementation"), str)
        for cause in entry["causes"]
    )
    return named and flat and causes


def _when(entry: Entry) -> tuple[str, str]:
    return entry["started"] or "", entry["run"]


def previous(entries: list[Entry], entry: Entry) -> Entry | None:
    """The last run before this one with the same profile and one of its implementations."""
    return next(iter(reversed(comparable(entries, entry))), None)


def comparable(entries: list[Entry], entry: Entry) -> list[Entry]:
    """The runs before this one with the same profile and one of its implementations, the oldest first."""
    names = {one["name"] for one in entry["implementations"]}
    return [
        other
        for other in entries
        if other["run"] != entry["run"]
        and _when(other) < _when(entry)
        and other.get("profile") == entry["profile"]
        and names & {one["name"] for one in other["implementations"]}
    ]


def with_power(entries: list[Entry], entry: Entry) -> list[Entry]:
    """The runs up to this one that planted faults, whatever else they tested, the oldest first."""
    earlier = [other for other in entries if other["run"] != entry["run"] and _when(other) < _when(entry)]
    return [one for one in (*earlier, entry) if isinstance(one.get("power"), dict) and one["power"]]


def _finite(value: Any) -> Any:
    """The value with numbers that are not finite as text, as logs have them."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {key: _finite(content) for key, content in value.items()}
    return [_finite(content) for content in value] if isinstance(value, list) else value
