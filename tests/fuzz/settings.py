"""Readers of files and options that users write, and of the files that a run writes beside its log."""

import argparse
import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from packaging.version import InvalidVersion
from tests.common import run_logs as factory
from tests.fuzz.mutations import changed_bytes, changed_json
from tests.fuzz.readers import Reader, changed_lines, changed_tensors, dumped, every_kind

from tal_conformance.batches.recorded import recorded_cases
from tal_conformance.core.arguments import positive
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import METADATA, InvalidCase
from tal_conformance.dialects.releases import parsed
from tal_conformance.implementations.errors import InvalidSetting, PackageUnavailable
from tal_conformance.implementations.workers.packages import Package
from tal_conformance.implementations.workers.pip_process import PipFailed
from tal_conformance.implementations.workers.process import (
    MEMORY_VARIABLE,
    TIMEOUT_VARIABLE,
    default_timeout,
    memory_limit,
)
from tal_conformance.implementations.workers.source_builds import build_requirements
from tal_conformance.known_issues.ledger import InvalidLedger, read_ledger
from tal_conformance.suite.options import dialect_from
from tal_reports.analysis.merge import merge
from tal_reports.analysis.summary import summarise
from tal_reports.html.walkthrough import NAME, read_walkthrough
from tal_reports.log.reader import LogError, read_log
from tal_reports.log.schemas import fault

ENTRY = {
    "id": "an-issue",
    "implementations": ["ultralytics"],
    "versions": ">=8.0, <9",
    "devices": ["cpu"],
    "stage": "candidates",
    "clause": "TAL-CAND-1",
    "when": [],
    "reason": "a reason",
    "link": "https://example.com",
    "owner": "somebody",
}


def toml(entries: Any) -> bytes:
    """Return a ledger of known issues as TOML. Values without a form in TOML are written as in JSON."""
    lines = []
    for entry in entries if isinstance(entries, list) else [entries]:
        lines.append("[[entry]]")
        for name, value in entry.items() if isinstance(entry, dict) else [("id", entry)]:
            dated = name == "expires" and isinstance(value, str)
            lines.append(f"{json.dumps(name)} = {value if dated else json.dumps(value)}")
    return "\n".join(lines).encode(errors="replace")


def ledger_reader(folder: Path) -> Reader:
    """Return the reader of ledgers of known issues."""
    from tal_conformance.known_issues.predicates import PREDICATES

    path = folder / "ledger.toml"
    entry = ENTRY | {"when": [next(iter(PREDICATES))], "expires": "2027-03-01"}
    entries = [entry, entry | {"id": "another", "follows": ["metric"], "says": "text"}]

    def read(content: bytes) -> object:
        path.write_bytes(content)
        return read_ledger(path)

    def changed(_: bytes, chance: random.Random) -> bytes:
        return toml(changed_json(entries, chance))

    return Reader([toml(entries)], read, (InvalidLedger,), changed)


@contextmanager
def variable(name: str, text: str) -> Iterator[None]:
    """Set an environment variable within the `with` block."""
    os.environ[name] = text.replace("\0", "") or " "
    try:
        yield
    finally:
        del os.environ[name]


def limits_of(text: str) -> object:
    """Return a worker's time limit and memory limit if both environment variables are set to `text`."""
    with variable(TIMEOUT_VARIABLE, text), variable(MEMORY_VARIABLE, text):
        return default_timeout(), memory_limit()


def version_of(text: str) -> object:
    """Return the numbers of a release; None if the text is not a release number (callers then quote the text)."""
    try:
        return parsed(text)
    except ValueError:
        return None


def option_reader(_: Path) -> Reader:
    """Return the reader of options and environment variables. The first byte selects the option."""
    readers: list[Callable[[str], object]] = [
        dialect_from,
        positive,
        version_of,
        limits_of,
        lambda text: Package(*text.partition("==")[::2]),
    ]
    texts = ["ultralytics-8.4.190, overlap=iou", "12", "8.3.236", "1.5", "ultralytics==8.3.236"]
    pieces = [*texts, "==", ", ", "=", "iou", "nan", "inf", "1e999", "-", "0", "\u0665", "\n", " "]
    pieces += ["--index-url", "9" * 5000]

    def read(content: bytes) -> object:
        return (
            readers[content[0] % len(readers)](content[1:].decode(errors="surrogateescape"))
            if content
            else None
        )

    def changed(sample: bytes, chance: random.Random) -> bytes:
        joined = "".join(chance.choice(pieces) for _ in range(chance.randrange(4)))
        at = chance.randrange(1, len(sample) + 1)
        return sample[:at] + joined.encode() + sample[chance.choice((at, len(sample))) :]

    samples = [bytes([number]) + text.encode() for number, text in enumerate(texts)]
    refuses = (argparse.ArgumentTypeError, ValueError, InvalidVersion, InvalidSetting, PackageUnavailable)
    return Reader(samples, read, refuses, changed)


def build_reader(folder: Path) -> Reader:
    """Return the reader of a source release's build requirements."""
    path = folder / "pyproject.toml"
    sample = (
        b'[build-system]\nrequires = ["setuptools>=61", "wheel"]\nbuild-backend = "setuptools.build_meta"\n'
    )
    names = (
        b"x @ file:///etc",
        b"--editable=.",
        b"a[b]<3; python_version>'3'",
        b"-r /etc/passwd",
        b"",
    )

    def read(content: bytes) -> object:
        path.write_bytes(content)
        needed = build_requirements(folder)
        assert not [text for text in needed if text.startswith("-") or "://" in text or "@" in text], needed
        return needed

    def changed(content: bytes, chance: random.Random) -> bytes:
        return changed_bytes(content.replace(b"wheel", chance.choice(names)), chance)

    return Reader([sample], read, (PipFailed,), changed)


def schema_reader(folder: Path) -> Reader:
    """Return a reader that validates summaries and log lines against their JSON Schemas."""
    run = factory.write(folder / "run", every_kind())
    samples = [dumped(["summary", summarise(read_log(run))])]
    samples += [dumped(["log", json.loads(line)]) for line in (run / "log.jsonl").read_bytes().splitlines()]

    def read(content: bytes) -> object:
        value = json.loads(content)
        if not isinstance(value, list) or len(value) != 2 or value[0] not in ("log", "summary"):
            return None
        return fault(value[1], value[0])

    def changed(sample: bytes, chance: random.Random) -> bytes:
        name, value = json.loads(sample)
        return dumped([name, changed_json(value, chance)])

    return Reader(samples, read, (ValueError, RecursionError), changed)


def walkthrough_reader(folder: Path) -> Reader:
    """Return the reader of walkthroughs."""
    sample = dumped(factory.walkthrough())

    def read(content: bytes) -> object:
        (folder / NAME).write_bytes(content)
        return read_walkthrough(folder)

    return Reader([sample], read, (), lambda text, chance: dumped(changed_json(json.loads(text), chance)))


def shard_reader(folder: Path) -> Reader:
    """Return a reader that merges two runs, one of which is changed."""
    shards = [factory.write(folder / name, every_kind()) for name in ("right", "changed")]
    into = folder / "merged"
    sample = (shards[1] / "log.jsonl").read_bytes()

    def read(content: bytes) -> object:
        (shards[1] / "log.jsonl").write_bytes(content)
        try:
            return read_log(merge(shards, into))
        finally:
            shutil.rmtree(into, ignore_errors=True)

    return Reader([sample], read, (LogError,), changed_lines)


def recorded_reader(folder: Path) -> Reader:
    """Return the reader of recorded batches, which are larger than the samples of `case_reader`."""
    path = folder / "recorded.safetensors"
    sample = min(recorded_cases(), key=lambda case: case.stat().st_size).read_bytes()

    def read(content: bytes) -> object:
        path.write_bytes(content)
        return Batch.load(path).id

    return Reader(
        [sample], read, (InvalidCase,), lambda content, chance: changed_tensors(content, METADATA, chance)
    )
