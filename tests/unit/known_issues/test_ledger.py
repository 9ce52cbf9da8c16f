"""The ledger of known issues excuses exactly its recorded divergences; an outdated entry fails the run."""

import subprocess
import sys
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any, cast

import pytest

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.hazards.catalogue import HAZARDS
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import TASKS
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.known_issues.ledger import BUNDLED, InvalidLedger, KnownIssue, read_ledger
from tal_conformance.known_issues.predicates import PREDICATES
from tal_conformance.known_issues.standing import State, standings
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.run_log import RunLogWriter
from tal_conformance.suite.session import SessionState, note_ledger
from tal_reference import DIALECTS, NEWEST
from tal_reports import RunLog, read_log, render, summarise

ROOT = Path(__file__).parents[3]
TODAY = date(2026, 1, 1)
SMALL = Recipe(images=((Truth("ordinary"),),), strides=(8, 16))
"""The smallest batch on which the assigners before and after release 8.4.128 have different candidates."""
LARGE = Recipe(images=((Truth("huge"),),), strides=(8, 16))
"""A batch on which the assigners before and after release 8.4.128 agree."""

GOOD = """
[[entry]]
id = "floor-too-low"
implementations = ["mine"]
versions = ">=1.0, <2"
devices = ["cpu"]
clause = "TAL-CAND-2"
stage = "candidates"
when = ["small_8_16"]
reason = "it widens below the first stride alone"
link = "https://example.org/1"
owner = "somebody"
expires = 2026-06-01
"""


def ledger(folder: Path, text: str = GOOD) -> Path:
    path = folder / "ledger.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.fixture
def entry(tmp_path: Path) -> KnownIssue:
    (found,) = read_ledger(ledger(tmp_path))
    return found


def mine(version: str = "1.2", name: str = "mine") -> Subject:
    """Return an adapter that behaves like 8.4.127, but declares the newest dialect, with its device."""
    made = implementation_from(ReferenceAdapter(DIALECTS["ultralytics-8.4.127"]), name)
    return Subject(replace(made, name=name, version=version, dialect=NEWEST), "cpu")


def conformance(folder: Path, entries: tuple[KnownIssue, ...], subject: Subject | None = None) -> Checker:
    subject = subject or mine()
    recorder = RunLogWriter(RunLog.create(folder, "run"))
    facts = {"name": "mine", "version": "1.2", "dialect": NEWEST.name, "capabilities": ["loss"]}
    recorder.begin(
        {"profile": "dev", "seed": "1", "command": ["pytest"], "devices": {"cpu": "tested"}, "hazards": {},
         "implementations": [facts]}
    )  # fmt: skip
    return Checker(subject, recorder, "test_something", "TAL", known_issues=entries)


def test_what_is_on_record_is_known(tmp_path: Path, entry: KnownIssue):
    conforms = conformance(tmp_path, (entry,))
    conforms(SMALL)
    conforms(LARGE)
    assert conforms.excused == 1
    cast("RunLogWriter", conforms.sink).end(0)
    log = read_log(tmp_path / "run")
    (one,) = summarise(log)["implementations"]
    assert one["verdicts"][Verdict.KNOWN] == 1
    assert one["result"] == "conforms"
    place = "floor-too-low", "mine", "cpu"
    assert log.batches.met == {place: 1}
    assert log.batches.known == {place: 1}


@pytest.mark.parametrize(
    "changed",
    [
        {"stage": "overlap"},
        {"stage": "normalisation"},
        {"clause": "TAL-CAND-1"},
        {"stage": "error", "says": "a"},
        {"when": ("huge",)},
        {"when": ("small_8_16", "padding")},
        {"says": "something else"},
    ],
    ids=str,
)
def test_what_is_not_on_record_is_not_excused(tmp_path: Path, entry: KnownIssue, changed: dict):
    """A ledger entry for another stage, clause, batch or text does not excuse a failure."""
    conforms = conformance(tmp_path, (replace(entry, **changed),))
    with pytest.raises(Failure):
        conforms(SMALL)
    assert read_log(tmp_path / "run").batches.verdicts("mine") == {"divergent": 1}


class TwoFaults(ReferenceAdapter):
    """An adapter with the divergence that the test's ledger lists, and a class loss that is three times too large."""

    def loss(self, *arguments: Any) -> Loss:
        honest = super().loss(*arguments)
        factors = honest.items.new_tensor((1, 3, 1))
        return replace(honest, total=honest.total * factors, items=honest.items * factors)


def test_a_second_fault_behind_one_on_record_is_found(tmp_path: Path, entry: KnownIssue):
    made = implementation_from(TwoFaults(DIALECTS["ultralytics-8.4.127"]), "mine")
    subject = Subject(replace(made, version="1.2", dialect=NEWEST), "cpu")
    with pytest.raises(Failure) as caught:
        conformance(tmp_path, (entry,), subject)(SMALL)
    assert {"candidates", "cls"} <= caught.value.stages
    on_record = replace(entry, follows=tuple(caught.value.stages - {"candidates"}))
    known = conformance(tmp_path / "known", (on_record,), subject)
    known(SMALL)
    assert known.excused == 1


@pytest.mark.parametrize(
    ("subject", "concerned"),
    [
        (mine(), True),
        (mine("1.0"), True),
        (mine("2.0"), False),
        (mine("0.9"), False),
        (mine("unknown"), False),
        (mine(name="other"), False),
        (mine(name="mine==1.2"), True),
        (replace(mine(), device="cuda"), False),
    ],
)
def test_whom_it_concerns(entry: KnownIssue, subject: Subject, concerned: bool):
    assert entry.concerns(subject) is concerned


def state(entry: KnownIssue, met: int, known: int, whole: bool = True, today: date = TODAY) -> State:
    place = entry.id, "mine", "cpu"
    (found,) = standings([entry], [mine()], {"met": {place: met}, "known": {place: known}}, whole, today)
    assert (found.problem is not None) is (found.state in (State.UNMET, State.HEALED, State.EXPIRED))
    return found.state


def test_standings(entry: KnownIssue):
    assert state(entry, 9, 2) is State.MATCHED
    assert state(entry, 9, 0) is State.HEALED
    assert state(entry, 0, 0) is State.UNMET
    assert state(entry, 0, 0, whole=False) is State.OPEN
    assert state(entry, 9, 0, whole=False) is State.OPEN
    assert state(entry, 9, 2, today=date(2026, 5, 31)) is State.MATCHED
    assert state(entry, 9, 2, whole=False, today=date(2026, 6, 1)) is State.EXPIRED
    assert not list(standings([entry], [mine("3.0")], {"met": {}, "known": {}}, True, TODAY))


FAULTS = {
    "unknown key 'expiry'": GOOD + 'expiry = "x"',
    "'owner' is missing": GOOD.replace('owner = "somebody"', ""),
    "unknown task 'obbs'": GOOD + 'tasks = ["obbs"]',
    "unknown stage 'one2many/candidates'": GOOD.replace('"candidates"', '"one2many/candidates"'),
    "unknown stage 'candidate'": GOOD.replace('"candidates"', '"candidate"'),
    "unknown predicate 'smal'": GOOD.replace('"small_8_16"', '"smal"'),
    "unknown device 'tpu'": GOOD.replace('"cpu"', '"tpu"'),
    "is not the name of a clause": GOOD.replace("TAL-CAND-2", "CANDIDATES"),
    "unknown clause 'META-MIROR'; did you mean 'META-MIRROR'": GOOD.replace("TAL-CAND-2", "META-MIROR"),
    "must be a version specifier": GOOD.replace(">=1.0, <2", "one"),
    "must be a date": GOOD.replace("2026-06-01", '"2026-06-01"'),
    "must be a list of at least one name": GOOD.replace('["small_8_16"]', "[]"),
    "must be a non-empty string": GOOD.replace('"somebody"', "7"),
    "must quote the exception's message in 'says'": GOOD.replace('"candidates"', '"error"'),
    "an earlier entry has the same id": GOOD + GOOD,
    "not valid TOML": "[[entry",
    "is an unknown table": "[[entrys]]\nid = 1",
    "two brackets": "[entry]\nid = 1",
}


@pytest.mark.parametrize("says", FAULTS)
def test_an_invalid_ledger(tmp_path: Path, says: str):
    with pytest.raises(InvalidLedger, match=says) as caught:
        read_ledger(ledger(tmp_path, FAULTS[says]))
    assert "ledger.toml" in str(caught.value)


@pytest.mark.parametrize(
    "text", [f"a = {'9' * 5000}", f"a = {'[' * 5000}{']' * 5000}"], ids=["5,000 digits", "5,000 lists"]
)
def test_toml_that_python_refuses_to_read_is_an_invalid_ledger(tmp_path: Path, text: str):
    """An integer of 5,000 digits and 5,000 nested lists are reported as invalid TOML, in a short message."""
    with pytest.raises(InvalidLedger, match="not valid TOML") as caught:
        read_ledger(ledger(tmp_path, text))
    assert len(str(caught.value)) < 600


def test_a_missing_ledger(tmp_path: Path):
    with pytest.raises(InvalidLedger, match="cannot read the ledger"):
        read_ledger(tmp_path / "none.toml")


def test_the_bundled_ledger_can_be_read():
    read_ledger(BUNDLED)
    assert set(HAZARDS) < set(PREDICATES)


MINE = """
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_reference import DIALECTS, NEWEST

class Mine:
    name, version, dialect, exposes_stages = "mine", "1.2", NEWEST, True
    does = ReferenceAdapter(DIALECTS["{dialect}"])

    def assign(self, inputs):
        return self.does.assign(inputs)
"""


def run(folder: Path, text: str, dialect: str = "ultralytics-8.4.127") -> tuple[int, str]:
    (folder / "mine.py").write_text(MINE.format(dialect=dialect), encoding="utf-8")
    command = [
        *(sys.executable, "-m", "pytest", "conformance", "-p", "no:cacheprovider", "-q"),
        *(
            "--report-dir",
            folder / "runs",
            "--implementation",
            f"{folder / 'mine.py'}:Mine",
            "--device",
            "cpu",
        ),
        *(
            "--ledger",
            ledger(folder, text),
            "-k",
            "test_small_boxes",
            "--examples",
            "60",
            "--hypothesis-seed",
            "0",
        ),
    ]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.slow
def test_a_run_with_an_invalid_ledger_ends_before_it_creates_its_folder(tmp_path: Path):
    status, said = run(tmp_path, "entry = [")
    assert status == pytest.ExitCode.USAGE_ERROR, said
    assert "cannot read the ledger" in said
    assert not (tmp_path / "runs").exists()


EVERYWHERE = GOOD.replace('"small_8_16"', '"any_batch"').replace("2026-06-01", "2999-01-01")


@pytest.mark.slow
def test_a_run_with_a_divergence_on_record(tmp_path: Path):
    """A run with one divergence in the ledger passes. Log, summary and report state its reason and expiry."""
    status, said = run(tmp_path, EVERYWHERE)
    assert status == 0, said
    folder = (tmp_path / "runs" / "latest").resolve()
    log = read_log(folder)
    (line,) = log.ledger
    assert (line["state"], line["expires"]) == ("matched", "2999-01-01")
    assert line["known"] > 0
    assert summarise(log)["ledger"][0]["entry"] == "floor-too-low"
    html = render(folder).read_text(encoding="utf-8")
    for words in (
        "Known issues",
        "it widens below the first stride alone",
        "https://example.org/1",
        "2999-01-01",
    ):
        assert words in html


@pytest.mark.slow
def test_a_run_with_an_entry_that_has_expired(tmp_path: Path):
    """An expired ledger entry fails the run of a conforming adapter."""
    status, said = run(tmp_path, EVERYWHERE.replace("2999", "2020"), dialect=NEWEST.name)
    assert status == 1
    assert "ledger entry floor-too-low (mine-cpu) expired on 2020-01-01" in said
    assert "its owner is somebody" in said


@pytest.mark.parametrize(
    ("recipe", "says"),
    [(LARGE, "is unused: no batch of this run satisfied small_8_16"), (SMALL, "no longer")],
)
def test_a_whole_run_in_which_nothing_was_excused(
    tmp_path: Path, entry: KnownIssue, recipe: Recipe, says: str
):
    """A ledger entry that matches no batch fails a whole run, but not a partial run."""
    entry = replace(entry, expires=date(2999, 1, 1))
    mended = mine()
    mended = replace(mended, implementation=replace(mended.implementation, adapter=ReferenceAdapter(NEWEST)))
    conforms = conformance(tmp_path, (entry,), mended)
    conforms(recipe)
    run = SessionState(conforms.sink, "1", {"cpu": "tested"}, [mended.implementation], ledger=(entry,))
    note_ledger(run, whole=False)
    assert run.stale == []
    note_ledger(run, whole=True)
    (problem,) = run.stale
    assert says in problem
    assert [line["fails"] for line in read_log(run.folder).ledger] == [False, True]


@pytest.mark.slow
def test_an_invalid_ledger_stops_the_run_before_anything_is_judged(tmp_path: Path):
    status, said = run(tmp_path, FAULTS["unknown key 'expiry'"])
    assert status == 4
    assert "entry 1 (floor-too-low): unknown key 'expiry'" in said


@pytest.mark.parametrize("tasks", [("detect",), ("obb",), ("detect", "obb")], ids=" ".join)
def test_an_entry_concerns_its_tasks_alone(tmp_path: Path, tasks: tuple[str, ...]):
    """A run has a row for each task of an implementation: an entry of one must not count as solved in another."""
    text = GOOD if tasks == ("detect",) else GOOD + f"tasks = {list(tasks)}"
    (entry,) = read_ledger(ledger(tmp_path, text))
    rows = {task: replace(mine().implementation, tasks=(task,)) for task in TASKS}
    assert {task for task, row in rows.items() if entry.concerns(Subject(row, "cpu"))} == set(tasks)
