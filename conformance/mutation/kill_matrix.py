"""`python -m conformance power --mutants`: which test kills which mutant, at which stage, after how many batches."""

import hashlib
import json
import statistics
import tomllib
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from fnmatch import fnmatchcase
from importlib import metadata
from itertools import pairwise
from pathlib import Path

import torch

from tal_conformance.checks.checker import NoSink
from tal_conformance.checks.exhaustive.check import judge_scope
from tal_conformance.checks.exhaustive.scope import PROFILES
from tal_conformance.core.determinism import fixed_arithmetic
from tal_conformance.core.files import PACKAGES
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Subject
from tal_conformance.mutation.operators import Mutant, Place, mutants_of
from tal_conformance.mutation.process_pool import After, Made, MutantOutcome, in_processes, tried
from tal_conformance.mutation.targets import TARGETS, Seen, Target, watching
from tal_conformance.mutation.trials import BaselineOutcomes, GeneratedCase, all_cases, checks_of
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.run_log import RunLogWriter
from tal_reference import ARTICLE, DIALECTS, NEWEST, Dialect

KINDS = ("official", "reference", "history")
"""What can be mutated here; planted faults are `tal_conformance.mutation.plant`'s."""
ROOTS = ("tal_conformance", "tal_reference")
REPORTING_FILES = (
    "commands/__init__.py",
    "commands/mutation.py",
    "mutation/attack.py",
    "mutation/kill_matrix.py",
    "mutation/plant.py",
    "mutation/planted_faults/__init__.py",
    "mutation/planted_faults/annotations.py",
    "mutation/planted_faults/assignment.py",
    "mutation/planted_faults/decoding.py",
    "mutation/planted_faults/fault.py",
    "mutation/planted_faults/faulty_reference.py",
    "mutation/planted_faults/index.py",
    "mutation/planted_faults/loss.py",
)
"""Files of ours that say what became of a mutant, and decide nothing about it."""
EQUIVALENT = Path(__file__).parent / "equivalent.toml"
FEW = 8
"""Batches of each of the cheapest tests in the first pass."""
KILLS = "power.jsonl"
"""In the folder of all runs: a line for each mutant that was tried, so that a run goes on where one stopped."""


@dataclass(frozen=True)
class Result:
    """What became of one mutant under one profile.

    Attributes:
        mutant: its name.
        kind: official, reference or history.
        function: that was changed; of history, the two dialects.
        key: hash of our sources, of the release and of the batches of a test: whether it still holds.
        ended: how it went.
    """

    mutant: str
    kind: str
    function: str
    key: str
    ended: MutantOutcome


@dataclass(frozen=True)
class Job:
    """A mutant that is to be tried.

    Attributes:
        function: that was changed.
        make: makes the implementation, the mutant in place.
        reached: numbers of the batches that run what was changed; None: all.
    """

    function: str
    make: Made
    reached: Sequence[int] | None = None

    def numbers(self, first: bool, few: int, all_of_them: int) -> list[int]:
        """The batches of the first pass, or those of the second."""
        reached = range(1, all_of_them + 1) if self.reached is None else self.reached
        return [number for number in reached if (number <= few) == first]


class NoSuchMutant(LookupError):
    """Nothing was tried: that none survived would say nothing."""


def try_mutants(
    recorder: RunLogWriter,
    kinds: Sequence[str],
    profile: str,
    number: int,
    report_dir: Path,
    only: str,
    processes: int,
) -> tuple[bool, str]:
    """Try all mutants, and write down what became of them.

    Args:
        recorder: of the run.
        kinds: of `KINDS`.
        profile: whose batches they are fed.
        number: batches of a test.
        report_dir: where is kept what was tried.
        only: pattern of the names of those that are tried.
        processes: how many are tried at once.

    Returns:
        Whether one survived that is not argued to be equivalent, or an argued one was killed; and how many of each
        kind, one line a kind.

    Raises:
        NoSuchMutant: no name fits.
    """
    arguments = argued()
    results: list[tuple[Result, str]] = []
    with fixed_arithmetic():
        for kind in kinds:
            for result in tried_of(kind, profile, number, report_dir, only, processes):
                results.append((result, became(result, arguments)))
                record(recorder, profile, *results[-1], arguments)
                if results[-1][1] != "killed":
                    print(f"  {results[-1][1]}: {result.mutant}", flush=True)
    if not results:
        raise NoSuchMutant(
            f"no mutant's name fits {only!r}; names are such as 'boxes.ciou NumberReplacer 3 1a2b3c4d'"
        )
    return any(what in ("survived", "elsewhere") for _, what in results), summary(results)


def became(result: Result, arguments: dict[str, str]) -> str:
    """killed, survived, equivalent, or elsewhere: killed, although somebody argued that it cannot be."""
    is_argued = argument_for(result.mutant, arguments) != ""
    if result.ended.test is None:
        return "equivalent" if is_argued else "survived"
    return "elsewhere" if is_argued else "killed"


def argued() -> dict[str, str]:
    """The patterns of mutants that are equivalent, each with its argument.

    Raises:
        ValueError: an entry lacks its argument.
    """
    found: dict[str, str] = {}
    for entry in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]:
        if not entry.get("because", "").strip():
            raise ValueError(f"{EQUIVALENT.name}: {entry.get('mutants')} has no argument (because = ...)")
        patterns = entry["mutants"]
        found |= dict.fromkeys([patterns] if isinstance(patterns, str) else patterns, entry["because"])
    return found


def argument_for(mutant: str, arguments: dict[str, str]) -> str:
    """The argument of the first pattern that fits; empty if none does."""
    return next((text for pattern, text in arguments.items() if fnmatchcase(mutant, pattern)), "")


def tried_of(
    kind: str, profile: str, number: int, report_dir: Path, only: str, processes: int
) -> Iterator[Result]:
    """Try the mutants of a kind, those first of which is known already what becomes of them."""
    if kind == "history":
        yield from history(number, report_dir, profile, only, processes)
        return
    target = TARGETS[kind]()
    trials = all_cases(number, NEWEST)
    known = BaselineOutcomes()
    trials, reached = baseline(target, trials, known)
    mutants = [mutant for place in target.places for mutant in mutants_of(place, reached[place])]
    everything = sum(len(mutants_of(place)) for place in target.places)
    chosen = {mutant.id: mutant for mutant in mutants if fnmatchcase(mutant.id, only)}
    print(
        f"{kind}: {len(chosen)} of {len(mutants)} mutants, {len(trials)} batches; "
        f"{everything - len(mutants)} more are on lines that no batch runs",
        flush=True,
    )
    places = {(place.module.__name__, place.function): place for place in target.places}
    jobs = {}
    for name, mutant in chosen.items():
        place = places[mutant.module, mutant.function]
        make = planted(place, mutant, target.implementation)
        jobs[name] = Job(mutant.function, make, reached.batches_of(mutant, place))
    yield from resumed(kind, jobs, trials, every_image, known, key_of(profile, number), report_dir, processes)


def baseline(
    target: Target, trials: Sequence[GeneratedCase], known: BaselineOutcomes
) -> tuple[list[GeneratedCase], Seen]:
    """The trials that the unchanged code passes, and the lines of its functions that each of them runs."""
    left, rest = list[GeneratedCase](), list(trials)

    def at(number: int) -> None:
        seen.batch = len(left) + number

    with watching(target.places) as seen:
        while rest:
            ended = tried(target.implementation, rest, judged=at, known=known)
            if ended.test is None:
                left += rest
                break
            print(f"  left out, since the unchanged code fails it: {ended.test}: {ended.said}", flush=True)
            left, rest = left + rest[: ended.batches - 1], rest[ended.batches :]
    known.learns = False
    return left, seen


def planted(place: Place, mutant: Mutant, make: Made) -> Made:
    """Makes the implementation with the mutant in place; meant for a process of its own."""
    _, first = place.source()

    def made() -> Implementation:
        place.put(mutant.text, first)
        return make()

    return made


def history(number: int, report_dir: Path, profile: str, only: str, processes: int) -> Iterator[Result]:
    """The reference in one dialect, held to its neighbour's, both ways."""
    dialects = [dialect for dialect in DIALECTS.values() if dialect != ARTICLE]
    pairs = [(one, other) for a, b in pairwise(dialects) for one, other in ((a, b), (b, a))]
    trials = all_cases(number, replace(NEWEST, rows_sorted=False))
    jobs = {
        name: Job(name, held(one, other))
        for one, other in pairs
        if fnmatchcase(name := f"{one.name} for {other.name}", only)
    }
    print(f"history: {len(jobs)} pairs of neighbouring dialects, {len(trials)} batches", flush=True)
    yield from resumed("history", jobs, trials, None, None, key_of(profile, number), report_dir, processes)


def held(one: Dialect, other: Dialect) -> Made:
    """Makes the reference in the one dialect, held to the other."""

    def made() -> Implementation:
        return replace(implementation_from(ReferenceAdapter(one), one.name), dialect=other)

    return made


def every_image(subject: Subject) -> None:
    """Judge every image of the smallest scopes, which every profile judges.

    Raises:
        Failure: one of them shows a difference.
    """
    for scope in PROFILES["dev"]:
        judge_scope(Checker(subject, NoSink(), "test_every_image", "EXHAUSTIVE"), scope)


def resumed(
    kind: str,
    jobs: dict[str, Job],
    trials: Sequence[GeneratedCase],
    after: After | None,
    known_outcomes: BaselineOutcomes | None,
    key: str,
    report_dir: Path,
    processes: int,
) -> Iterator[Result]:
    """What is known from an earlier run, then what is tried now; each is written down as it ends.

    A few batches of each test kill most; what survives them gets all images and all the other batches.
    """
    path = report_dir / KILLS
    known = {name: result for name, result in read(path, key, kind).items() if name in jobs}
    if known:
        print(f"  {len(known)} were tried before ({path})", flush=True)
    yield from known.values()
    few = min(FEW * len(checks_of("first")), len(trials))
    done, left = len(known), [name for name in jobs if name not in known]
    cut_off = path.is_file() and not path.read_bytes().endswith(b"\n")
    with path.open("a", encoding="utf-8") as file:
        file.write("\n" * cut_off)
        for first in (True, False):
            those = ((name, jobs[name].make, jobs[name].numbers(first, few, len(trials))) for name in left)
            left = []
            for name, ended in in_processes(
                those, trials, None if first else after, known_outcomes, processes
            ):
                if first and ended.test is None:
                    left.append(name)
                    continue
                result = Result(name, kind, jobs[name].function, key, ended)
                file.write(json.dumps(asdict(result)) + "\n")
                file.flush()
                done += 1
                print(f"{done:5}/{len(jobs)} {line(result)}", flush=True)
                yield result
            if first:
                print(f"  {len(left)} outlive the first {few} batches", flush=True)


def read(path: Path, key: str, kind: str) -> dict[str, Result]:
    """What was written with the same key; a line that was cut off is left out."""
    found: dict[str, Result] = {}
    if not path.is_file():
        return found
    for text in path.read_text(encoding="utf-8").splitlines():
        try:
            fields = json.loads(text)
            result = Result(**fields | {"ended": MutantOutcome(**fields["ended"])})
        except (ValueError, TypeError, KeyError):
            continue
        if result.key == key and result.kind == kind:
            found[result.mutant] = result
    return found


def key_of(profile: str, number: int) -> str:
    """Of everything that decides what becomes of a mutant: our sources, the release, torch and the profile."""
    sha = hashlib.sha256(f"{profile} {number} {torch.__version__}".encode())
    for package in ("ultralytics", "hypothesis", "cosmic-ray"):
        sha.update(f"{package} {metadata.version(package)}".encode())
    root = PACKAGES
    for path in sorted(path for name in ROOTS for path in (root / name).rglob("*.py")):
        if not path.as_posix().endswith(REPORTING_FILES):
            sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def record(
    recorder: RunLogWriter, profile: str, result: Result, what: str, arguments: dict[str, str]
) -> None:
    """One line of the log."""
    ended = result.ended
    recorder.line(
        "power", profile=profile, fault=result.mutant, function=result.function, clauses=[], mode=result.kind,
        test=ended.test or "every test", expected=[], stage=ended.stage,
        batches=None if ended.test is None else ended.batches, seconds=round(ended.seconds, 2), result=what,
        case_in_words=ended.said, argument=argument_for(result.mutant, arguments), limit=ended.batches,
    )  # fmt: skip


def line(result: Result) -> str:
    """One line of the terminal."""
    ended = result.ended
    if ended.test is None:
        return f"lives  {result.mutant}: {ended.batches} batches, {ended.seconds:.1f} s"
    return f"killed {result.mutant}: {ended.test} at {ended.stage} after {ended.batches} batches"


def summary(results: Sequence[tuple[Result, str]]) -> str:
    """How many of each kind, and how soon, one line a kind."""
    lines = []
    for kind in dict.fromkeys(result.kind for result, _ in results):
        own = [(result, what) for result, what in results if result.kind == kind]
        counts = Counter(what for _, what in own)
        batches = [result.ended.batches for result, what in own if what == "killed"]
        meant = len(own) - counts["equivalent"]
        score = f"; score {counts['killed'] / meant:.1%}" if meant else ""
        median = f"; median {statistics.median(batches):g} batches" if batches else ""
        said = ", ".join(
            f"{counts[what]} {what}" for what in ("killed", "equivalent", "elsewhere", "survived")
        )
        lines.append(f"{kind}: {len(own)} mutants: {said}{score}{median}")
    return "\n".join(lines)
