"""The table of docs/security.md: results of misbehaving adapters (doubles), with and without `--isolate`.

`python -m tests.fauxmplementations.table` prints the table. Tests compare it with the page and real runs.
"""

import ast
import re
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
FILES = (
    *("misbehaving", "lying", "replacing", "process_state", "ending", "overwhelming", "escaping", "awkward"),
)
"""Files whose classes are doubles; the docstring, or else the name of a class, describes its behaviour."""
ERROR, DIVERGENT, CONFORMS = "error", "divergent", "conforms"
REFUSED, ENDS, NEVER = "refused", "not finished", "—"
"""Refused: the adapter is not loaded; exit status 4. Not finished: the process ends early."""


class Result(NamedTuple):
    """The suite's result for a double (a misbehaving adapter).

    Attributes:
        here: result if the double runs in the suite's process.
        isolated: result with `--isolate`.
    """

    here: str = ERROR
    isolated: str = ERROR


NOT_DOUBLES = ("Double", "Every", "AnswersForItself", "Computed", "Pretender", "Forgetful", "Halving")
RESULTS = {
    **dict.fromkeys(("Right", "RightToo"), Result(CONFORMS, CONFORMS)),
    **dict.fromkeys(
        ("SharesMemory", "ExpandsResults", "ReturnsParameters", "LeavesAutocastOn"),
        Result(CONFORMS, CONFORMS),
    ),
    **dict.fromkeys(
        ("LyingTensors", "AnswersOnce", "ReturnsItsInput", "LyingLoss", "HidesFailures"),
        Result(DIVERGENT, DIVERGENT),
    ),
    **dict.fromkeys(
        (
            *("TurnsWarningsIntoErrors", "ChangesTheLocale", "EmptiesTheEnvironment"),
            *("RaisesInLogging", "SeedsRandomNumbers", "RaisesWhenDeleted"),
        ),
        Result(CONFORMS, CONFORMS),
    ),
    "BreaksImports": Result(CONFORMS, ERROR),
    **dict.fromkeys(
        (
            "AddsACollectionCallback",
            "BlocksSignals",
            "ChangesTheFolder",
            "ChangesTheMask",
            "ClosesStandardError",
            "ClosesStandardOutput",
            "DisablesCollection",
            "IgnoresInterrupts",
            "LeavesAProfiler",
            "LeavesAThreadTracer",
            "LeavesATracer",
            "RaisesFloatErrors",
            "ReplacesAny",
            "ReplacesHooks",
            "ReplacesMath",
            "ReplacesMax",
            "ReplacesModules",
            "ReplacesNumpy",
            "ReplacesOperators",
            "ReplacesOwnModules",
            "ReplacesPythonsOutput",
            "ReplacesSleep",
            "ReplacesSum",
            "SetsADeadlyTimer",
            "SetsATimer",
            "SilencesOutput",
            "StopsTheClock",
            "SwitchesThreadsRarely",
        ),
        Result(ERROR, CONFORMS),
    ),
    "ClosesPythonsOutput": Result(ENDS, CONFORMS),
    "AssignRaises": Result(ERROR, REFUSED),
    "ReturnsNan": Result(DIVERGENT, DIVERGENT),
    "ChangesFromAThread": Result(DIVERGENT, DIVERGENT),
    **dict.fromkeys(("NameRaises", "VersionSkips", "DialectRaises"), Result(REFUSED, REFUSED)),
    **dict.fromkeys(
        ("EndsQuietly", "EndsInC", "EndsWithAStatus", "KillsItself", "Segfaults", "Exits", "IsKilled"),
        Result(ENDS, ERROR),
    ),
    **dict.fromkeys(
        (
            "Hangs",
            "Sleeps",
            "EatsMemory",
            "EatsMemoryInTorch",
            "LeaksMemory",
            "PrintsWithoutEnd",
            "SharesGigabytes",
        ),
        Result(NEVER, ERROR),
    ),
    **dict.fromkeys(("RaisesLate", "RaisesFromThenOn"), Result(ERROR, ERROR)),
    **dict.fromkeys(
        ("ReplacesOfficialCode", "RewritesOfficialCode", "ReplacesTopk"), Result(ERROR, CONFORMS)
    ),
    **dict.fromkeys(("ReplacesAMethodOfTensors", "ReplacesTheJudge"), Result(ERROR, CONFORMS)),
}
"""Doubles that are not listed are an error in both cases. —: not run, because it would end this process."""


def doubles() -> dict[str, list[tuple[str, str]]]:
    """Return the doubles of each file: pairs of a class name and a description of its behaviour."""
    found: dict[str, list[tuple[str, str]]] = {}
    for file in FILES:
        tree = ast.parse((FOLDER / f"{file}.py").read_text(encoding="utf-8"))
        classes = [
            node for node in tree.body if isinstance(node, ast.ClassDef) and node.name not in NOT_DOUBLES
        ]
        found[file] = [(node.name, ast.get_docstring(node) or words(node.name)) for node in classes]
    return found


def words(name: str) -> str:
    """Return a class name as a sentence: `ReturnsNone` becomes "Returns none."."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).capitalize() + "."


def table() -> str:
    """Return the table of all doubles and results in Markdown."""
    lines = ["| Double | What it does | In process | Isolated |", "|---|---|---|---|"]
    for file, members in doubles().items():
        for name, does in members:
            result = RESULTS.get(name, Result())
            text = " ".join(does.split()).replace("|", "\\|")
            lines.append(f"| `{file}.{name}` | {text} | {result.here} | {result.isolated} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
