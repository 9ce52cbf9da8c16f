"""Mutants: their generation, names and installation, and the report of each result of a child process."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import tal_reference
from tal_conformance.checks.registry import CHECKS
from tal_conformance.commands import main
from tal_conformance.implementations.registry import find
from tal_conformance.mutation import kill_matrix as matrix
from tal_conformance.mutation.operators import (
    Mutant,
    Place,
    fingerprint,
    mutants_of,
    operators,
    places,
    statement_at,
)
from tal_conformance.mutation.plant import modes_of
from tal_conformance.mutation.planted_faults import FAULTS
from tal_conformance.mutation.process_pool import MutantOutcome, in_processes, judge_mutant, start
from tal_conformance.mutation.targets import OFFICIAL, official, watching
from tal_conformance.mutation.targets import reference as reference_target
from tal_conformance.mutation.trials import BaselineOutcomes, GeneratedCase, collect, equal_outcomes, in_turn
from tal_reference import NEWEST

pytest.importorskip("cosmic_ray")

SOURCE = '''
import functools


def doubled(function):
    @functools.wraps(function)
    def inner(*arguments, **named):
        return 2 * function(*arguments, **named)

    return inner


class Base:
    def offset(self):
        return 1


class Sum(Base):
    @doubled
    def total(self, values, start=3, factor=1):
        """Sum of 1 and 2."""
        if len(values) > 2:
            start = start + 5
        return (sum(values) + start) * factor + super().offset()

    @property
    def size(self):
        return 7

    @staticmethod
    def text(value):
        return str(value).strip().upper()


def unused(value):
    return -value
'''


@pytest.fixture
def module(tmp_path: Path) -> Iterator[ModuleType]:
    path = tmp_path / "planted_module.py"
    path.write_text(SOURCE, encoding="utf-8")
    loaded = ModuleType("planted_module")
    loaded.__file__ = str(path)
    sys.modules["planted_module"] = loaded  # inspect finds the source of a class by its module
    exec(compile(SOURCE, str(path), "exec"), vars(loaded))
    yield loaded
    del sys.modules["planted_module"]


def mutant(place: Place, operator: str, occurrence: int = 0) -> Mutant:
    (found,) = (
        each for each in mutants_of(place) if (each.operator, each.occurrence) == (operator, occurrence)
    )
    return found


def planted(place: Place, operator: str, occurrence: int = 0) -> None:
    place.put(mutant(place, operator, occurrence).text, place.source()[1])


def test_places_are_the_functions_a_class_defines_itself(module: ModuleType):
    assert [place.function for place in places(module, ["Sum", "unused", "absent"])] == [
        "Sum.total", "Sum.size", "Sum.text", "unused",
    ]  # fmt: skip


def test_a_mutant_runs_for_everybody_who_holds_the_function(module: ModuleType):
    held = vars(module)["Sum"]().total
    assert held([1]) == 2 * (1 + 3 + 1)
    planted(Place(module, "Sum.total"), "ReplaceBinaryOperator_Add_Mul", 1)
    assert held([2]) == 2 * (2 * 3 + 1)  # super() still finds the base class


def test_defaults_properties_static_methods_and_decorators_are_changed_too(module: ModuleType):
    summing = vars(module)["Sum"]()
    planted(Place(module, "Sum.total"), "NumberReplacer", 0)
    assert summing.total([1]) == 2 * (1 + 4 + 1)
    planted(Place(module, "Sum.size"), "NumberReplacer", 1)
    assert summing.size == 6
    planted(Place(module, "Sum.text"), "RemoveMethodCall", 1)
    assert summing.text(" a ") == "a"
    planted(Place(module, "Sum.total"), "RemoveDecorator")
    assert summing.total([1]) == 1 + 4 + 1 - 1  # a mutant is made from the file: the earlier change is gone


def test_what_compiles_to_the_same_is_no_mutant(module: ModuleType):
    place = Place(module, "Sum.total")
    text, first = place.source()
    mutants = mutants_of(place)
    prints = {fingerprint(place.built(each.text, first)) for each in mutants}
    assert len(prints) == len(mutants)
    assert fingerprint(place.built(text, first)) not in prints
    assert len({each.id for each in mutants}) == len(mutants)


def test_names_say_nothing_of_the_file(module: ModuleType):
    names = {each.id for each in mutants_of(Place(module, "Sum.total"))}
    assert all(name.startswith("planted_module.Sum.total ") and len(name.split()) == 4 for name in names)
    moved = "\n\n\n" + SOURCE
    path = Path(str(module.__file__))
    path.write_text(moved, encoding="utf-8")
    exec(compile(moved, str(path), "exec"), vars(module))
    import linecache

    linecache.checkcache()
    assert {each.id for each in mutants_of(Place(module, "Sum.total"))} == names


def test_only_what_runs_is_changed(module: ModuleType):
    chosen = tuple(places(module, ["Sum", "unused"]))
    with watching(chosen) as seen:
        vars(module)["Sum"]().total([1], start=9)
    total, size = chosen[0], chosen[1]
    assert not seen[size]
    assert "factor" in seen[total]
    assert "start" not in seen[total]
    made = {(each.operator, each.occurrence) for each in mutants_of(total, seen[total])}
    everything = {(each.operator, each.occurrence) for each in mutants_of(total)}
    assert {("NumberReplacer", 0), ("NumberReplacer", 1)} <= everything - made  # start's default, unused
    assert {("NumberReplacer", 2), ("NumberReplacer", 3)} <= made  # the default of `factor`
    assert {("NumberReplacer", 6), ("NumberReplacer", 7)} <= everything - made  # + 5, in a branch not taken
    assert mutants_of(size, seen[size]) == []
    assert made < everything


def test_what_the_original_runs_its_copy_does_not(module: ModuleType):
    """The executed lines of a function are not recorded as lines of its copy, although both have equal code."""
    original: dict[str, Any] = {}
    exec(compile(SOURCE, str(module.__file__), "exec"), original)
    (place,) = places(module, ["unused"])
    assert original["unused"].__code__ == place.live.__code__
    with watching((place,)) as seen:
        original["unused"](1)
    assert not seen[place]
    with watching((place,)) as seen:
        vars(module)["unused"](1)
    assert seen[place]


def test_every_operator_is_one_of_the_library_or_says_why_not():
    assert len(operators()) > 40
    own = [name for name, each in operators().items() if type(each).__module__.startswith("tal_conformance")]
    assert own == ["RemoveMethodCall"]


def test_official_places_are_all_found():
    found = {place.function.partition(".")[0] for place in official().places}
    assert found == {name for names in OFFICIAL.values() for name in names}


def test_the_judge_keeps_its_reference():
    before = {name: vars(tal_reference)[name] for name in tal_reference.__all__}
    modules = {name: value for name, value in sys.modules.items() if name.startswith("tal_reference")}
    target = reference_target()
    assert {name: vars(tal_reference)[name] for name in tal_reference.__all__} == before
    assert {name: value for name, value in sys.modules.items() if name.startswith("tal_reference")} == modules
    ours = vars(sys.modules["tal_reference.assignment"])["top_k"]
    copied = next(place for place in target.places if place.function == "top_k")
    assert copied.live is not getattr(ours, "__wrapped__", ours)


def trials(number: int = 6) -> list[GeneratedCase]:
    checks = [CHECKS[name] for name in ("loss", "small_boxes", "conflict", "metric")]
    return list(in_turn([group for check in checks for group in collect(check, NEWEST, number)]))


@pytest.fixture(scope="module")
def batches() -> list[GeneratedCase]:
    return trials()


def killed(
    target_place: tuple[Any, str], operator: str, batches: list[GeneratedCase], occurrence: int = 0
) -> MutantOutcome:
    target, function = target_place
    place = next(each for each in target.places if each.function == function)
    made = matrix.planted(place, mutant(place, operator, occurrence), target.implementation)
    ((_, ended),) = in_processes(iter([("one", made, None)]), batches, None, None, 1)
    return ended


def test_the_unchanged_code_lives_and_a_mutant_is_killed_in_its_own_process(batches: list[GeneratedCase]):
    target = official()
    assert judge_mutant(target.implementation, batches).test is None
    ended = killed((target, "dist2bbox"), "ReplaceBinaryOperator_Sub_Add", batches)
    assert ended.test is not None
    assert 1 <= ended.batches <= len(batches)
    # the mutant was not installed in this process
    assert judge_mutant(target.implementation, batches).test is None


def test_the_unchanged_copy_of_the_reference_lives_and_runs_none_of_the_original(
    batches: list[GeneratedCase],
):
    """The copy of the reference conforms, and its losses run the copied functions, which mutants replace."""
    target = reference_target()
    with watching(target.places) as seen:
        assert judge_mutant(target.implementation, batches).test is None
    assert {"dfl_loss", "boxes_around"} <= {place.function for place, lines in seen.items() if lines}


@pytest.mark.slow
@pytest.mark.long
def test_a_mutant_of_the_reference_is_killed_by_the_command(tmp_path: Path):
    """`power --mutants reference`, in a new process, kills a mutant of the reference's `boxes_around`."""
    done = subprocess.run(
        [sys.executable, "-m", "tal_conformance", "power", "--mutants", "reference", "--examples", "4",
         "--only", "*.boxes_around ReplaceBinaryOperator_Sub_Add *", "--report-dir", str(tmp_path)],
        cwd=Path(tal_reference.__file__).parents[1], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    assert "reference: 1 mutants: 1 killed" in done.stdout
    (latest,) = tmp_path.glob("2*")
    power = json.loads((latest / "summary.json").read_text(encoding="utf-8"))["power"]
    assert power["ci"]["killed"] == power["ci"]["mutants"] == 1


@pytest.mark.slow
@pytest.mark.long
def test_mutants_and_planted_faults_are_one_run(tmp_path: Path):
    """One call of the command `power` judges a planted fault and a pair of dialects in a single run."""
    code = (
        "import sys; from pathlib import Path; from tal_conformance.commands.mutation import run_mutation_tests as go; "
        "sys.exit(go(Path(sys.argv[1]), ['nine_for_ten'], ['history'], examples=2, only='*8.0.6 for *'))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)],
        cwd=Path(tal_reference.__file__).parents[1], capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (run,) = tmp_path.glob("2*")
    power = json.loads((run / "summary.json").read_text(encoding="utf-8"))["power"]
    planted = len(modes_of(FAULTS["nine_for_ten"]))
    assert (power["ci"]["mutants"], power["ci"]["survived"]) == (planted + 1, 0)  # + a pair of dialects


def test_what_is_known_to_conform_is_not_judged_again(batches: list[GeneratedCase]):
    known = BaselineOutcomes()
    implementation = find("reference")
    assert judge_mutant(lambda: implementation, batches, baseline=known).test is None
    assert set(known.outcomes) == {id(trial) for trial in batches}
    known.learns = False
    refusing = [GeneratedCase(each.test, each.build, each.by) for each in batches]
    known.outcomes = {id(new): known.outcomes[id(old)] for new, old in zip(refusing, batches, strict=True)}
    assert judge_mutant(lambda: implementation, refusing, baseline=known).test is None


def test_same_is_about_every_number_and_dtype():
    one = torch.tensor([1.0, float("nan")])
    assert equal_outcomes((one, [None]), (one.clone(), [None]))
    for other in (one.double(), torch.tensor([1.0, 2.0]), torch.tensor([2.0, float("nan")]), one[:1], None):
        assert not equal_outcomes((one,), (other,))


class Exits:
    """An implementation whose `assign` ends the process, sleeps, or allocates too much memory."""

    name, version, dialect = "exits", "1", NEWEST

    def __init__(self, how: str) -> None:
        self.how = how

    def assign(self, inputs: Any) -> Any:
        if self.how == "dies":
            os._exit(7)
        if self.how == "hangs":
            time.sleep(60)
        return torch.ones(2**34)


@pytest.mark.parametrize(("how", "stage"), [("dies", "death"), ("hangs", "hang"), ("eats memory", "error")])
def test_one_that_ends_its_process_is_killed(how: str, stage: str, batches: list[GeneratedCase]):
    from tal_conformance.implementations.protocol import implementation_from

    child = start(lambda: implementation_from(Exits(how), "exits"), batches, timeout=1)
    _, status = os.waitpid(child.pid, 0)
    ended = child.outcome(status, batches)
    assert (ended.test, ended.stage, ended.batches) == ("test_loss", stage, 1)


def result(mutant_id: str, test: str | None) -> matrix.Result:
    stage = None if test is None else "box"
    return matrix.Result(mutant_id, "official", "f", "key", MutantOutcome(test, stage, 3, 0.1))


def test_an_argued_mutant_that_is_killed_is_an_error():
    arguments = {"tal.f Add* 0 *": "because"}
    name = "tal.f AddNot 0 12345678"
    assert matrix.result_of(result(name, None), arguments) == "equivalent"
    assert matrix.result_of(result(name, "test_loss"), arguments) == "elsewhere"
    assert matrix.result_of(result("tal.g AddNot 0 12345678", None), arguments) == "survived"
    assert matrix.result_of(result("tal.g AddNot 0 12345678", "test_loss"), arguments) == "killed"


def test_every_entry_has_an_argument(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    assert all(text.strip() for text in matrix.equivalent_mutants().values())
    path = tmp_path / "equivalent.toml"
    path.write_text('[[equivalent]]\nmutants = "x"\nbecause = " "\n')
    monkeypatch.setattr(matrix, "EQUIVALENT", path)
    with pytest.raises(ValueError, match="the entry for the mutants 'x' has no reason"):
        matrix.equivalent_mutants()


@pytest.mark.slow
@pytest.mark.long
def test_it_goes_on_where_it_stopped(tmp_path: Path):
    batches = trials(1)
    target = official()
    place = next(each for each in target.places if each.function == "bbox_iou")
    chosen = [mutant(place, "ReplaceBinaryOperator_Sub_Add", n) for n in (0, 1)]
    jobs = {
        one.id: matrix.Job("bbox_iou", matrix.planted(place, one, target.implementation)) for one in chosen
    }
    first = list(matrix.resume("official", jobs, batches, None, None, "key", tmp_path, 1))
    path = tmp_path / matrix.KILLS
    lines = path.read_text().splitlines()
    assert len(first) == len(lines) == 2
    path.write_text(lines[0] + "\n" + lines[1][:30])  # as if writing was stopped in the middle of a line
    again = list(matrix.resume("official", jobs, batches, None, None, "key", tmp_path, 1))
    assert {one.mutant for one in again} == set(jobs)
    assert json.loads(path.read_text().splitlines()[0])["mutant"] == again[0].mutant
    assert len(matrix.read(path, "key", "official")) == 2
    assert matrix.read(path, "another key", "official") == {}


def test_history_is_found_both_ways():
    names = ["ultralytics-8.0.6", "ultralytics-8.0.51"]
    dialects = tal_reference.DIALECTS
    batches = trials(4)
    for one, other in (names, names[::-1]):
        ended = judge_mutant(matrix.judged_by(dialects[one], dialects[other]), batches)
        assert ended.test is not None


MATCHED = """
def floor(self, sides):
    match self.kind:
        case 1:
            return 0, 0
        case 2:
            return sides
"""


def test_what_a_case_returns_is_no_part_of_the_match():
    """For the line of a `match`, `statement_at` returns its lines without the bodies of its `case`s."""
    assert statement_at(MATCHED, 1, 4) == {3, 4, 6}
    assert statement_at(MATCHED, 1, 5) == {5}


def test_what_cannot_be_tried_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    """`power` prints a reason and returns 2 for a pattern that matches no mutant, and for an invalid folder."""
    few = ["power", "--mutants", "history", "--examples", "1", "--report-dir"]
    assert main([*few, str(tmp_path / "runs"), "--only", "nothing*"]) == 2
    assert "no mutant matches 'nothing*'" in capsys.readouterr().err
    assert main([*few, str(tmp_path / "runs"), "--only", "ultralitics-8.0.51*"]) == 2
    assert "did you mean 'ultralytics-8.0.51'" in capsys.readouterr().err
    (tmp_path / "file").write_text("")
    assert main([*few, str(tmp_path / "file" / "runs")]) == 2
    assert "cannot write into" in capsys.readouterr().err
