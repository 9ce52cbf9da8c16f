"""Merge several runs (shards of one run) into one: their logs, cases and other files."""

import filecmp
import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tal_reports.analysis.case_index import NAME as INDEX
from tal_reports.log.reader import Log, LogError, TestCount, is_readable, read_log, valid_lines
from tal_reports.log.writer import MAIN, RunLog
from tal_reports.text import counted

Line = dict[str, Any]

ONCE = ("run", "end", "tests")
"""Kinds of log lines that occur once in each run."""


@dataclass(frozen=True)
class Shard:
    """A run to merge with others.

    Attributes:
        name: name of the shard, unique among the shards.
        log: the log of the run.
        place: suffix for the names of devices in the merged run if the shards' versions of torch differ; otherwise "".
        names: from the old to the new name of each implementation whose version differs between shards.
    """

    name: str
    log: Log
    place: str
    names: dict[str, str]

    def device(self, device: str) -> str:
        """Return the name that a device of this shard has in the merged run."""
        return f"{device}{self.place}"


def merge(runs: Iterable[Path], into: Path) -> Path:
    """Merge several runs into one.

    Args:
        runs: folders of the shards; they are not changed.
        into: folder of the merged run, which must not exist.

    Returns:
        The merged run's folder.

    Raises:
        LogError: a shard has no readable log, there are no shards, or a run is given twice.
        FileExistsError: `into` exists.
        OSError: a file cannot be read or written.
    """
    logs = [read_log(run) for run in runs]
    if not logs:
        raise LogError("no runs to merge: expected the folder of at least one run")
    for at, log in enumerate(logs):
        twin = next((other for other in logs[:at] if _is_same_run(log, other)), None)
        if twin is not None:
            raise LogError(
                f"{log.folder} and {twin.folder} are the same run, whose batches would count twice: name the run once"
            )
    shards = _shards(logs)
    with RunLog.create(into.parent, into.name) as merged:
        merged.append("run", **_run_line(shards))
        for shard in shards:
            _copy_lines(shard, merged, _tested(shards))
            _copy_files(shard, merged)
        for name, count in _test_counts(shards).items():
            merged.append("tests", implementation=name, planned=count.planned, finished=count.finished)
        ends = [1 if shard.log.end is None else int(shard.log.end["exit"]) for shard in shards]
        merged.finish(max(ends))
    return into


def _is_same_run(log: Log, other: Log) -> bool:
    """Return True if two logs have the same folder, or the same first line including its time, as copies have."""
    return log.folder.resolve() == other.folder.resolve() or log.run == other.run


def _shards(logs: list[Log]) -> list[Shard]:
    torches = [str(log.run["environment"].get("torch")) for log in logs]
    versions: dict[str, set[str]] = {}
    for log in logs:
        for line in log.run["implementations"]:
            if line.get("capabilities"):
                versions.setdefault(line["name"], set()).add(str(line.get("version")))
    differ = len(set(torches)) > 1
    names = [_safe(log.folder.name) for log in logs]
    shards = []
    for at, (log, torch) in enumerate(zip(logs, torches, strict=True)):
        name = names[at] if names.count(names[at]) == 1 else f"{names[at]}-{at}"
        called = {
            line["name"]: f"{line['name']} {line.get('version')}"
            for line in log.run["implementations"]
            if len(versions.get(line["name"], ())) > 1
        }
        shards.append(Shard(name, log, f", torch {torch}" if differ else "", called))
    return shards


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII) or "shard"


def _run_line(shards: list[Shard]) -> Line:
    """Return the fields of the `run` line of the merged log."""
    runs = [shard.log.run for shard in shards]
    devices: dict[str, str] = {}
    implementations: dict[str, Line] = {}
    for shard in shards:
        for device, state in shard.log.run["devices"].items():
            if devices.get(shard.device(device)) != "tested":
                devices[shard.device(device)] = state
        for line in shard.log.run["implementations"]:
            named = line | {"name": shard.names.get(line["name"], line["name"])}
            known = implementations.get(named["name"])
            if known is None or not known.get("capabilities"):
                implementations[named["name"]] = named
    return {
        "profile": _common([run["profile"] for run in runs]),
        "seed": _common([None if run["seed"] is None else str(run["seed"]) for run in runs]),
        "command": ["python", "-m", "tal_reports", "merge", *(shard.name for shard in shards)],
        "environment": _environment(shards),
        "devices": devices,
        "implementations": list(implementations.values()),
        "stages": merged_order([run["stages"] for run in runs], key=lambda stage: stage["name"]),
        "terms": merged_order([run["terms"] for run in runs], key=lambda term: term),
        "tasks": {name: task for run in runs for name, task in run.get("tasks", {}).items()},
        "hazards": {name: text for run in runs for name, text in run.get("hazards", {}).items()},
        "clauses": {name: text for run in runs for name, text in run.get("clauses", {}).items()},
    }


def merged_order(lists: list[list[Any]], key: Callable[[Any], str]) -> list[Any]:
    """Merge lists without duplicates (by `key`), in the order of the first list.

    An item that is missing in the first list is placed after its predecessor in the list that contains it.
    """
    merged: list[Any] = []
    for items in lists:
        place = 0
        for item in items:
            names = [key(known) for known in merged]
            if key(item) in names:
                place = names.index(key(item)) + 1
            else:
                merged.insert(place, item)
                place += 1
    return merged


def _test_counts(shards: list[Shard]) -> dict[str | None, TestCount]:
    """Add up the tests of the shards by implementation; `finished` is None if it is None in any shard."""
    counts: dict[str | None, TestCount] = {}
    for shard in shards:
        for name, count in shard.log.tests.items():
            merged = None if name is None else shard.names.get(name, name)
            known = counts.get(merged, TestCount(0, 0))
            unknown = known.finished is None or count.finished is None
            finished = None if unknown else (known.finished or 0) + (count.finished or 0)
            counts[merged] = TestCount(known.planned + count.planned, finished)
    return counts


def _common(values: list[str | None]) -> str | None:
    different = dict.fromkeys(value for value in values if value is not None)
    return ", ".join(different) or None


def _environment(shards: list[Shard]) -> Line:
    """Return the merged environment; a field that differs becomes a dictionary of values by shard."""
    environments = [shard.log.run["environment"] for shard in shards]
    merged: Line = {}
    for name in dict.fromkeys(name for environment in environments for name in environment):
        values = [environment.get(name) for environment in environments]
        same = all(value == values[0] for value in values)
        by_shard = {shard.name: value for shard, value in zip(shards, values, strict=True)}
        merged[name] = values[0] if same else by_shard
    return merged


def _tested(shards: list[Shard]) -> set[str]:
    return {
        shard.device(device)
        for shard in shards
        for device, state in shard.log.run["devices"].items()
        if state == "tested"
    }


def _copy_lines(shard: Shard, merged: RunLog, tested: set[str]) -> None:
    """Copy the shard's lines into a log file of the merged run, with renamed devices and implementations."""
    if shard.log.end is None:
        judged = counted(shard.log.batches.judged, "verdict")
        reason = f"the run {shard.name} did not finish: only the {judged} that it had logged are included"
        merged.append("not_tested", implementation=None, device=None, reason=reason)
    with (merged.folder / f"log-{shard.name}.jsonl").open("w", encoding="utf-8") as file:
        unusable = 0
        for line in _lines(shard.log.folder):
            if line is None:
                unusable += 1
                continue
            if line.get("kind") in ONCE:
                continue
            line = _renamed(line, shard, merged.folder)  # noqa: PLW2901
            tested_elsewhere = line.get("kind") == "not_tested" and line.get("device") in tested
            if not (tested_elsewhere and line.get("implementation") is None):
                file.write(json.dumps(line, separators=(",", ":")) + "\n")
    if unusable:
        reason = f"{counted(unusable, 'line')} of the run {shard.name} cannot be used and were left out"
        merged.append("not_tested", implementation=None, device=None, reason=reason)


def _lines(folder: Path) -> Iterator[Line | None]:
    """Yield every line of all logs in the folder of a run; None for an invalid line."""
    for path in [folder / MAIN, *sorted(folder.glob("log-*.jsonl"))]:
        if is_readable(path):
            yield from valid_lines(path)


def _renamed(line: Line, shard: Shard, folder: Path) -> Line:
    for name in ("implementation", "against"):
        if line.get(name) in shard.names:
            line[name] = shard.names[line[name]]
    if shard.place and isinstance(line.get("device"), str):
        line["device"] = shard.device(line["device"])
    commands, case = line.get("reproduce"), line.get("case")
    if isinstance(commands, dict) and isinstance(case, str):
        path = f"{folder}/cases/{case}.safetensors"
        line["reproduce"] = {name: _moved(text, case, path) for name, text in commands.items()}
    return line


def _moved(command: Any, case: str, path: str) -> Any:
    """Return the command with the case file's path in the merged run."""
    if not isinstance(command, str):
        return command
    ending = f"cases/{case}.safetensors"
    python = re.compile(rf'"[^"\n]*{re.escape(ending)}"')
    if python.search(command):
        return python.sub(lambda _: json.dumps(path), command)
    try:
        words = shlex.split(command)
    except ValueError:
        return command
    named = any(word.endswith(ending) for word in words)
    return shlex.join([path if word.endswith(ending) else word for word in words]) if named else command


def _copy_files(shard: Shard, merged: RunLog) -> None:
    """Copy cases and outcomes, whose names are content hashes, and other files with the shard's name appended.

    Links are not copied. Of two different files with the same name, the first is copied, and the log mentions the
    second.
    """
    folder, into = shard.log.folder, merged.folder
    cases = folder / "cases"
    for path in filter(_is_plain, sorted(cases.iterdir()) if cases.is_dir() else ()):
        if path.name == INDEX:  # the merged run gets a table of its own
            continue
        copy = into / "cases" / path.name
        if not copy.exists():
            shutil.copyfile(path, copy)
        elif not filecmp.cmp(path, copy, shallow=False):
            reason = (
                f"cases/{path.name} of the run {shard.name} was not copied: another run has a different one"
            )
            merged.append("not_tested", implementation=None, device=None, reason=reason)
    if _is_plain(folder / "benchmark.json"):
        shutil.copyfile(folder / "benchmark.json", into / f"benchmark-{shard.name}.json")
    walkthrough = folder / "walkthrough.json"
    if _is_plain(walkthrough) and not (into / walkthrough.name).exists():
        shutil.copyfile(walkthrough, into / walkthrough.name)


def _is_plain(path: Path) -> bool:
    """Return True if a path is a regular file, and not a link to a file."""
    return path.is_file() and not path.is_symlink()
