"""`--json` of every command: one JSON object on standard output with the documented fields, and nothing else."""

import json
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import ultralytics  # noqa: F401 - its log keeps the stream of its first import, which must not be a test's
from tests.common.commands import ENVIRONMENT
from tests.common.vector_outcomes import write_outcomes

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import COMMANDS, bisect, clause, eras, export, main, measure
from tal_conformance.commands.program import CommandError
from tal_conformance.commands.results import SCHEMA, collected_result, set_result
from tal_conformance.dialects import bisection
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics_losses import parsed
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.registry import find
from tal_conformance.mutation.vectors import VectorBatch, write_vectors
from tal_reference import NEWEST
from tal_reference.eras import dialect_of

ROOT = Path(__file__).parents[3]
DOCUMENTATION = (ROOT / "docs" / "command-line.md").read_text(encoding="utf-8")
ADAPTER = "class Adapter:\n    def loss(self, *arguments):\n        return None\n"
Patch = pytest.MonkeyPatch
Capture = pytest.CaptureFixture[str]


def documented_fields(command: str) -> set[str]:
    """Return the names of the fields of a command's result, as its row of the documentation lists them."""
    (row,) = re.findall(
        rf"(?m)^\| `{command}` \| (.*`.*) \|$", DOCUMENTATION.partition("Fields of `result`")[2]
    )
    groups = [group.partition(":")[0] for group in re.split(r"[;.] ", row)]
    return {name for group in groups for name in re.findall(r"`(\w+)`", group) if "." not in name}


def release(name: str) -> Implementation:
    """Return the reference in the dialect of the named release; it stands for the release."""
    dialect = dialect_of(parsed(name.removeprefix("ultralytics==")))
    return replace(implementation_from(ReferenceAdapter(dialect), name), dialect=dialect)


def small_case(folder: Path) -> str:
    path = folder / "case.safetensors"
    Recipe(((Truth("ordinary"), Truth("tiny")),), classes=2, predictions="near").build().save(path)
    return str(path)


def of_init(folder: Path, patch: Patch) -> list[str]:
    (folder / "mine.py").write_text(ADAPTER)
    return ["init", "new.py", "--from", "mine.py:Adapter"]


def of_replay(folder: Path, patch: Patch) -> list[str]:
    return ["replay", small_case(folder), "--implementation", "reference", "--implementation", "article"]


def of_doctor(folder: Path, patch: Patch) -> list[str]:
    return ["doctor", small_case(folder)]


def of_explain(folder: Path, patch: Patch) -> list[str]:
    return ["explain", small_case(folder), "--gt", "0"]


def of_diff(folder: Path, patch: Patch) -> list[str]:
    patch.setattr("tal_conformance.dialects.comparison.BATCHES_PER_STRATEGY", 1)
    patch.setattr("tal_conformance.dialects.comparison.ORDINARY_BATCHES", 2)
    patch.setattr("tal_conformance.dialects.comparison.strategies_for", lambda implementation: [])
    patch.setattr("tal_conformance.commands.diff.find", release)
    return ["diff", "ultralytics==8.4.127", "ultralytics==8.4.128"]


def of_bisect(folder: Path, patch: Patch) -> list[str]:
    for module in (bisect, bisection):
        patch.setattr(module, "find", release)
    patch.setattr(bisect, "published", lambda first, last: [(8, 4, number) for number in range(126, 130)])
    return ["bisect", "8.4.126..8.4.129"]


def of_clause(folder: Path, patch: Patch) -> list[str]:
    return ["clause", "TAL-CAND"]


def of_findings(folder: Path, patch: Patch) -> list[str]:
    return ["findings"]


def of_eras(folder: Path, patch: Patch) -> list[str]:
    patch.setattr(eras, "select_releases", lambda *_: [])
    return ["eras"]


def of_record(folder: Path, patch: Patch) -> list[str]:
    (folder / "train.py").write_text("print('training')\n")
    return ["record", "--", "train.py"]


def of_overhead(folder: Path, patch: Patch) -> list[str]:
    ratio = {"at": 1.0, "low": 0.9, "high": 1.1}
    from tal_conformance.benchmarks.intervals import Ratio
    from tal_conformance.commands import overhead

    patch.setattr(overhead, "steps", lambda: {"training step": lambda: None})
    patch.setattr(overhead, "compared", lambda *arguments: (Ratio(**ratio), 0.2))
    return ["overhead"]


def of_measure(folder: Path, patch: Patch) -> list[str]:
    patch.setattr(measure, "STRATEGIES", dict(list(measure.STRATEGIES.items())[:1]))
    return ["measure", "--examples", "1", "--implementation", "reference"]


def of_export(folder: Path, patch: Patch) -> list[str]:
    batch = Recipe(((Truth("ordinary"),),), classes=2, predictions="near").build()
    patch.setattr(export, "batches_of_checks", lambda *arguments: [VectorBatch(batch, "loss", ("loss",))])
    return ["export", str(folder / "vectors"), "--profile", "dev"]


def of_judge(folder: Path, patch: Patch) -> list[str]:
    (folder / "vectors").mkdir()
    batch = Recipe(((Truth("ordinary"),),), classes=2, predictions="near").build()
    facts = {"task": "detect", "profile": "dev", "left_out": []}
    write_vectors(
        folder / "vectors", [VectorBatch(batch, "loss", ("loss",))], NEWEST, facts, "tal-conformance 0"
    )
    write_outcomes(folder / "vectors", ReferenceAdapter())
    return ["judge", str(folder / "vectors"), "--report-dir", str(folder / "runs")]


CHEAP: dict[str, Callable[[Path, Patch], list[str]]] = {
    "init": of_init,
    "replay": of_replay,
    "doctor": of_doctor,
    "explain": of_explain,
    "diff": of_diff,
    "bisect": of_bisect,
    "clause": of_clause,
    "findings": of_findings,
    "eras": of_eras,
    "record": of_record,
    "overhead": of_overhead,
    "export": of_export,
    "judge": of_judge,
    "measure": of_measure,
}
"""Function by command that prepares a use of the command of about a second, and returns the command's arguments."""
EXPENSIVE: dict[str, tuple[list[str], str]] = {
    "identify": (
        ["identify", "reference", "--seconds", "1"],
        "it judges hundreds of batches by every dialect",
    ),
    "power": (
        ["power", "eps_on_the_width", "--profile", "dev", "--report-dir", "runs"],
        "it writes a whole run",
    ),
}
"""Arguments of each other command, and the reason why its use is not cheap."""
ABSENT_WITHOUT_DRAFT = {"missing", "batches", "conforming", "raised", "failing", "differing", "cause"}
"""Fields of `init` that are absent if NAME is an adapter already, so that nothing is tried."""


def json_of(arguments: list[str], capture: Capture) -> dict[str, Any]:
    """Run a command with `--json` and return the printed object, after checks that hold for every command."""
    status = main([arguments[0], "--json", *arguments[1:]])
    line = capture.readouterr().out
    assert line.count("\n") == 1
    assert line.endswith("\n")
    printed = json.loads(line)
    assert list(printed) == ["schema", "command", "version", "status", "meaning", "error", "result"]
    assert all(f"| `{name}` | " in DOCUMENTATION for name in printed)
    assert (printed["schema"], printed["command"], printed["status"]) == (SCHEMA, arguments[0], status)
    assert printed["meaning"] == ("" if printed["error"] else COMMANDS[arguments[0]].statuses[status])
    return dict(printed)


def test_every_command_is_tested():
    assert {*CHEAP, *EXPENSIVE} == {*COMMANDS}
    assert not {*CHEAP} & {*EXPENSIVE}


@pytest.mark.parametrize("command", CHEAP)
def test_the_result_has_the_documented_fields(
    command: str, tmp_path: Path, monkeypatch: Patch, capsys: Capture
):
    monkeypatch.chdir(tmp_path)
    printed = json_of(CHEAP[command](tmp_path, monkeypatch), capsys)
    assert printed["error"] is None
    absent = ABSENT_WITHOUT_DRAFT if command == "init" else set()
    assert {*printed["result"]} == documented_fields(command) - absent


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("command", EXPENSIVE)
def test_the_result_of_an_expensive_command_has_the_documented_fields(
    command: str, tmp_path: Path, monkeypatch: Patch, capsys: Capture
):
    monkeypatch.chdir(tmp_path)
    printed = json_of(EXPENSIVE[command][0], capsys)
    assert {*printed["result"]} == documented_fields(command)


def test_results_are_those_of_the_text(tmp_path: Path, monkeypatch: Patch, capsys: Capture):
    monkeypatch.chdir(tmp_path)
    (change,) = json_of(of_bisect(tmp_path, monkeypatch), capsys)["result"]["changes"]
    assert (change["clause"], change["until"], change["since"]) == ("TAL-CAND-2", "8.4.127", "8.4.128")
    assert change["choice"] == "small_box_floor"
    (case,) = json_of(of_replay(tmp_path, monkeypatch), capsys)["result"]["cases"]
    first, second = case["outcomes"]
    assert (first["verdict"], first["stages"]["total"]["state"]) == ("within_bound", "agrees")
    assert Path(second["picture"]).is_file()
    (difference,) = json_of(of_diff(tmp_path, monkeypatch), capsys)["result"]["differences"]
    assert (difference["clause"], difference["share"]) == ("TAL-CAND-2", pytest.approx(0.5, abs=0.5))


def test_an_error_is_part_of_the_object(tmp_path: Path, monkeypatch: Patch, capsys: Capture):
    monkeypatch.chdir(tmp_path)
    assert json_of(["clause", "TAL-CAMD-2"], capsys)["error"].startswith(
        "unknown clause 'TAL-CAMD-2'; did you"
    )
    assert "'nobody'" in json_of(["identify", "nobody"], capsys)["error"]
    missing = json_of(["replay", "nothing.safetensors"], capsys)
    assert (missing["status"], len(missing["result"]["problems"])) == (2, 1)
    assert "nothing to record" in json_of(["record"], capsys)["error"]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (KeyboardInterrupt(), 130, "interrupted"),
        (CommandError("a page that cannot be written", 1), 1, "a page that cannot be written"),
    ],
)
def test_what_was_found_before_an_error_is_printed(
    error: BaseException, status: int, message: str, monkeypatch: Patch, capsys: Capture
):
    def run(options: object) -> int:
        set_result(clauses=[])
        raise error

    monkeypatch.setattr(clause, "run", run)
    printed = json_of(["clause", "TAL-CAND-1"], capsys)
    assert (printed["status"], printed["error"], printed["result"]) == (status, message, {"clauses": []})


def test_an_exception_is_printed_and_raised(monkeypatch: Patch, capsys: Capture):
    def run(options: object) -> int:
        raise ZeroDivisionError("by zero")

    monkeypatch.setattr(clause, "run", run)
    with pytest.raises(ZeroDivisionError):
        main(["clause", "--json", "TAL-CAND-1"])
    printed = json.loads(capsys.readouterr().out)
    assert (printed["status"], printed["error"]) == (1, "ZeroDivisionError: by zero")


def test_output_of_native_code_and_of_children_goes_to_standard_error(capfd: Capture):
    with collected_result() as result:
        print("from Python")
        subprocess.run(["echo", "from a child"], check=True)
        set_result(number=1)
    print("after")
    out, err = capfd.readouterr()
    assert out == "after\n"
    assert {"from Python", "from a child"} <= {*err.splitlines()}
    assert result.fields == {"number": 1}
    set_result(number=2)
    assert result.fields == {"number": 1}


def test_hostile_text_stays_valid_json_and_harmless(monkeypatch: Patch, capsys: Capture):
    hostile = "##[error]\n::error::x\x1b[2J\u202e\ud800"

    def run(options: object) -> int:
        raise CommandError(hostile)

    monkeypatch.setattr(clause, "run", run)
    main(["clause", "--json", "TAL-CAND-1"])
    line = capsys.readouterr().out
    assert json.loads(line)["error"] == hostile
    assert line.isascii()
    assert line.rstrip("\n").isprintable()
    assert "##[" not in line
    assert not re.search(r"(?m)^\s*::", line)


@pytest.mark.slow
def test_a_command_whose_process_ends_has_no_status(tmp_path: Path):
    (tmp_path / "train.py").write_text("import os\nprint('training')\nos._exit(0)\n")
    command = [sys.executable, "-m", "tal_conformance", "record", "--json", "--", "train.py"]
    done = subprocess.run(
        command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, check=False, timeout=120
    )
    printed = json.loads(done.stdout)
    assert (printed["status"], printed["result"]) == (None, {})
    assert "before the work had ended" in printed["error"]
    assert done.returncode == 1


def test_the_found_implementation_has_its_name_and_dialect(
    tmp_path: Path, monkeypatch: Patch, capsys: Capture
):
    monkeypatch.chdir(tmp_path)
    (described,) = json_of(of_measure(tmp_path, monkeypatch), capsys)["result"]["implementations"]
    reference = find("reference")
    assert described == {
        "name": "reference", "version": reference.version, "dialect": reference.dialect.name,
    }  # fmt: skip
