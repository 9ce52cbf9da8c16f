"""diff, bisect and identify, on the reference in several dialects: what they say, and what they must not overlook."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from tal_conformance.batches.named_strategies import STRATEGIES
from tal_conformance.batches.recipe import Recipe
from tal_conformance.commands import main
from tal_conformance.commands.bisect import first_that_differs, parse_releases, range_of
from tal_conformance.commands.identify import drawn, hold, identify, size_of
from tal_conformance.dialects.choices import conforms_to
from tal_conformance.dialects.comparison import compare, format_comparison
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Subject
from tal_conformance.mutation.planted_faults import FAULTS, FaultyReference
from tal_reference import DIALECTS, NEWEST, Dialect, Hyperparameters

OLD = DIALECTS["ultralytics-8.4.127"]


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fewer batches than a user's question is worth."""
    monkeypatch.setattr("tal_conformance.dialects.comparison.LOOKED_AT", 3)
    monkeypatch.setattr("tal_conformance.dialects.comparison.MEASURED", 10)
    monkeypatch.setattr("tal_conformance.commands.identify.LOOKED_AT", 3)
    monkeypatch.setattr("tal_conformance.commands.identify.SHRUNK", 60)


def speaking(dialect: Dialect, name: str = "reference", declares: Dialect | None = None) -> Implementation:
    found = implementation_from(ReferenceAdapter(dialect), name)
    return replace(found, name=name, dialect=declares or dialect)


def test_the_same():
    compared = compare(speaking(NEWEST, "A"), speaking(NEWEST, "B"))
    assert compared.same
    batches = 3 * len(STRATEGIES)  # see _quick
    assert f"assigner and loss are the same: look elsewhere ({batches} batches each" in "\n".join(
        format_comparison(compared)
    )


def test_a_difference():
    """Clause, words, share and smallest batch; nothing else."""
    compared = compare(speaking(OLD, "A"), speaking(NEWEST, "B"))
    (difference,) = compared.differences
    assert not compared.unexpected
    assert difference.choice.clause == "TAL-CAND-2"
    assert difference.failure is not None
    assert 0 < difference.share <= 1
    text = "\n".join(format_comparison(compared))
    assert (
        f"  met by {difference.share:.0%} of 10 ordinary batches and by 3 of 7 recorded real batches; "
        in text
    )
    assert "    Recipe(images=((Truth('ordinary'),),), strides=(8, 16))\n" in text


def test_each_difference_is_shown_by_itself():
    """Of two that show on the same batch, each is told by its own clause."""
    compared = compare(
        speaking(DIALECTS["ultralytics-8.0.51"], "A"), speaking(DIALECTS["ultralytics-8.0.100"], "B")
    )
    told = {each.choice.clause: each.failure for each in compared.differences}
    assert set(told) == {"TAL-CONF-1", "LOSS-BOX-1"}
    assert told["LOSS-BOX-1"] is not None
    assert told["LOSS-BOX-1"].clause == "LOSS-BOX-1"


def test_a_difference_that_no_ordinary_batch_meets():
    compared = compare(
        speaking(DIALECTS["ultralytics-8.4.7"], "A"), speaking(DIALECTS["ultralytics-8.4.24"], "B")
    )
    assert "met by none of 10 ordinary batches and by none of 7 recorded" in "\n".join(
        format_comparison(compared)
    )


def test_one_that_leaves_its_own_dialect_is_told():
    """It is not taken for the same, whatever the two declare."""
    compared = compare(speaking(NEWEST, "A"), speaking(OLD, "B", declares=NEWEST))
    assert not compared.same
    assert compared.differences == []
    assert compared.unexpected
    assert "B leaves its own dialect" in "\n".join(format_comparison(compared))


def adapter_of(dialect: Dialect) -> Callable[[str], Implementation]:
    return lambda name: speaking(dialect, name)


@pytest.mark.parametrize("name", ["ultralytics-8.4.127", "ultralytics-8.0.51"])
def test_identified(name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The dialect that it speaks explains all, every other one is refuted on a batch that is shown."""
    monkeypatch.setattr("tal_conformance.commands.identify.find", adapter_of(DIALECTS[name]))
    others = {
        each: DIALECTS[each] for each in ("ultralytics-8.4.190", "ultralytics-8.4.127", "ultralytics-8.0.51")
    }
    monkeypatch.setattr("tal_conformance.commands.identify.DIALECTS", others)
    assert identify("mine") == 0
    said, progress = capsys.readouterr()
    assert [line.split(":")[0] for line in progress.splitlines()] == [f"... {each}" for each in others]
    assert f"{name} explains all" in said
    assert said.count("explains all") == 1
    assert said.count("  not ") == 2
    assert said.count("    Recipe(") == 2


def test_nobody_explains_a_fault(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """The nearest dialect is named, with the clauses where it is left."""
    fault = next(each for each in FAULTS.values() if each.stage == "cls")
    adapter: Any = FaultyReference(fault)
    monkeypatch.setattr(
        "tal_conformance.commands.identify.find", lambda name: implementation_from(adapter, name)
    )
    monkeypatch.setattr("tal_conformance.commands.identify.DIALECTS", {NEWEST.name: NEWEST})
    assert identify("mine") == 1
    said = capsys.readouterr().out
    assert "no known dialect explains it; nearest is ultralytics-8.4.190, which it leaves on " in said
    assert "LOSS-CLS-1 (first on " in said
    assert "      Recipe(" in said
    held = hold(implementation_from(adapter, "x"), NEWEST)
    assert held.refuted is not None


def test_the_nearest_is_the_one_that_is_left_least(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    fault = next(each for each in FAULTS.values() if each.stage == "dfl")
    adapter: Any = FaultyReference(fault)
    monkeypatch.setattr(
        "tal_conformance.commands.identify.find", lambda name: implementation_from(adapter, name)
    )
    others = {each: DIALECTS[each] for each in ("ultralytics-8.0.51", "ultralytics-8.4.190")}
    monkeypatch.setattr("tal_conformance.commands.identify.DIALECTS", others)
    assert identify("mine") == 1
    assert "nearest is ultralytics-8.4.190, which it leaves on " in capsys.readouterr().out


def test_judging_stops_at_the_first_batch_that_refutes():
    """Small batches come first: of all that are drawn, few are needed."""
    held = hold(speaking(OLD), DIALECTS["ultralytics-8.0.6"])
    every = drawn(speaking(OLD), 3)
    assert held.refuted is not None
    assert held.batches < len(every) / 4
    sizes = [size_of(recipe) for recipe, _ in every]
    assert sizes == sorted(sizes)


def test_exponents_are_asked_of_the_assigner_alone():
    """TAL-MET-1: the detection loss has its own, and is not asked for others."""
    asked: list[str] = []

    class Listening(ReferenceAdapter):
        def assign(self, inputs: Any) -> Any:
            asked.append("assign")
            return super().assign(inputs)

        def loss(self, *arguments: Any) -> Any:
            asked.append("loss")
            return super().loss(*arguments)

    subject = Subject(implementation_from(Listening(), "listening"), "cpu")
    assert conforms_to(subject, Recipe(hyperparameters=Hyperparameters(alpha=1.0)))
    assert conforms_to(subject, Recipe())
    assert asked == ["assign", "loss"]


def test_bisected():
    releases = [(8, 4, n) for n in range(100)]
    asked: list[tuple[int, int, int]] = []

    def as_before(release: tuple[int, int, int]) -> bool:
        asked.append(release)
        return release < (8, 4, 37)

    assert first_that_differs(releases, as_before) == ((8, 4, 36), (8, 4, 37))
    assert len(asked) <= 9
    assert first_that_differs(releases, lambda release: True) is None
    with pytest.raises(UnknownImplementation, match=r"8\.4\.0 does not do what its own dialect says"):
        first_that_differs(releases, lambda release: False)


@pytest.mark.parametrize("releases", ["8.4.0", "8.4..8.5", "a..b", "8.4.0..8.4.0", "8.4.1..8.4.0", ""])
def test_no_range(releases: str, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(UnknownImplementation):
        range_of(releases)
    assert main(["bisect", releases]) == 2
    assert capsys.readouterr().err.startswith("python -m conformance bisect: ")


def test_releases_listed():
    said = "ultralytics (8.4.2)\nAvailable versions: 8.4.2, 8.4.1, 8.0.0\n  INSTALLED: 8.4.1"
    assert sorted(parse_releases(said)) == [(8, 0, 0), (8, 4, 1), (8, 4, 2)]


def test_unknown_names(capsys: pytest.CaptureFixture[str]):
    assert main(["diff", "nobody", "reference"]) == 2
    assert main(["identify", "nobody"]) == 2
    assert "'nobody' is no registered implementation" in capsys.readouterr().err
