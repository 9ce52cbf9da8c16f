"""The command line `tal-conformance COMMAND`: everything except the test run. Each command is a module.

Importing this package imports neither torch nor a command's module, so that every `--help` and `--version` is fast: the
module `arguments` has the arguments of all commands.
"""

import argparse
import importlib
import sys
from collections.abc import Callable
from types import ModuleType
from typing import NamedTuple

from tal_conformance.commands import arguments
from tal_conformance.commands.program import DISTRIBUTION, CommandError, program_name, version
from tal_conformance.commands.results import Result, collected_result, print_result, set_error
from tal_conformance.core.interrupts import lost_interrupts
from tal_conformance.core.names import unknown_name
from tal_conformance.core.supervision import Marks, supervise, supervised
from tal_text import prepare_streams, warn

JSON_HELP = "print the result as one JSON object on standard output, and everything else on standard error"
TRACEBACK_LINES = 30
"""Maximum number of lines of an adapter's traceback that are printed."""


class Command(NamedTuple):
    """One command of the program `tal-conformance`.

    Attributes:
        module: name of the module in this package; it has `run(options) -> int`.
        add_arguments: function that adds the command's arguments to its parser.
        summary: description of the command for `--help`, in one line.
        statuses: meaning of each exit status, for `--help`.
    """

    module: str
    add_arguments: Callable[[argparse.ArgumentParser], None]
    summary: str
    statuses: dict[int, str]


COMMANDS = {
    "init": Command(
        "init",
        arguments.init,
        "write an adapter for your assigner or loss, try it, and say what is missing",
        {
            0: "the adapter conforms on all tried batches",
            1: "it is incomplete or differs",
            2: "nothing was written",
        },
    ),
    "replay": Command(
        "replay",
        arguments.replay,
        "judge case files again: verdict, stages, divergence and a picture",
        {0: "all cases conform", 1: "one does not", 2: "something could not be judged, or is inconclusive"},
    ),
    "doctor": Command(
        "doctor",
        arguments.doctor,
        "say what is unusual or wrong about the inputs of a loss, worst first, before any loss is computed",
        {
            0: "nothing was found, or only remarks",
            1: "something worse was found",
            2: "a case could not be read",
        },
    ),
    "explain": Command(
        "explain",
        arguments.explain,
        "explain in words why an anchor of a case was assigned to its ground truth, or to none",
        {0: "explained", 2: "there is nothing to explain"},
    ),
    "diff": Command(
        "diff",
        arguments.diff,
        "list the changes for training from one implementation to another",
        {
            0: "nothing changed",
            1: "something changed",
            2: "an implementation is not available, or the page cannot be written",
        },
    ),
    "bisect": Command(
        "bisect",
        arguments.bisect,
        "find the release at which the assigner or the loss changed",
        {0: "nothing changed", 1: "something changed", 2: "a release is not available"},
    ),
    "identify": Command(
        "identify",
        arguments.identify,
        "find the dialects that explain everything an implementation does",
        {
            0: "every batch is explained",
            1: "not every batch is explained",
            2: "the implementation is not available",
        },
    ),
    "clause": Command(
        "clause",
        arguments.clause,
        "print the sentences of clauses, and the choices that dialects have in them",
        {0: "printed", 2: "the clause is unknown"},
    ),
    "findings": Command(
        "findings",
        arguments.findings,
        "list probable bugs of official code and known issues of other projects",
        {
            0: "listed; with --run, every script ran as expected",
            1: "a script reproduced a finding unexpectedly, or did not reproduce it",
            2: "the finding is unknown, or a script failed",
        },
    ),
    "eras": Command(
        "eras",
        arguments.eras,
        "check that releases of Ultralytics follow the table of eras",
        {
            0: "every release conforms to the dialect of its era",
            1: "one does not",
            2: "a release is not available",
        },
    ),
    "record": Command(
        "record",
        arguments.record,
        "run a training and store selected inputs of its loss as case files",
        {
            0: "the training ended with status 0; else its status",
            2: "nothing can be recorded, or the training's status",
        },
    ),
    "overhead": Command(
        "overhead",
        arguments.overhead,
        "measure how much longer a training step takes under `record`",
        {0: "at most 5 %", 1: "more than 5 %", 2: "it could not be measured"},
    ),
    "export": Command(
        "export",
        arguments.export,
        "write test vectors for programs in any language",
        {0: "written", 2: "the folder is not empty or cannot be written"},
    ),
    "judge": Command(
        "judge",
        arguments.judge,
        "judge what programs in any language computed for test vectors",
        {
            0: "every outcome conforms",
            1: "one does not",
            2: "one is missing, stale or damaged, or could not be judged",
        },
    ),
    "measure": Command(
        "measure",
        arguments.measure,
        "measure how many rounding units each compared quantity needs",
        {0: "measured", 2: "an implementation is not available"},
    ),
    "power": Command(
        "mutation",
        arguments.power,
        "plant faults or make mutants, and check that the suite finds them",
        {
            0: "every fault was found at its stage, or is argued to be equivalent",
            1: "one was not",
            2: "unknown name, or missing extra",
        },
    ),
}


INTERRUPTED = 130
"""Exit status of a command that Ctrl-C ended, as shells give it."""


def main(argv: list[str] | None = None) -> int:
    """Run the command that the command line names, and return its exit status; 2 if it failed with an error."""
    prepare_streams()
    words = sys.argv[1:] if argv is None else argv
    program = program_name()
    parser = argparse.ArgumentParser(
        prog=program,
        description="Commands beside the test run, which is `pytest --pyargs tal_conformance`, or in a clone "
        "`pytest conformance`. `COMMAND --help` lists options and exit statuses; every command takes --json.",
    )
    parser.add_argument("--version", action="version", version=f"{DISTRIBUTION} {version()}")
    command_name = words[0] if words and not words[0].startswith("-") else ""
    if command_name and command_name not in COMMANDS:
        parser.error(unknown_name("command", command_name, COMMANDS))
    _add_commands(parser, command_name)
    options = parser.parse_args(words)
    command = importlib.import_module(f"{__name__}.{COMMANDS[command_name].module}")
    if argv is None:
        supervise(lambda marks, how: _conclude(program, command_name, options.json, marks, how))
    restore_handler = lost_interrupts.record()
    status = 0  # if an exception is raised, Python sets the exit status
    try:
        run = _json_status if options.json else _status
        status = run(command, options, f"{program} {command_name}")
    finally:
        restore_handler()
        lost_interrupts.forget()
        supervised.finish(status)
    return status


def _status(command: ModuleType, options: argparse.Namespace, program: str) -> int:
    """Run a command and return its exit status; for an expected error, print the message and return its status."""
    try:
        status: int = command.run(options)
    except KeyboardInterrupt:
        warn(f"\n{program}: interrupted")
        set_error("interrupted")
        return INTERRUPTED
    except Exception as error:
        if not isinstance(error, _expected_errors()):
            raise
        from tal_reports import visible

        warn(f"{program}: {visible(str(error))}")
        set_error(str(error))
        for line in str(getattr(error, "details", "")).splitlines()[-TRACEBACK_LINES:]:
            warn(f"  {visible(line)}")
        return getattr(error, "status", 2)
    return status


def _json_status(command: ModuleType, options: argparse.Namespace, program: str) -> int:
    """Run a command as `_status` does, and print its result as a JSON object, also if it raises."""
    status, result = 1, Result()  # Python's exit status after an exception
    try:
        with collected_result() as result:
            try:
                status = _status(command, options, program)
            except Exception as error:
                set_error(f"{type(error).__name__}: {error}")
                raise
    finally:
        meaning = COMMANDS[options.command].statuses.get(status, "")
        meaning = "" if result.error is not None else meaning
        print_result(options.command, version(), status, meaning, result)
    return status


def _conclude(program: str, command_name: str, as_json: bool, marks: Marks, how: str) -> None:
    """Print that a command's process ended before the command was done; `how` completes the printed sentence."""
    from tal_reports import visible

    name = f"{visible(marks.call)}: " if marks.call else ""
    warn(f"{program} {command_name}: {name}{how}")
    if as_json:
        print_result(command_name, version(), None, "", Result(error=f"{name}{how}"))


def _add_commands(parser: argparse.ArgumentParser, command_name: str) -> None:
    """Add all commands to the parser, and the arguments of the command `command_name`."""
    subparsers = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for name, command in COMMANDS.items():
        subparser = subparsers.add_parser(
            name, help=command.summary, description=_sentence(command.summary), epilog=_epilog(command)
        )
        if name == command_name:
            subparser.add_argument("--json", action="store_true", help=JSON_HELP)
            command.add_arguments(subparser)


def _epilog(command: Command) -> str:
    """Return the exit statuses as the last sentence of a command's help."""
    return f"Exit status: {'; '.join(f'{status}: {text}' for status, text in command.statuses.items())}."


def _sentence(summary: str) -> str:
    return f"{summary[:1].upper()}{summary[1:]}."


def _expected_errors() -> tuple[type[Exception], ...]:
    """Return the exceptions that are reported by their message, without traceback. The call imports torch."""
    from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation

    return CommandError, ProtocolViolation, UnknownImplementation
