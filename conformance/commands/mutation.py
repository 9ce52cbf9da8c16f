"""`python -m conformance power`: planted faults, mutants, or both, in one run with one report."""

import os
import sys
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import torch

from tal_conformance.core.environment import command_line
from tal_conformance.mutation.kill_matrix import NoSuchMutant, try_mutants
from tal_conformance.mutation.plant import plant
from tal_conformance.mutation.planted_faults import FAULTS
from tal_conformance.mutation.trials import load
from tal_conformance.suite.run_log import RunLogWriter
from tal_reports import RunLog, render


def run_mutation_tests(
    report_dir: Path,
    faults: Sequence[str],
    kinds: Sequence[str] = (),
    profile: str = "ci",
    examples: int | None = None,
    only: str = "*",
    processes: int = 0,
) -> int:
    """Plant faults and try mutants, and leave a report; the exit status.

    Args:
        report_dir: where runs are left, and what became of mutants.
        faults: names of the catalogue.
        kinds: of mutants.
        profile: whose batches mutants are fed; planted faults meet the gating one's.
        examples: batches of a test for mutants, in place of the profile's.
        only: pattern of the names of the mutants that are tried.
        processes: mutants at once; 0: as many as there are cores.

    Returns:
        0 if all were found, each fault at its own stage, or are argued to be equivalent or known to survive; 1 if not;
        2 for an unknown name, or where cosmic-ray is missing.
    """
    problem = ""
    if unknown := [name for name in faults if name not in FAULTS]:
        problem = f"no fault {', '.join(unknown)}; there are {', '.join(FAULTS)}"
    elif kinds and find_spec("cosmic_ray") is None:
        problem = "mutants are made with cosmic-ray: pip install 'tal-conformance[power]'"
    if problem:
        print(f"python -m conformance power: {problem}", file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    try:
        recorder = RunLogWriter(RunLog.create(report_dir))
    except OSError as error:
        print(f"python -m conformance power: cannot write into {report_dir}: {error}", file=sys.stderr)
        return 2
    recorder.begin(
        {
            "profile": profile if kinds else "ci", "seed": "derandomized", "command": command_line(),
            "devices": {"cpu": "tested"}, "hazards": {}, "implementations": [],
        }
    )  # fmt: skip
    parts = []
    if kinds:
        number = load(profile, examples)
        at_once = processes or os.cpu_count() or 1
        try:
            parts.append(try_mutants(recorder, kinds, profile, number, report_dir, only, at_once))
        except NoSuchMutant as error:
            print(f"python -m conformance power: {error}", file=sys.stderr)
            recorder.end(2)
            return 2
    if faults:
        parts.append(plant(recorder, [FAULTS[name] for name in faults]))
    failed = any(one for one, _ in parts)
    recorder.end(int(failed))
    recorder.make_latest()
    print("\n".join([*(said for _, said in parts), f"report: {render(recorder.folder)}"]))
    return int(failed)
