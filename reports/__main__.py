"""`python -m reports render RUN` and `python -m reports summary RUN`, of a finished run or a killed one."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from reports.log import LogError, read_log
from reports.render import render
from reports.summary import summarise, write_summary

UNUSABLE = 2
"""Exit status where there is no run to report on, or nothing can be written; or of a wrong command line."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command; its exit status: 0, or 2 with one line on standard error that says what is wrong."""
    parser = argparse.ArgumentParser(
        prog="python -m reports", description="Reports on the runs of the suite."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, does in (
        ("render", "write report.html and summary.json, and print the report's path"),
        ("summary", "write summary.json, and print its path"),
    ):
        command = commands.add_parser(name, help=does, description=f"{does[0].upper()}{does[1:]}.")
        command.add_argument("run", type=Path, metavar="RUN", help="a run's folder, or its log.jsonl")
        command.add_argument(
            "--into", type=Path, metavar="DIR", help="write there instead of into the run's folder"
        )
    options = parser.parse_args(arguments)
    try:
        print(
            _summary(options.run, options.into)
            if options.command == "summary"
            else render(options.run, options.into)
        )
    except (LogError, OSError) as error:
        print(f"reports: {error}", file=sys.stderr)
        return UNUSABLE
    return 0


def _summary(run: Path, into: Path | None) -> Path:
    log = read_log(run)
    return write_summary(summarise(log), into or log.folder)


if __name__ == "__main__":
    sys.exit(main())
