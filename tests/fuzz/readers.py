"""All readers of files and messages from outside, each with valid samples and its documented errors."""

import json
import random
import shutil
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from safetensors.torch import load
from tests.common import run_logs as factory
from tests.fuzz.mutations import changed_bytes, changed_json

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import CHECKSUM, METADATA, InvalidCase, digest
from tal_conformance.implementations import outcome_file as outcomes
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.outcome_file import CorruptOutcome, StoredOutcome
from tal_conformance.implementations.registry import find
from tal_conformance.implementations.workers import packages
from tal_conformance.implementations.workers.messages import PREFIX, MessageError, decoded, encoded
from tal_reference import Hyperparameters
from tal_reports.analysis.compare import compare, format_comparison
from tal_reports.analysis.history import comparable, entry_of, read_history, remember
from tal_reports.analysis.summary import summarise
from tal_reports.html.page import page_of
from tal_reports.html.render import html_of
from tal_reports.log.reader import LogError, read_log

RECIPE = Recipe(((Truth("ordinary"), Truth("tiny")), ()), (2, 3), reg_max=2, predictions="near")
"""A batch with little tensor data, so that most changed bytes of its file belong to the header."""


@dataclass(frozen=True)
class Reader:
    """A function that reads files or messages, with the data to test it.

    Attributes:
        samples: valid inputs.
        read: reads an input (bytes); it must return, or raise one of the `refuses` exceptions.
        refuses: exceptions that the documentation of the reader names.
        changed: returns a changed copy of a valid input, with a valid checksum if the format has one.
    """

    samples: list[bytes]
    read: Callable[[bytes], object]
    refuses: tuple[type[Exception], ...]
    changed: Callable[[bytes, random.Random], bytes]


def case_reader(folder: Path) -> Reader:
    """Return the reader of case files (stored batches); files are written into `folder`."""
    path = folder / "case.safetensors"
    samples = []
    for batch in (RECIPE.build(), Recipe().build()):
        batch.save(path)
        samples.append(path.read_bytes())

    def read(content: bytes) -> object:
        path.write_bytes(content)
        batch = Batch.load(path)
        return batch.id, batch.describe(), batch.anchors

    return Reader(
        samples, read, (InvalidCase,), lambda sample, chance: changed_tensors(sample, METADATA, chance)
    )


def outcome_reader(folder: Path) -> Reader:
    """Return the reader of outcome files: stored results of an implementation."""
    batch = replace(RECIPE, hyperparameters=Hyperparameters(topk=3)).build()
    path = folder / f"case.x{outcomes.SUFFIX}"
    samples = []
    for name in ("reference", "article"):
        made = find(name)
        facts = batch.id, made.name, made.version, made.dialect.name, "cpu"
        outcomes.store(path, StoredOutcome(*facts, execute(made, batch)))
        samples.append(path.read_bytes())

    def read(content: bytes) -> object:
        path.write_bytes(content)
        return outcomes.load(path, batch)

    return Reader(
        samples,
        read,
        (CorruptOutcome,),
        lambda sample, chance: changed_tensors(sample, outcomes.METADATA, chance),
    )


def log_reader(folder: Path) -> Reader:
    """Return the reader of run logs, which also makes the summary and the report of each log."""
    run = folder / "runs" / "run"
    samples = []
    for lines in (factory.passing(3), factory.failing(2, batches=2), every_kind()):
        samples.append(factory.write(folder / "sample", lines).joinpath("log.jsonl").read_bytes())
        shutil.rmtree(folder / "sample")
    run.mkdir(parents=True)
    count = 0

    def read(content: bytes) -> object:
        nonlocal count
        count += 1
        (run / "log.jsonl").write_bytes(content)
        log = read_log(run)
        summary = summarise(log)
        entry = entry_of(log, summary)
        return html_of(page_of(log, summary, [entry])) if count % 20 == 0 else entry

    return Reader(samples, read, (LogError,), changed_lines)


def every_kind() -> factory.Lines:
    """Return the lines of a run log that has one line of every kind."""
    return [
        *factory.failing(1, batches=2)[:-1],
        ("difference", factory.difference()),
        ("benchmark", factory.benchmark()),
        ("training", factory.training()),
        ("synchronisations", factory.synchronisations()),
        ("scope", factory.scope()),
        ("divergence", factory.error()),
        ("end", {"exit": 1, "finished": "2025-11-24T02:11:00.000+00:00"}),
    ]


def history_reader(folder: Path) -> Reader:
    """Return the reader of history files, which also compares runs and draws charts."""
    runs = folder / "histories"
    path = runs / "history.jsonl"
    entry: dict[str, Any] = {}
    logs = []
    for number in range(3):
        log = read_log(factory.write(runs / f"run-{number}", every_kind()))
        summary = summarise(log)
        entry = entry_of(log, summary) | {"started": f"2025-11-2{number}T02:10:33.000+00:00"}
        remember(path, entry)
        logs.append((log, summary, entry))
    log, summary, entry = logs[-1]
    count = 0

    def read(content: bytes) -> object:
        nonlocal count
        count += 1
        path.write_bytes(content)
        before = comparable(read_history(path), entry)
        if not before:
            return None
        if count % 20 == 0:
            return html_of(page_of(log, summary, [*before, entry]))
        return format_comparison(compare(before[-1], entry))

    return Reader([path.read_bytes()], read, (), changed_lines)


def cache_reader(folder: Path) -> Reader:
    """Return the reader of the list of file hashes in the package cache."""
    package = folder / "package"
    (package / packages.FILES).mkdir(parents=True)
    (package / packages.FILES / "module.py").write_text("x = 1\n", encoding="utf-8")
    sample = json.dumps(packages.hashes(package / packages.FILES)).encode()

    def read(content: bytes) -> object:
        (package / packages.HASHES).write_bytes(content)
        return packages.damage(package)

    return Reader(
        [sample], read, (), lambda content, chance: dumped(changed_json(json.loads(content), chance))
    )


def frame_reader(_: Path) -> Reader:
    """Return the reader of messages between the suite's process and a worker process."""
    batch = RECIPE.build()
    tensors = {"0.annotations": batch.annotations, "0.level.0": batch.feature_maps[0]}
    samples = [encoded({"answers": [{"total": True, "assignment": False}]}, tensors), encoded({"name": "x"})]

    def read(content: bytes) -> object:
        left = memoryview(content)

        def take(count: int) -> bytes:
            nonlocal left
            if count > len(left):
                raise EOFError
            taken, left = bytes(left[:count]), left[count:]
            return taken

        return decoded(take)

    def changed(sample: bytes, chance: random.Random) -> bytes:
        _, text, block = PREFIX.unpack(sample[: PREFIX.size])
        fields = json.loads(sample[PREFIX.size : PREFIX.size + text])
        new, rest = dumped(changed_json(fields, chance)), sample[PREFIX.size + text :]
        if block and chance.random() < 0.5:
            rest = changed_header(rest, chance)
        return PREFIX.pack(b"TALF", len(new), len(rest)) + new + rest

    return Reader(samples, read, (MessageError, EOFError), changed)


READERS: dict[str, Callable[[Path], Reader]] = {
    "case": case_reader,
    "outcome": outcome_reader,
    "log": log_reader,
    "history": history_reader,
    "cache": cache_reader,
    "frame": frame_reader,
}
"""Functions that return a reader, given a folder for files, by name."""


def inputs(reader: Reader, chance: random.Random) -> Iterator[bytes]:
    """Yield endless changed samples: half with random changes of bytes, half changed by `reader.changed`."""
    while True:
        sample = chance.choice(reader.samples)
        if chance.random() < 0.5:
            yield changed_bytes(sample, chance)
        else:
            yield reader.changed(sample, chance)


def dumped(value: object) -> bytes:
    """Return a value as JSON in bytes; NaN and infinities are written as json.dumps does, which is invalid JSON."""
    return json.dumps(value).encode()


def changed_lines(sample: bytes, chance: random.Random) -> bytes:
    """Return the JSON lines `sample` with one changed line, and sometimes a missing or duplicated line."""
    lines = sample.splitlines(keepends=True)
    at = chance.randrange(len(lines))
    lines[at] = dumped(changed_json(json.loads(lines[at]), chance)) + b"\n"
    if chance.random() < 0.2:
        lines.insert(chance.randrange(len(lines)), lines[chance.randrange(len(lines))])
    if chance.random() < 0.2:
        del lines[chance.randrange(len(lines))]
    return b"".join(lines)


def changed_header(block: bytes, chance: random.Random) -> bytes:
    """Return the safetensors file `block` with a changed JSON header."""
    (length,) = struct.unpack("<Q", block[:8])
    header = dumped(changed_json(json.loads(block[8 : 8 + length]), chance))
    return struct.pack("<Q", len(header)) + header + block[8 + length :]


def changed_tensors(sample: bytes, key: str, chance: random.Random) -> bytes:
    """Return a case or outcome file with a changed header, usually with a valid checksum."""
    (length,) = struct.unpack("<Q", sample[:8])
    header = json.loads(sample[8 : 8 + length])
    text = json.loads(header["__metadata__"][key])
    text.pop(CHECKSUM)
    if chance.random() < 0.8:
        text = changed_json(text, chance)
    else:
        header = changed_json(header, chance)
        if not isinstance(header, dict) or not isinstance(header.get("__metadata__"), dict):
            return struct.pack("<Q", length) + dumped(header) + sample[8 + length :]
    if isinstance(text, dict):
        text[CHECKSUM] = digest(text, load(sample))
    header["__metadata__"][key] = json.dumps(text, sort_keys=True)
    head = dumped(header)
    head += b" " * (-len(head) % 8)
    return struct.pack("<Q", len(head)) + head + sample[8 + length :]
