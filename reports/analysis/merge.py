"""One run out of the runs of several shards: their logs, cases and what else they left, side by side."""

import json
import re
import shlex
import shutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tal_reports.log.reader import Log, LogError, read_log
from tal_reports.log.writer import MAIN, RunLog
from tal_reports.text import counted

Line = dict[str, Any]

ONCE = ("run", "end")
"""Kinds of which a run has one line."""


@dataclass(frozen=True)
class Shard:
    """One of the runs that are merged.

    Attributes:
        name: unlike that of every other shard.
        log: as it was read.
        place: what is added to its devices' names, where shards differ in torch.
        names: what its implementations are called in the merged run.
    """

    name: str
    log: Log
    place: str
    names: dict[str, str]

    def device(self, device: str) -> str:
        """What a device is called in the merged run."""
        return f"{device}{self.place}"


def merge(runs: Iterable[Path], into: Path) -> Path:
    """Make one run out of several.

    Args:
        runs: the folders of the shards; they are left as they are.
        into: the folder of the merged run, which must not exist.

    Returns:
        The merged run's folder.

    Raises:
        LogError: a shard has no log that can be read, or there is none.
        FileExistsError: `into` exists.
        OSError: something cannot be read or written.
    """
    logs = [read_log(run) for run in runs]
    if not logs:
        raise LogError("there is no run to merge")
    shards = _shards(logs)
    with RunLog.create(into.parent, into.name) as merged:
        merged.append("run", **_run_line(shards))
        for shard in shards:
            _copy_lines(shard, merged, _tested(shards))
            _copy_files(shard, merged.folder)
        ends = [1 if shard.log.end is None else int(shard.log.end["exit"]) for shard in shards]
        merged.finish(max(ends))
    return into


def _shards(logs: list[Log]) -> list[Shard]:
    torches = [str(log.run["environment"].get("torch")) for log in logs]
    versions: dict[str, set[str]] = {}
    for log in logs:
        for one in log.run["implementations"]:
            if one.get("capabilities"):
                versions.setdefault(one["name"], set()).add(str(one.get("version")))
    differ = len(set(torches)) > 1
    names = [_safe(log.folder.name) for log in logs]
    shards = []
    for at, (log, torch) in enumerate(zip(logs, torches, strict=True)):
        name = names[at] if names.count(names[at]) == 1 else f"{names[at]}-{at}"
        called = {
            one["name"]: f"{one['name']} {one.get('version')}"
            for one in log.run["implementations"]
            if len(versions.get(one["name"], ())) > 1
        }
        shards.append(Shard(name, log, f", torch {torch}" if differ else "", called))
    return shards


def _safe(name: str) -> str:
    return re.sub(r"[^\w.-]", "-", name, flags=re.ASCII) or "shard"


def _run_line(shards: list[Shard]) -> Line:
    """The merged run's first line: what the shards agree on, and what each says where they do not."""
    runs = [shard.log.run for shard in shards]
    devices: dict[str, str] = {}
    implementations: dict[str, Line] = {}
    for shard in shards:
        for device, state in shard.log.run["devices"].items():
            if devices.get(shard.device(device)) != "tested":
                devices[shard.device(device)] = state
        for one in shard.log.run["implementations"]:
            named = one | {"name": shard.names.get(one["name"], one["name"])}
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
        "stages": _merged_order([run["stages"] for run in runs], key=lambda stage: stage["name"]),
        "terms": _merged_order([run["terms"] for run in runs], key=lambda term: term),
        "hazards": {name: text for run in runs for name, text in run.get("hazards", {}).items()},
        "clauses": {name: text for run in runs for name, text in run.get("clauses", {}).items()},
    }


def _merged_order(lists: list[list[Any]], key: Callable[[Any], str]) -> list[Any]:
    """Merge ordered lists into one that keeps the order of the first, each further item behind its predecessor."""
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


def _common(values: list[str | None]) -> str | None:
    told = list(dict.fromkeys(value for value in values if value is not None))
    return ", ".join(told) or None


def _environment(shards: list[Shard]) -> Line:
    """What is the same everywhere as it is; what differs, by shard."""
    every = [shard.log.run["environment"] for shard in shards]
    merged: Line = {}
    for name in dict.fromkeys(name for one in every for name in one):
        values = [one.get(name) for one in every]
        same = all(value == values[0] for value in values)
        merged[name] = values[0] if same else {s.name: v for s, v in zip(shards, values, strict=True)}
    return merged


def _tested(shards: list[Shard]) -> set[str]:
    return {
        shard.device(device)
        for shard in shards
        for device, state in shard.log.run["devices"].items()
        if state == "tested"
    }


def _copy_lines(shard: Shard, merged: RunLog, tested: set[str]) -> None:
    """The shard's lines into a log of its own, as those of a worker; its devices and names made its own."""
    if shard.log.end is None:
        judged = counted(shard.log.batches.judged, "verdict")
        reason = f"the run {shard.name} did not finish: only what it had logged until then is here, {judged}"
        merged.append("not_tested", implementation=None, device=None, reason=reason)
    with (merged.folder / f"log-{shard.name}.jsonl").open("w", encoding="utf-8") as file:
        for line in _lines(shard.log.folder):
            if line.get("kind") in ONCE:
                continue
            line = _renamed(line, shard, merged.folder)  # noqa: PLW2901
            in_subprocess = line.get("kind") == "not_tested" and line.get("device") in tested
            if not (in_subprocess and line.get("implementation") is None):
                file.write(json.dumps(line, separators=(",", ":")) + "\n")


def _lines(folder: Path) -> Iterator[Line]:
    """Every line that is a JSON object, of all the logs in a run's folder."""
    for path in [folder / MAIN, *sorted(folder.glob("log-*.jsonl"))]:
        with path.open("rb") as file:
            for raw in file:
                try:
                    line = json.loads(raw)
                except ValueError:  # a killed run's last line
                    continue
                if isinstance(line, dict):
                    yield line


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
    """A command that names the case's file, with the file's new path."""
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


def _copy_files(shard: Shard, into: Path) -> None:
    """Cases and outcomes, which are named by their content, and the rest under the shard's name."""
    cases = shard.log.folder / "cases"
    for path in sorted(cases.iterdir()) if cases.is_dir() else ():
        if path.is_file() and not path.is_symlink() and not (into / "cases" / path.name).exists():
            shutil.copyfile(path, into / "cases" / path.name)
    if (shard.log.folder / "benchmark.json").is_file():
        shutil.copyfile(shard.log.folder / "benchmark.json", into / f"benchmark-{shard.name}.json")
    walkthrough = shard.log.folder / "walkthrough.json"
    if walkthrough.is_file() and not (into / walkthrough.name).exists():
        shutil.copyfile(walkthrough, into / walkthrough.name)
