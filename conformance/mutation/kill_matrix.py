"""The kill matrix: for every mutant, the test that kills the mutant, the reported stage and the number of batches.

A mutant is a changed function of the official release: of detection ("official"), or one that only rotated boxes
("official-obb") or end-to-end heads ("official-e2e") use. Other mutants are changed functions of the reference
("reference"), and the reference in one dialect, judged by the rules of a neighbouring dialect ("history").
"""

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
from tal_conformance.core.names import suggestion
from tal_conformance.core.progress import progress
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Subject
from tal_conformance.mutation.operators import Mutant, Place, mutants_of
from tal_conformance.mutation.process_pool import After, Made, MutantOutcome, in_processes, judge_mutant
from tal_conformance.mutation.suite_checks import cases_of_task
from tal_conformance.mutation.targets import TARGETS, Seen, Target, watching
from tal_conformance.mutation.trials import BaselineOutcomes, GeneratedCase, all_cases, checks_of
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.run_log import RunLogWriter
from tal_reference import ARTICLE, DIALECTS, NEWEST, Dialect
from tal_text import say

KINDS = ("official", "official-obb", "official-e2e", "reference", "history")
"""Kinds of mutants, as the docstring of this module explains them."""
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
    "mutation/planted_faults/precision.py",
)
"""Source files that the hash of `key_of` leaves out, because they do not influence results."""
EQUIVALENT = Path(__file__).parent / "equivalent.toml"
FEW = 8
"""Number of batches of each fast test in the first pass over all mutants."""
KILLS = "power.jsonl"
"""File with a line for every judged mutant, in the folder of all runs: a run resumes an interrupted one."""


@dataclass(frozen=True)
class Result:
    """The result for one mutant.

    Attributes:
        mutant: name of the mutant.
        kind: "official", "reference" or "history".
        function: name of the changed function; for "history", of the two dialects.
        key: hash of all inputs of the result: code, packages and profile (`key_of`).
        ended: outcome of judging the mutant: the test that killed it, if any, and the number of batches.
    """

    mutant: str
    kind: str
    function: str
    key: str
    ended: MutantOutcome


@dataclass(frozen=True)
class Job:
    """A mutant to judge.

    Attributes:
        function: name of the changed function.
        make: function that installs the mutant and returns the implementation that runs it.
        reached: numbers of the batches that run the changed statement; None for all batches.
    """

    function: str
    make: Made
    reached: Sequence[int] | None = None

    def numbers(self, first: bool, few: int, all_of_them: int) -> list[int]:
        """Return the numbers of the batches on which the first or second pass (see `resume`) judges the mutant.

        Args:
            first: True for the first pass, False for the second.
            few: number of batches in the first pass.
            all_of_them: number of all batches.
        """
        reached = range(1, all_of_them + 1) if self.reached is None else self.reached
        return [number for number in reached if (number <= few) == first]


class NoSuchMutant(LookupError):
    """Error: no mutant matches the pattern, so that there is nothing to judge."""


def try_mutants(
    recorder: RunLogWriter,
    kinds: Sequence[str],
    profile: str,
    number: int,
    report_dir: Path,
    only: str,
    processes: int,
) -> tuple[bool, str]:
    """Judge all mutants, and log and print the results.

    Args:
        recorder: writes the run log.
        kinds: elements of `KINDS`.
        profile: name of the profile whose batches are used.
        number: number of batches for each test.
        report_dir: folder of all runs, which also has the file of stored results.
        only: pattern that the names of mutants must match.
        processes: number of mutants judged at once.

    Returns:
        True if a mutant survived that is not listed as equivalent, or a mutant was killed that is listed as equivalent;
            and a summary with one line for every kind.

    Raises:
        NoSuchMutant: no mutant matches the pattern.
    """
    arguments = equivalent_mutants()
    results: list[tuple[Result, str]] = []
    with fixed_arithmetic():
        for kind in kinds:
            for result in results_of(kind, profile, number, report_dir, only, processes):
                results.append((result, result_of(result, arguments)))
                record(recorder, profile, *results[-1], arguments)
                if results[-1][1] != "killed":
                    say(f"  {results[-1][1]}: {result.mutant}")
    if not results:
        raise NoSuchMutant(no_mutant(kinds, only))
    return any(word in ("survived", "elsewhere") for _, word in results), summary(results)


def no_mutant(kinds: Sequence[str], only: str) -> str:
    """Return the message that no mutant matches a pattern, with similar names of functions and dialects."""
    places = [place for kind in kinds if kind in TARGETS for place in TARGETS[kind]().places]
    beginnings = [f"{place.module.__name__.rpartition('.')[2]}.{place.function}" for place in places]
    beginnings += [place.function for place in places]
    if "history" in kinds:
        beginnings += list(DIALECTS)
    nearest = suggestion(only.strip("*").partition(" ")[0], beginnings)
    example = "An example of a name is 'boxes.ciou NumberReplacer 3 1a2b3c4d', which '*ciou*' matches"
    return f"no mutant matches {only!r}{nearest or '.'} {example}"


def result_of(result: Result, arguments: dict[str, str]) -> str:
    """Return the result of a mutant as one word, given the reasons for equivalent mutants by pattern of names.

    The word is "killed" or "survived"; "equivalent" for a survivor that is listed as equivalent; "elsewhere" for a
    mutant that was killed although it is listed as equivalent.
    """
    is_argued = argument_for(result.mutant, arguments) != ""
    if result.ended.test is None:
        return "equivalent" if is_argued else "survived"
    return "elsewhere" if is_argued else "killed"


def equivalent_mutants() -> dict[str, str]:
    """Return the reason why mutants are equivalent, by pattern of their names, from the list of equivalent mutants.

    Raises:
        ValueError: an entry has no reason.
    """
    found: dict[str, str] = {}
    for entry in tomllib.loads(EQUIVALENT.read_text(encoding="utf-8"))["equivalent"]:
        if not entry.get("because", "").strip():
            raise ValueError(
                f"{EQUIVALENT.name}: the entry for the mutants {entry.get('mutants')!r} has no reason: "
                "add a line `because = ...`"
            )
        patterns = entry["mutants"]
        found |= dict.fromkeys([patterns] if isinstance(patterns, str) else patterns, entry["because"])
    return found


def argument_for(mutant: str, arguments: dict[str, str]) -> str:
    """Return the reason why a mutant is equivalent, from the first matching pattern; "" if none matches."""
    return next((text for pattern, text in arguments.items() if fnmatchcase(mutant, pattern)), "")


def results_of(
    kind: str, profile: str, number: int, report_dir: Path, only: str, processes: int
) -> Iterator[Result]:
    """Yield the results for all mutants of a kind; results stored by an earlier run come first."""
    if kind == "history":
        yield from history(number, report_dir, profile, only, processes)
        return
    target = TARGETS[kind]()
    outcomes = BaselineOutcomes()
    of_detection = target.task == DETECT.name
    batches = all_cases(number, NEWEST) if of_detection else cases_of_task(target.task, NEWEST, number)
    cases, reached = judge_baseline(target, batches, outcomes)
    mutants = [mutant for place in target.places for mutant in mutants_of(place, reached[place])]
    everything = sum(len(mutants_of(place)) for place in target.places)
    chosen = {mutant.id: mutant for mutant in mutants if fnmatchcase(mutant.id, only)}
    say(
        f"{kind}: {len(chosen)} of {len(mutants)} mutants, {len(cases)} batches; "
        f"{everything - len(mutants)} further mutants are on lines that no batch runs"
    )
    places = {(place.module.__name__, place.function): place for place in target.places}
    jobs = {}
    for name, mutant in chosen.items():
        place = places[mutant.module, mutant.function]
        make = planted(place, mutant, target.implementation)
        jobs[name] = Job(mutant.function, make, reached.batches_of(mutant, place))
    yield from resume(
        kind,
        jobs,
        cases,
        every_image if of_detection else None,
        outcomes,
        key_of(profile, number),
        report_dir,
        processes,
    )


def judge_baseline(
    target: Target, cases: Sequence[GeneratedCase], outcomes: BaselineOutcomes
) -> tuple[list[GeneratedCase], Seen]:
    """Judge the unmutated code. Return the cases on which it conforms, and the target's lines that each case runs."""
    passed, rest = list[GeneratedCase](), list(cases)

    def at(number: int) -> None:
        seen.batch = len(passed) + number

    with watching(target.places) as seen:
        while rest:
            ended = judge_mutant(target.implementation, rest, progress=at, baseline=outcomes)
            if ended.test is None:
                passed += rest
                break
            say(f"  batch left out, because the unmutated code fails on it: {ended.test}: {ended.said}")
            passed, rest = passed + rest[: ended.batches - 1], rest[ended.batches :]
    outcomes.learns = False
    return passed, seen


def planted(place: Place, mutant: Mutant, make: Made) -> Made:
    """Return a function that installs a mutant until the process ends, and returns the implementation to judge."""
    _, first = place.source()

    def make_mutated() -> Implementation:
        place.put(mutant.text, first)
        return make()

    return make_mutated


def history(number: int, report_dir: Path, profile: str, only: str, processes: int) -> Iterator[Result]:
    """Yield the results of judging the reference in every dialect by the rules of neighbouring dialects."""
    dialects = [dialect for dialect in DIALECTS.values() if dialect != ARTICLE]
    pairs = [pair for old, new in pairwise(dialects) for pair in ((old, new), (new, old))]
    cases = all_cases(number, replace(NEWEST, rows_sorted=False))
    jobs = {
        name: Job(name, judged_by(dialect, judge))
        for dialect, judge in pairs
        if fnmatchcase(name := f"{dialect.name} for {judge.name}", only)
    }
    say(f"history: {len(jobs)} pairs of neighbouring dialects, {len(cases)} batches")
    yield from resume("history", jobs, cases, None, None, key_of(profile, number), report_dir, processes)


def judged_by(dialect: Dialect, judge: Dialect) -> Made:
    """Return a function that makes an implementation: the reference in `dialect`, declared to follow `judge`."""

    def make_mutated() -> Implementation:
        return replace(implementation_from(ReferenceAdapter(dialect), dialect.name), dialect=judge)

    return make_mutated


def every_image(subject: Subject) -> None:
    """Judge an implementation on every image of the smallest scopes (sets of images that are enumerated completely).

    Raises:
        Failure: the implementation does not conform on an image.
    """
    for scope in PROFILES["dev"]:
        judge_scope(Checker(subject, NoSink(), "test_every_image", "EXHAUSTIVE"), scope)


def resume(
    kind: str,
    jobs: dict[str, Job],
    cases: Sequence[GeneratedCase],
    after: After | None,
    outcomes: BaselineOutcomes | None,
    key: str,
    report_dir: Path,
    processes: int,
) -> Iterator[Result]:
    """Yield the results of an earlier run, then judge the other mutants and store each result at once.

    The first pass uses a few batches of each test, which kill most mutants. Survivors are judged on all other batches
    and on all images of the smallest scopes (sets of images that are enumerated completely).
    """
    path = report_dir / KILLS
    known = {name: result for name, result in read(path, key, kind).items() if name in jobs}
    if known:
        say(f"  {len(known)} results of an earlier run are reused from {path}")
    yield from known.values()
    few = min(FEW * len(checks_of("first")), len(cases))
    done, remaining = len(known), [name for name in jobs if name not in known]
    cut_off = path.is_file() and not path.read_bytes().endswith(b"\n")
    with (
        path.open("a", encoding="utf-8") as file,
        progress(f"Judging mutants: {kind}", len(remaining)) as advance,
    ):
        file.write("\n" * cut_off)
        for first in (True, False):
            chosen = [
                (name, jobs[name].make, jobs[name].numbers(first, few, len(cases))) for name in remaining
            ]
            remaining = []
            for name, ended in in_processes(
                iter(chosen), cases, None if first else after, outcomes, processes
            ):
                if first and ended.test is None:
                    remaining.append(name)
                    continue
                result = Result(name, kind, jobs[name].function, key, ended)
                file.write(json.dumps(asdict(result)) + "\n")
                file.flush()
                done += 1
                say(f"{done:5}/{len(jobs)} {line(result)}")
                advance()
                yield result
            if first:
                say(f"  {len(remaining)} mutants survive the first {few} batches")


def read(path: Path, key: str, kind: str) -> dict[str, Result]:
    """Return the stored results of a kind that have the given key, by mutant. Truncated lines are ignored."""
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
    """Return a hash of all that a result depends on: sources of this project, packages, torch and profile."""
    sha = hashlib.sha256(f"{profile} {number} {torch.__version__}".encode())
    for package in ("ultralytics", "hypothesis", "cosmic-ray"):
        sha.update(f"{package} {metadata.version(package)}".encode())
    root = PACKAGES
    for path in sorted(path for name in ROOTS for path in (root / name).rglob("*.py")):
        if not path.as_posix().endswith(REPORTING_FILES):
            sha.update(path.read_bytes())
    return sha.hexdigest()[:16]


def record(
    recorder: RunLogWriter, profile: str, result: Result, word: str, arguments: dict[str, str]
) -> None:
    """Append the result of a mutant to the run log."""
    ended = result.ended
    recorder.line(
        "power", profile=profile, fault=result.mutant, function=result.function, clauses=[], mode=result.kind,
        test=ended.test or "every test", expected=[], stage=ended.stage,
        batches=None if ended.test is None else ended.batches, seconds=round(ended.seconds, 2), result=word,
        case_in_words=ended.said, argument=argument_for(result.mutant, arguments), limit=ended.batches,
    )  # fmt: skip


def line(result: Result) -> str:
    """Return the result of a mutant as one line for the terminal."""
    ended = result.ended
    if ended.test is None:
        return f"survived {result.mutant}: {ended.batches} batches, {ended.seconds:.1f} s"
    return f"killed   {result.mutant}: {ended.test} at {ended.stage} after {ended.batches} batches"


def summary(results: Sequence[tuple[Result, str]]) -> str:
    """Return one line for every kind: mutants by result, share of killed mutants, and median number of batches."""
    lines = []
    for kind in dict.fromkeys(result.kind for result, _ in results):
        own = [(result, word) for result, word in results if result.kind == kind]
        counts = Counter(word for _, word in own)
        batches = [result.ended.batches for result, word in own if word == "killed"]
        meant = len(own) - counts["equivalent"]
        score = f"; score {counts['killed'] / meant:.1%}" if meant else ""
        median = f"; median {statistics.median(batches):g} batches" if batches else ""
        counted = ", ".join(
            f"{counts[word]} {word}" for word in ("killed", "equivalent", "elsewhere", "survived")
        )
        lines.append(f"{kind}: {len(own)} mutants: {counted}{score}{median}")
    return "\n".join(lines)
