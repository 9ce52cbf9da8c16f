"""`tal-conformance doctor FILE|FOLDER`: examine the inputs of a loss before any loss is computed."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tal_conformance.commands.cases import case_files, dialect_of_case
from tal_conformance.commands.program import CommandError, dialect_named, program_name
from tal_conformance.commands.results import set_result
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.doctor.examine import Examined, Summary, examine, summarise
from tal_conformance.doctor.finding import Finding, Severity, worst_line
from tal_conformance.doctor.inputs import read_inputs
from tal_reference import Dialect
from tal_reports import visible
from tal_text import say, warn


def run(options: argparse.Namespace) -> int:
    """Print what is unusual about the inputs of a loss, worst first.

    Returns:
        0 if nothing or only remarks were found, 1 if something worse was, else 2 if a case could not be read.

    Raises:
        CommandError: the dialect is unknown.
    """
    examined, problems = examined_cases(options.case, dialect_named("--dialect", options.dialect))
    for problem in problems:
        warn(visible(f"{program_name()} doctor: {problem}"))
    summaries = summarise(examined)
    if examined:
        say("\n".join(visible(line) for line in report(examined, summaries)))
    set_result(
        files=len(examined),
        findings=[summary_fields(summary) for summary in summaries],
        cases=[case_fields(case) for case in examined],
        problems=problems,
    )
    if any(summary.severity > Severity.REMARK for summary in summaries):
        return 1
    return 2 if problems else 0


def examined_cases(names: Sequence[str], dialect: Dialect | None) -> tuple[list[Examined], list[str]]:
    """Return the findings on every case file that the names denote, and messages about unreadable files."""
    examined: list[Examined] = []
    problems: list[str] = []
    for name in names:
        try:
            files = case_files(Path(name))
        except CommandError as error:
            problems.append(str(error))
            continue
        for path in files:
            try:
                examined.append(examined_case(path, dialect))
            except FileNotFoundError:
                problems.append(f"case file not found: {path}")
            except (InvalidCase, OSError) as error:
                problems.append(str(error))
    return examined, problems


def examined_case(path: Path, dialect: Dialect | None = None) -> Examined:
    """Return the findings on a case file.

    Args:
        path: path of the file; its batch need not be valid.
        dialect: dialect of the loss; None for that of the run or recorded release.

    Raises:
        InvalidCase: the file is not a case file, or is damaged.
        OSError: the file cannot be read.
    """
    inputs = read_inputs(path, dialect or dialect_of_case(path))
    return Examined(path, inputs, examine(inputs))


def report(examined: Sequence[Examined], summaries: Sequence[Summary]) -> list[str]:
    """Return the lines of text about all case files."""
    affected = sum(bool(case.findings) for case in examined)
    files = f"{len(examined)} case file{'s' * (len(examined) != 1)}"
    lines = [f"{files} examined, {affected or 'none'} with findings"]
    for case in examined:
        if case.inputs.circumstances.exception:
            lines.append(f"{case.path.name}: {raised_words(case)}")
    for number, summary in enumerate(summaries, 1):
        lines += ["", *_summary_lines(number, summary, len(examined))]
    return lines


def raised_words(case: Examined) -> str:
    """Return a sentence about the exception that was raised on a recorded batch."""
    known = case.inputs.circumstances
    return f"{known.raised} ({known.words()})"


def _summary_lines(number: int, summary: Summary, files: int) -> list[str]:
    finding, circumstances = summary.first, summary.where.inputs.circumstances
    words = circumstances.words()
    share = f"{summary.count:,} of {summary.total:,} {finding.unit} there"
    severity = summary.severity.words.upper()
    return [
        f"{number}. {severity} {finding.clause}: {finding.name}, in {summary.files} of {files} files: {share}",
        f"   {finding.sentence}",
        f"   first in {summary.where.path}{f' ({words})' if words else ''}",
    ]


def first_finding(path: Path, dialect: Dialect | None = None) -> str:
    """Return the worst finding on a case file as one line, and the number of others; "" without a finding.

    Raises:
        InvalidCase: the file is not a case file, or is damaged.
        OSError: the file cannot be read.
    """
    return worst_line(examined_case(path, dialect).findings)


def finding_fields(finding: Finding) -> dict[str, Any]:
    """Return the machine-readable form of a finding."""
    return {
        "name": finding.name,
        "clause": finding.clause,
        "severity": finding.severity.words,
        "sentence": finding.sentence,
        "count": finding.count,
        "total": finding.total,
        "unit": finding.unit,
    }


def summary_fields(summary: Summary) -> dict[str, Any]:
    """Return the machine-readable form of one kind of finding in several files."""
    return {
        **finding_fields(summary.first),
        "severity": summary.severity.words,
        "files": summary.files,
        "count": summary.count,
        "total": summary.total,
        "first": summary.where.path,
    }


def case_fields(case: Examined) -> dict[str, Any]:
    """Return the machine-readable findings on one case file."""
    return {
        "file": case.path,
        "circumstances": case.inputs.circumstances.as_dict(),
        "findings": [finding_fields(finding) for finding in case.findings],
    }
