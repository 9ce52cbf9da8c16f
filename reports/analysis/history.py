"""history.jsonl: one line (entry) for each finished run, for trends and comparisons with earlier runs."""

import hashlib
import json
import os
from pathlib import Path
from types import NoneType
from typing import Any

from tal_reports.analysis.causes import Cause
from tal_reports.analysis.folding import causes_of
from tal_reports.analysis.summary import failures_of
from tal_reports.log.reader import Log
from tal_reports.text import real, shortened

NAME = "history.jsonl"
"""Name of the history file, which lies in the folder of all runs."""
SCHEMA = 1
MAX_CAUSES, MAX_BENCHMARKS = 300, 300
"""Maximum numbers of causes and of benchmarks that are stored for one run."""
MAX_SUMMARY_LENGTH = 300
"""Maximum number of characters of a cause's summary that are stored."""
TIMING = ("cpu", "cuda", "platform", "python", "torch", "threads")
"""Fields of the environment that must be equal for timings to be comparable."""

Entry = dict[str, Any]
"""A line of history.jsonl, parsed: the results of one run."""


def entry_of(log: Log, summary: dict[str, Any]) -> Entry:
    """Return the entry for history.jsonl of a run, given its log and its summary."""
    found = causes_of(log, failures_of(log))
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
        "implementations": [_implementation(log, item) for item in summary["implementations"]],
        "causes": [_cause(cause) for cause in found[:MAX_CAUSES]],
        "benchmarks": [_benchmark(line) for line in log.benchmarks[:MAX_BENCHMARKS]],
        **({"power": summary["power"]} if summary.get("power") else {}),
    }


def repeats(log: Log) -> bool:
    """Return True if the run only judged given case files again, instead of generated batches."""
    return any(word == "--case" or word.startswith("--case=") for word in log.run["command"])


def fingerprint(environment: dict[str, Any]) -> str:
    """Return a hash of ten hexadecimal digits that is equal for environments in which times are comparable."""
    fields = json.dumps([environment.get(name) for name in TIMING], sort_keys=True)
    return hashlib.sha256(fields.encode(errors="backslashreplace")).hexdigest()[:10]


def _implementation(log: Log, line: dict[str, Any]) -> dict[str, Any]:
    groups: dict[str, int] = {}
    for cell, verdicts in log.batches.cells.items():
        if cell.implementation == line["name"]:
            groups[cell.clause_group] = groups.get(cell.clause_group, 0) + sum(verdicts.values())
    keys = ("name", "version", "dialect", "result", "batches", "uniqueness")
    margins = line["margins"].values()
    return {key: line[key] for key in keys} | {
        "verdicts": {verdict: count for verdict, count in line["verdicts"].items() if count},
        "p50": max((real(margin["p50"]) or 0.0 for margin in margins), default=None),
        "p99": max((real(margin["p99"]) or 0.0 for margin in margins), default=None),
        "clause_groups": groups,
    }


def _cause(cause: Cause) -> dict[str, Any]:
    line = cause.example
    keys = ("implementation", "verdict", "stage", "clause", "clause_group", "case")
    fields = {key: line.get(key) for key in keys}
    command = (line.get("reproduce") or {}).get("pytest")
    return fields | {
        "id": cause.id,
        "summary": shortened(line["summary"], MAX_SUMMARY_LENGTH),
        "description": shortened(line.get("description") or "", MAX_SUMMARY_LENGTH),
        "pytest": command if command and len(command) <= MAX_SUMMARY_LENGTH * 3 else None,
        "clause_groups": cause.every("clause_group"),
    }


def _benchmark(line: dict[str, Any]) -> dict[str, Any]:
    keys = ("name", "implementation", "device", "seconds", "ratio_to_official", "ratio_low", "ratio_high")
    return {key: line.get(key) for key in keys}


def history_of(folder: Path) -> Path:
    """Return the path of the history for the folder of a run."""
    return folder.parent / NAME


def remember(path: Path, entry: Entry) -> bool:
    """Append the entry of a finished run, unless the history contains it. Return True if the entry was appended.

    Raises:
        OSError: the history cannot be written.
    """
    if entry["finished"] is None or any(known["run"] == entry["run"] for known in read_history(path)):
        return False
    line = json.dumps(_finite(entry), allow_nan=False, separators=(",", ":")).encode() + b"\n"
    file = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        if (size := os.fstat(file).st_size) and os.pread(file, 1, size - 1) != b"\n":
            line = b"\n" + line  # first end an incomplete line, which a full disk can leave
        os.write(file, line)
    finally:
        os.close(file)
    return True


MAX_BYTES = 2**30
"""Maximum size in bytes of a history that is read."""


def read_history(path: Path) -> list[Entry]:
    """Return the entries of all runs in history.jsonl, the oldest first; invalid lines are left out."""
    if not path.is_file() or path.stat().st_size > MAX_BYTES:
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
    """Return True if a parsed line of the history has the expected fields and types."""
    if not isinstance(entry, dict) or entry.get("schema") != SCHEMA:
        return False
    texts = all(isinstance(entry.get(name), str) for name in ("run", "started", "fingerprint"))
    lists = all(
        isinstance(entry.get(name), list) and all(isinstance(line, dict) for line in entry[name])
        for name in ("implementations", "causes", "benchmarks")
    )
    if not texts or not lists or not isinstance(entry.get("environment"), dict):
        return False
    named = all(
        isinstance(line.get("name"), str) and isinstance(line.get("uniqueness", {}), (dict, NoneType))
        for line in entry["implementations"]
    )
    flat = all(not isinstance(value, (dict, list)) for line in entry["benchmarks"] for value in line.values())
    causes = all(
        isinstance(cause.get("id"), str) and isinstance(cause.get("implementation"), str)
        for cause in entry["causes"]
    )
    return named and flat and causes


def _when(entry: Entry) -> tuple[str, str]:
    return entry["started"] or "", entry["run"]


def previous(entries: list[Entry], entry: Entry) -> Entry | None:
    """Return the last earlier entry that is comparable with an entry, or None."""
    return next(iter(reversed(comparable(entries, entry))), None)


def comparable(entries: list[Entry], entry: Entry) -> list[Entry]:
    """Return the earlier entries with the same profile and a common implementation, the oldest first."""
    names = {line["name"] for line in entry["implementations"]}
    return [
        other
        for other in entries
        if other["run"] != entry["run"]
        and _when(other) < _when(entry)
        and other.get("profile") == entry["profile"]
        and names & {line["name"] for line in other["implementations"]}
    ]


def with_power(entries: list[Entry], entry: Entry) -> list[Entry]:
    """Return the entries with results for planted faults, up to the given entry, the oldest first."""
    earlier = [other for other in entries if other["run"] != entry["run"] and _when(other) < _when(entry)]
    return [line for line in (*earlier, entry) if isinstance(line.get("power"), dict) and line["power"]]


def _finite(value: Any) -> Any:
    """Return a value with non-finite numbers converted to text such as `inf`, as in logs."""
    if isinstance(value, float):
        return value if value - value == 0 else str(value)
    if isinstance(value, dict):
        return {key: _finite(content) for key, content in value.items()}
    return [_finite(content) for content in value] if isinstance(value, list) else value
