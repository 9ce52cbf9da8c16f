"""`tal-conformance power`: test the suite itself: it must find planted faults and generated mutants."""

import argparse
import os
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from tal_conformance.batches.seeding import make_draws_reproducible
from tal_conformance.checks.profiles import PROFILES
from tal_conformance.commands.program import CommandError
from tal_conformance.commands.results import set_result
from tal_conformance.core.environment import command_line
from tal_conformance.core.files import default_report_dir
from tal_conformance.core.names import unknown_name
from tal_conformance.mutation.kill_matrix import KINDS, NoSuchMutant, try_mutants
from tal_conformance.mutation.plant import Found, missed_by_gate, plant, store_figures, summary
from tal_conformance.mutation.planted_faults import FAULTS, FAULTS_OF_USE
from tal_conformance.suite.run_log import RunLogWriter
from tal_reports import LATEST, LogError, RunLog, read_log, render
from tal_text import say


def run(options: argparse.Namespace) -> int:
    """Run the mutation tests that the options select, and return the exit status.

    Raises:
        CommandError: the options are inconsistent, or the mutation tests cannot run.
    """
    if options.fault and options.mutants != "faults":
        raise CommandError("expected names of planted faults or --mutants, got both")
    make_draws_reproducible()
    folder = options.report_dir or default_report_dir(Path.cwd())
    kinds = {"faults": (), "all": KINDS}.get(options.mutants, (options.mutants,))
    faults = (options.fault or tuple(FAULTS | FAULTS_OF_USE)) if options.mutants in ("faults", "all") else ()
    numbers = options.profile, options.examples, options.only, options.processes
    return run_mutation_tests(folder, faults, kinds, *numbers)


def may_become_latest(runs: Path) -> bool:
    """Return True if the link `latest` may be moved, because it does not point to a run of the suite.

    Args:
        runs: folder of the runs.
    """
    try:
        return bool(read_log(runs / LATEST).power)
    except (OSError, LogError):
        return True


def run_mutation_tests(
    report_dir: Path,
    faults: Sequence[str],
    kinds: Sequence[str] = (),
    profile: str = "ci",
    examples: int | None = None,
    only: str = "*",
    processes: int = 0,
) -> int:
    """Plant faults and judge mutants, write a report, and return the exit status.

    Args:
        report_dir: folder of the runs, which also has the stored results for mutants.
        faults: names of planted faults.
        kinds: kinds of mutants to judge, of `kill_matrix.KINDS`.
        profile: profile whose batches are used. Its figures are stored: of all faults, or of faults that were not
            planted.
        examples: number of batches of each test for mutants, instead of the profile's.
        only: pattern that the names of mutants must match.
        processes: number of mutants judged at once; 0 for the number of cores.

    Returns:
        0 if every fault was found at the stage that it violates and every mutant was killed, apart from faults and
        mutants that are listed as equivalent or as known to survive; else 1.

    Raises:
        CommandError: a name is unknown, cosmic-ray is missing, or the report folder cannot be written.
    """
    known = FAULTS | FAULTS_OF_USE
    _check_request(faults, known, kinds)
    torch.set_num_threads(1)
    recorder = _begin_run(report_dir, profile)
    parts, results = [], []
    if kinds:
        number = examples or PROFILES[profile].examples
        at_once = processes or os.cpu_count() or 1
        try:
            parts.append(try_mutants(recorder, kinds, profile, number, report_dir, only, at_once))
        except NoSuchMutant as error:
            recorder.end(2)
            raise CommandError(str(error)) from error
    if faults:
        results = plant(recorder, [known[name] for name in faults], profile)
        parts.append((missed_by_gate(results), f"planted faults: {summary(results)}"))
        store(results, profile, set(faults) == set(known))
    failed = any(failed for failed, _ in parts)
    recorder.end(int(failed))
    _report_results(recorder, profile, [summary for _, summary in parts], results)
    return int(failed)


def _check_request(faults: Sequence[str], known: Mapping[str, Any], kinds: Sequence[str]) -> None:
    """Raise a `CommandError` if a fault is unknown, or if mutants are asked for and cosmic-ray is missing."""
    if unknown := [name for name in faults if name not in known]:
        raise CommandError(unknown_name("fault", unknown[0], known))
    if kinds and find_spec("cosmic_ray") is None:
        raise CommandError(
            "mutants need cosmic-ray, which is not installed: pip install 'tal-conformance[power]'"
        )


def _begin_run(report_dir: Path, profile: str) -> RunLogWriter:
    """Create the folder and the log of the run; raise a `CommandError` if they cannot be written."""
    try:
        recorder = RunLogWriter(RunLog.create(report_dir))
    except OSError as error:
        raise CommandError(
            f"cannot write into {report_dir}: {error}. Name another folder with --report-dir"
        ) from error
    recorder.begin(
        {
            "profile": profile, "seed": "derandomized", "command": command_line(),
            "devices": {"cpu": "tested"}, "hazards": {}, "implementations": [],
        }
    )  # fmt: skip
    return recorder


def _report_results(
    recorder: RunLogWriter, profile: str, summaries: list[str], results: Sequence[Found]
) -> None:
    """Write the report of an ended run, and print its summaries."""
    if may_become_latest(recorder.folder.parent):
        recorder.make_latest()
    report = render(recorder.folder)
    say("\n".join([*summaries, f"report: {report}"]))
    set_result(
        run=recorder.folder,
        report=report,
        profile=profile,
        summaries=summaries,
        faults=list(map(fault_fields, results)),
    )


def fault_fields(found: Found) -> dict[str, Any]:
    """Return the machine-readable result for one planted fault in one mode."""
    return {
        "fault": found.fault.name,
        "mode": found.mode,
        "result": found.result,
        "check": found.check,
        "stage": found.stage,
        "batches": found.batches,
        "seconds": round(found.seconds, 2),
    }


def store(results: Sequence[Found], profile: str, whole: bool) -> None:
    """Store the number of planted faults that the profile finds, or print the reason why it cannot be stored.

    Args:
        results: the results for the planted faults.
        profile: the profile whose batches were used.
        whole: True if all faults were planted. Otherwise only the results for these faults are replaced.
    """
    try:
        store_figures(results, profile, whole)
    except OSError as error:
        say(f"the figures of profile {profile} could not be stored: {error}")
