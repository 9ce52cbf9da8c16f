"""`python -m tal_reports COMMAND`: render the report of a run, compare two runs, or merge runs into one."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tal_reports.analysis.compare import Change, compare, format_comparison
from tal_reports.analysis.history import Entry, entry_of, history_of, previous, read_history
from tal_reports.analysis.merge import merge
from tal_reports.analysis.summary import summarise, write_summary
from tal_reports.badge import write_badge
from tal_reports.html.render import render
from tal_reports.log.reader import LogError, read_log
from tal_reports.markdown import issue, job_summary
from tal_reports.text import capital
from tal_text import prepare_streams, say, warn

PROGRAM = f"python -m {(__spec__ and __spec__.parent) or 'tal_reports'}"
"""The command that the user typed: `python -m reports` in a clone, `python -m tal_reports` if installed."""
UNUSABLE = 2
"""Exit status if the command line is wrong, no run is found, or a file cannot be written."""
STATUSES = "Exit status: 0; 1: `compare` found new causes; 2: no usable run, or a file cannot be written."
"""Exit statuses, for `--help`."""
RUN = "folder of a run, or its log.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command that the arguments name.

    Returns:
        The exit status: 1 if `compare` finds new causes; 2, with a line on standard error, on errors; else 0.
    """
    prepare_streams()
    options = _parser().parse_args(arguments)
    run: Callable[[argparse.Namespace], int] = options.run_command
    try:
        return run(options)
    except (LogError, OSError) as error:
        warn(f"reports: {error}")
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Reports on the runs of the suite.", epilog=STATUSES
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=f"{capital(text)}.", epilog=STATUSES)
        added.set_defaults(run_command=run)
        return added

    for name, run, text in (
        ("render", _render, "write report.html and summary.json, and print the report's path"),
        ("summary", _summary, "write summary.json, and print its path"),
        ("badge", _badge, "write badge.svg and badge.json (for shields.io), and print their paths"),
    ):
        writing = command(name, run, text)
        writing.add_argument("run", type=Path, metavar="RUN", help=RUN)
        writing.add_argument(
            "--into", type=Path, metavar="DIR", help="write there instead of into the run's folder"
        )
    text = "list new, fixed and persisting causes; exit with status 1 if there are new ones"
    comparing = command("compare", _compare, text)
    comparing.add_argument("before", type=Path, metavar="RUN_A", help=RUN)
    comparing.add_argument("after", type=Path, metavar="RUN_B", help=RUN)
    merging = command("merge", _merge, "merge the runs of several shards into one run, and render it")
    merging.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=RUN)
    merging.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder of the merged run")
    for name, run, text in (
        ("markdown", _markdown, "print a run in Markdown, for the summary page of a CI job"),
        ("issue", _issue, "print the text of an issue about new causes; nothing if there are none"),
    ):
        printing = command(name, run, text)
        printing.add_argument("run", type=Path, metavar="RUN", help=RUN)
        printing.add_argument(
            "--against",
            type=Path,
            metavar="RUN",
            help="compare with this run instead of the last one in the history",
        )
    return parser


def _render(options: argparse.Namespace) -> int:
    say(str(render(options.run, options.into)))
    return 0


def _summary(options: argparse.Namespace) -> int:
    log = read_log(options.run)
    say(str(write_summary(summarise(log), options.into or log.folder)))
    return 0


def _badge(options: argparse.Namespace) -> int:
    log = read_log(options.run)
    say(*map(str, write_badge(summarise(log), options.into or log.folder)))
    return 0


def _compare(options: argparse.Namespace) -> int:
    change = compare(_entry(options.before), _entry(options.after))
    say("\n".join(format_comparison(change)))
    return int(bool(change.new))


def _merge(options: argparse.Namespace) -> int:
    say(str(render(merge(options.runs, options.into))))
    return 0


def _markdown(options: argparse.Namespace) -> int:
    say(job_summary(read_log(options.run), _change(options.run, options.against)), end="")
    return 0


def _issue(options: argparse.Namespace) -> int:
    change = _change(options.run, options.against)
    if change is None:
        warn("reports: no earlier run to compare with, so that no cause of failure counts as new")
    say(issue(change) if change else "", end="")
    return 0


def _change(run: Path, against: Path | None) -> Change | None:
    """Compare a run with the run `against`, or else with the last comparable run in the history; None without one."""
    entry = _entry(run)
    before = _entry(against) if against else previous(read_history(history_of(read_log(run).folder)), entry)
    return compare(before, entry) if before else None


def _entry(run: Path) -> Entry:
    log = read_log(run)
    return entry_of(log, summarise(log))


if __name__ == "__main__":
    sys.exit(main())
