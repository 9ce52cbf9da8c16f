"""`tal-conformance judge FOLDER`: judge what programs in any language computed for test vectors."""

import argparse
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tal_conformance.commands.program import CommandError, dialect_named, prepare_judging
from tal_conformance.commands.results import implementation_fields, set_result
from tal_conformance.core.files import default_report_dir
from tal_conformance.core.progress import progress
from tal_conformance.core.task import TASKS
from tal_conformance.core.vectors import InvalidVectors, VectorSet, read_set
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.outcomes_folder import (
    Program,
    VectorOutcome,
    program_as_implementation,
    programs_in,
    read_outcomes,
    read_program,
)
from tal_conformance.suite.run_log import RunLogWriter
from tal_conformance.suite.vectors import VectorRun, begin
from tal_reports import RunLog, read_log, render, terminal_table
from tal_text import say

FAILS, OPEN = 1, 2
"""Exit statuses: an outcome does not conform; or no outcome fails, and some could not be judged, or too few were."""


@dataclass(frozen=True)
class Settings:
    """Options of the command.

    Attributes:
        folder: the folder of vectors.
        report_dir: folder of the runs.
        against: dialect to judge every program by; None for the dialect that it declares.
    """

    folder: Path
    report_dir: Path
    against: Any


def run(options: argparse.Namespace) -> int:
    """Judge the outcomes of every program, write a run log and a report for each, and print the results.

    Returns:
        0 if every outcome conforms; 1 if an outcome does not; else 2 if an outcome could not be judged, or too few show
        a result.

    Raises:
        CommandError: the vectors or outcomes are invalid or incomplete, or the report cannot be written.
    """
    prepare_judging()
    against = dialect_named("--against", options.against)
    report_dir = options.report_dir or default_report_dir(Path.cwd())
    settings = Settings(options.folder, report_dir, against)
    try:
        vectors = read_set(options.folder)
        if vectors.task not in TASKS:
            raise CommandError(
                f"{options.folder}: unknown task {vectors.task!r}: expected one of {', '.join(TASKS)}"
            )
        programs = [read_program(path) for path in options.outcomes or programs_in(options.folder)]
        outcomes = [read_outcomes(program, vectors.vectors) for program in programs]
        results = [
            judged(settings, vectors, program, of)
            for program, of in zip(programs, outcomes, strict=True)
        ]  # fmt: skip
    except InvalidVectors as error:
        raise CommandError(str(error)) from error
    set_result(programs=results)
    statuses = [result["status"] for result in results]
    return FAILS if FAILS in statuses else max(statuses)


def judged(
    settings: Settings, vectors: VectorSet, program: Program, outcomes: dict[str, VectorOutcome]
) -> dict[str, Any]:
    """Judge the outcomes of one program, and return the machine-readable result.

    Raises:
        InvalidVectors: a file cannot be read, or a dialect is unknown.
        CommandError: the run log cannot be written.
    """
    implementation = program_as_implementation(program, vectors, outcomes, settings.against)
    try:
        recorder = RunLogWriter(RunLog.create(settings.report_dir))
    except OSError as error:
        raise CommandError(
            f"cannot write into {settings.report_dir}: {error}. Name another folder with --report-dir"
        ) from error
    begin(recorder, vectors, implementation)
    running = VectorRun(recorder, settings.folder, vectors, implementation)
    running.note_untested()
    with progress(f"Judging {program.name}", len(vectors.vectors)) as advance:
        for vector in vectors.vectors:
            running.judge(vector)
            advance()
    running.log_failures()
    running.note_unsupported()
    status = FAILS if running.fails else OPEN if running.is_open else 0
    recorder.end(status)
    recorder.make_latest()
    report = render(recorder.folder)
    say(terminal_table(read_log(recorder.folder)))
    return {
        **implementation_fields(implementation),
        "status": status,
        "gives": list(program.gives),
        "verdicts": {
            verdict.value: running.verdicts[verdict] for verdict in Verdict if running.verdicts[verdict]
        },
        "run": recorder.folder,
        "report": report,
    }
