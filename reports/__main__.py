"""`python -m reports COMMAND`: reports on finished runs and killed ones, two runs compared, shards merged."""

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

from tal_reports.analysis.compare import Change, compare, format_comparison
from tal_reports.analysis.history import Entry, entry_of, history_of, previous, read_history
from tal_reports.analysis.merge import merge
from tal_reports.analysis.summary import summarise, write_summary
from tal_reports.html.render import render
from tal_reports.log.reader import LogError, read_log
from tal_reports.markdown import issue, job_summary

PROGRAM = f"python -m {(__spec__ and __spec__.parent) or 'tal_reports'}"
"""The command as the user started it: `python -m reports` in the clone, `python -m tal_reports` anywhere."""
UNUSABLE = 2
"""Exit status where there is no run to report on, or nothing can be written; or of a wrong command line."""
RUN = "a run's folder, or its log.jsonl"


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0; 1 where `compare` finds something new; 2 with one line on standard error where something is wrong.
    """
    options = _parser().parse_args(arguments)
    does: Callable[[argparse.Namespace], int] = options.does
    try:
        return does(options)
    except (LogError, OSError) as error:
        print(f"reports: {error}", file=sys.stderr)
        return UNUSABLE


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog=PROGRAM, description="Reports on the runs of the suite.")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, does: Callable[[argparse.Namespace], int], says: str) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=says, description=f"{says[0].upper()}{says[1:]}.")
        added.set_defaults(does=does)
        return added

    for name, does, says in (
        ("render", _render, "write report.html and summary.json, and print the report's path"),
        ("summary", _summary, "write summary.json, and print its path"),
    ):
        writing = command(name, does, says)
        writing.add_argument("run", type=Path, metavar="RUN", help=RUN)
        writing.add_argument(
            "--into", type=Path, metavar="DIR", help="write there instead of into the run's folder"
        )
    comparing = command("compare", _compare, "say what is new, fixed and still there; 1 if something is new")
    comparing.add_argument("before", type=Path, metavar="RUN_A", help=RUN)
    comparing.add_argument("after", type=Path, metavar="RUN_B", help=RUN)
    merging = command("merge", _merge, "make one run out of those of several shards, and render it")
    merging.add_argument("runs", type=Path, nargs="+", metavar="RUN", help=RUN)
    merging.add_argument("--into", type=Path, required=True, metavar="DIR", help="folder of the merged run")
    for name, does, says in (
        ("markdown", _markdown, "print a run in Markdown, for the page of a CI job"),
        ("issue", _issue, "print the text of an issue about what is new; nothing if nothing is"),
    ):
        telling = command(name, does, says)
        telling.add_argument("run", type=Path, metavar="RUN", help=RUN)
        telling.add_argument(
            "--against",
            type=Path,
            metavar="RUN",
            help="compare with this run instead of the last in the history",
        )
    return parser


def _render(options: argparse.Namespace) -> int:
    print(render(options.run, options.into))
    return 0


def _summary(options: argparse.Namespace) -> int:
    log = read_log(options.run)
    print(write_summary(summarise(log), options.into or log.folder))
    return 0


def _compare(options: argparse.Namespace) -> int:
    change = compare(_entry(options.before), _entry(options.after))
    print("\n".join(format_comparison(change)))
    return int(bool(change.new))


def _merge(options: argparse.Namespace) -> int:
    print(render(merge(options.runs, options.into)))
    return 0


def _markdown(options: argparse.Namespace) -> int:
    sys.stdout.write(job_summary(read_log(options.run), _change(options.run, options.against)))
    return 0


def _issue(options: argparse.Namespace) -> int:
    change = _change(options.run, options.against)
    if change is None:
        print("reports: there is no earlier run to compare with, so nothing is new", file=sys.stderr)
    sys.stdout.write(issue(change) if change else "")
    return 0


def _change(run: Path, against: Path | None) -> Change | None:
    """What changed since another run, or since the last one in the history; None if there is none."""
    entry = _entry(run)
    before = _entry(against) if against else previous(read_history(history_of(read_log(run).folder)), entry)
    return compare(before, entry) if before else None


def _entry(run: Path) -> Entry:
    log = read_log(run)
    return entry_of(log, summarise(log))


if __name__ == "__main__":
    sys.exit(main())
