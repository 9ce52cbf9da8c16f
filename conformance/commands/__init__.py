"""`python -m conformance COMMAND`: what the suite can do besides `pytest conformance`."""

import argparse
import sys
from pathlib import Path
from typing import Any

from tal_conformance.core.arguments import positive

MEASURED = ["ultralytics", "article", "reference", "rearranged", "rearranged-float64"]
"""Implementations that are right, in as many orders of operations as there are."""


def main(arguments: list[str] | None = None) -> int:
    """Run a command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m conformance", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    measuring = commands.add_parser("measure", help="how many units of rounding each compared quantity needs")
    measuring.add_argument("--examples", type=positive, default=100, metavar="N", help="batches of each lane")
    measuring.add_argument(
        "--implementation", action="append", metavar="NAME", help="whose errors to look at"
    )
    _add_replay(commands)
    comparing = commands.add_parser(
        "diff", help="what changed for training from one implementation to another"
    )
    comparing.add_argument("implementations", nargs=2, metavar="NAME", help="such as ultralytics==8.3.236")
    comparing.add_argument(
        "--html",
        type=Path,
        metavar="FILE",
        help="where the page with pictures goes (default: below the folder of the reports)",
    )
    narrowing = commands.add_parser("bisect", help="the release at which assigner or loss changed")
    narrowing.add_argument("releases", metavar="A..B", help="such as 8.3.236..8.4.6")
    narrowing.add_argument("--clause", metavar="CLAUSE", help="look for changes of this clause alone")
    naming = commands.add_parser("identify", help="which dialects explain all that an implementation does")
    naming.add_argument("implementation", metavar="NAME", help="as behind --implementation")
    dating = commands.add_parser("eras", help="hold releases of Ultralytics to the table of eras")
    dating.add_argument(
        "--releases",
        choices=("cached", "each", "edges"),
        default="cached",
        help="those in the cache (default), the first of each era, or both sides of every edge and the newest on PyPI",
    )
    _add_explain(commands)
    _add_record(commands)
    _add_power(commands)
    options = parser.parse_args(arguments)
    if options.command == "record":
        from tal_conformance.commands.record import record

        command = options.training[options.training[:1] == ["--"] :]
        return record(command, options.into, options.every, options.limit_mb)
    if options.command == "overhead":
        from tal_conformance.commands.overhead import overhead

        return overhead(options.rounds)
    if options.command == "explain_case":
        from tal_conformance.commands.explain import explain_case

        asked = options.image, options.anchor, options.gt, options.dialect, options.implementation
        return explain_case(options.case, *asked)
    from tal_conformance.batches.seeding import make_draws_reproducible

    make_draws_reproducible()
    if options.command == "power":
        return prove(options)
    if options.command in ("diff", "bisect", "identify", "eras"):
        return compare_dialects(options)
    if options.command == "replay":
        from tal_conformance.commands.replay import replay

        return replay(
            options.case,
            options.implementation or [],
            options.offline,
            options.device,
            options.against,
            options.pictures,
        )
    return measure(options.implementation or MEASURED, options.examples)


def _add_explain(commands: Any) -> None:
    explaining = commands.add_parser(
        "explain_case", help="why an anchor of a case got its ground truth or none, in words"
    )
    explaining.add_argument("case", metavar="CASE", help="case file of a run, or the name of a case of a run")
    explaining.add_argument("--image", type=int, default=0, metavar="N", help="image of the batch, from 0")
    which = explaining.add_mutually_exclusive_group()
    which.add_argument("--anchor", type=int, metavar="N", help="anchor of the image, from 0, level by level")
    which.add_argument("--gt", type=int, metavar="N", help="ground truth of the image, from 0; default: all")
    explaining.add_argument("--dialect", metavar="NAME", help="whose choices to follow; default: the newest")
    explaining.add_argument("--implementation", metavar="NAME", help="tell what this one does beside it")


def _add_replay(commands: Any) -> None:
    replaying = commands.add_parser(
        "replay", help="judge case files again: verdict, stages, divergence and a picture"
    )
    replaying.add_argument(
        "case", nargs="+", metavar="CASE", help="case file, or a folder of them (of a run, of a recording)"
    )
    replaying.add_argument(
        "--implementation", action="append", metavar="NAME", help="whom to judge, repeatable"
    )
    replaying.add_argument(
        "--against", metavar="DIALECT", help="hold all to this dialect, in place of their own"
    )
    replaying.add_argument("--device", choices=("cpu", "cuda"), default="cpu", help="where to run it")
    replaying.add_argument(
        "--offline", action="store_true", help="judge the outcomes stored beside the cases; nothing runs"
    )
    replaying.add_argument("--pictures", type=Path, metavar="DIR", help="folder of the pictures")


def _add_record(commands: Any) -> None:
    recording = commands.add_parser(
        "record", help="run a training, and keep some of the batches that its loss receives as case files"
    )
    recording.add_argument("--into", type=Path, metavar="DIR", help="folder of the case files")
    recording.add_argument(
        "--every",
        type=int,
        default=500,
        metavar="N",
        help="keep every n-th step's batch; 0: none (default: 500)",
    )
    recording.add_argument(
        "--limit-mb", type=float, default=500.0, metavar="MB", help="what all files may have (default: 500)"
    )
    recording.add_argument(
        "training",
        nargs=argparse.REMAINDER,
        metavar="-- COMMAND",
        help="such as: -- yolo detect train data=my.yaml",
    )
    measuring = commands.add_parser(
        "overhead", help="how much longer a training step takes while `record` listens and keeps nothing"
    )
    measuring.add_argument("--rounds", type=int, default=30, metavar="N", help="steps each way (default: 30)")


def _add_power(commands: Any) -> None:
    proving = commands.add_parser(
        "power", help="plant faults or make mutants, and see that the suite finds them"
    )
    proving.add_argument("fault", nargs="*", metavar="FAULT", help="these faults of the catalogue alone")
    proving.add_argument(
        "--mutants",
        choices=("faults", "official", "reference", "history", "all"),
        default="faults",
        help="faults: of the catalogue (the default); official, reference: their source with one change; "
        "history: neighbouring dialects held to each other",
    )
    proving.add_argument(
        "--profile", choices=("dev", "ci", "nightly"), default="ci", help="whose batches mutants are fed"
    )
    proving.add_argument(
        "--examples", type=positive, metavar="N", help="batches of each test, in place of the profile's"
    )
    proving.add_argument(
        "--only", metavar="PATTERN", default="*", help="mutants whose name fits, such as '*bbox_iou*'"
    )
    proving.add_argument(
        "--processes", type=positive, default=0, metavar="N", help="mutants at once (default: one a core)"
    )
    proving.add_argument("--report-dir", type=Path, metavar="DIR", help="where the run is left")


def prove(options: argparse.Namespace) -> int:
    """Run `power`; its exit status."""
    from tal_conformance.core.files import default_report_dir

    folder = options.report_dir or default_report_dir(Path.cwd())
    if options.fault and options.mutants != "faults":
        print("python -m conformance power: name faults, or ask for --mutants, not both", file=sys.stderr)
        return 2
    from tal_conformance.commands.mutation import run_mutation_tests as run
    from tal_conformance.mutation.kill_matrix import KINDS
    from tal_conformance.mutation.planted_faults import FAULTS

    kinds = {"faults": (), "all": KINDS}.get(options.mutants, (options.mutants,))
    faults = (options.fault or tuple(FAULTS)) if options.mutants in ("faults", "all") else ()
    numbers = options.profile, options.examples, options.only, options.processes
    return run(folder, faults, kinds, *numbers)


def compare_dialects(options: argparse.Namespace) -> int:
    """Run `diff`, `bisect`, `identify` or `eras`; 2 if an implementation cannot be had."""
    import torch

    from tal_conformance.commands.bisect import bisect
    from tal_conformance.commands.diff import diff
    from tal_conformance.commands.eras import eras
    from tal_conformance.commands.identify import identify
    from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation

    torch.set_num_threads(1)
    try:
        if options.command == "diff":
            first, second = options.implementations
            return diff(first, second, options.html)
        if options.command == "bisect":
            return bisect(options.releases, options.clause)
        if options.command == "eras":
            return eras(options.releases)
        return identify(options.implementation)
    except (UnknownImplementation, ProtocolViolation) as error:
        print(f"python -m conformance {options.command}: {error}", file=sys.stderr)
        return 2


def measure(names: list[str], examples: int) -> int:
    """Print the measurement behind `bounds.UNITS`."""
    import torch

    from tal_conformance.commands import measure as measurement
    from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
    from tal_conformance.implementations.registry import find

    torch.set_num_threads(1)
    try:
        implementations = [find(name) for name in names]
    except (UnknownImplementation, ProtocolViolation) as error:
        print(f"python -m conformance measure: {error}", file=sys.stderr)
        return 2
    progress = lambda lane: print(f"... {lane}", file=sys.stderr, flush=True)  # noqa: E731
    print(measurement.table(measurement.measure(implementations, examples, progress)))
    return 0
