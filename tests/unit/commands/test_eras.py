"""Command `eras`: releases that follow their era's dialect, deviate from it, or cannot be imported."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tal_conformance.batches.strategies.named import PRECISIONS
from tal_conformance.checks.relations.relations import RELATIONS
from tal_conformance.commands import eras, main
from tal_conformance.dialects import sources
from tal_conformance.dialects.sources import CheckedSource
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics_losses import parsed
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Subject
from tal_conformance.mutation.suite_checks import failures, suite_cases
from tal_conformance.mutation.trials import GeneratedCase
from tal_reference import Dialect
from tal_reference.eras import Version, dialect_of, era_of
from tal_reference.eras_of_tasks import ERAS_BY_TASK, dialect_in


def replace_releases(monkeypatch: pytest.MonkeyPatch, dialects: dict[str, Dialect]) -> None:
    """Replace releases 8.0.52, 8.4.127 and 8.4.128 by the reference.

    The reference follows the dialect that `dialects` has for the release, or else the dialect of the release's era.
    """

    def find(name: str) -> Implementation:
        release = parsed(name.removeprefix("ultralytics=="))
        adapter: Any = ReferenceAdapter(dialects.get(name, dialect_of(release)))
        adapter.worker = SimpleNamespace(close=lambda: None)
        return replace(implementation_from(adapter, name), dialect=dialect_of(release))

    def one_source_a_release(releases: Sequence[Version], task: str) -> list[CheckedSource]:
        eras = ERAS_BY_TASK[task]
        return [
            CheckedSource(era_of(release, eras), str(release), [release], task=task) for release in releases
        ]

    monkeypatch.setattr(sources, "find", find)
    monkeypatch.setattr(eras, "find", find)
    monkeypatch.setattr(sources, "BATCHES_PER_STRATEGY", 1)
    monkeypatch.setattr(eras, "suite_cases", lambda *arguments: [])
    monkeypatch.setattr(eras, "distinct_sources", one_source_a_release)
    monkeypatch.setattr(eras, "select_releases", lambda *_: [(8, 0, 52), (8, 4, 127), (8, 4, 128)])


def test_releases_that_follow_the_dialects_of_their_eras(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    replace_releases(monkeypatch, {})
    assert main(["eras"]) == 0
    output, progress = capsys.readouterr()
    assert "3 releases, 3 distinct sources; 0 do not follow the dialect of their era" in output
    assert "edges between releases that were not checked: 8.0.52 and 8.4.127" in output
    assert [line.rpartition(" batches")[1] for line in progress.splitlines()] == ["", *[" batches"] * 3]


def test_a_release_that_follows_the_dialect_of_another_era(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    replace_releases(monkeypatch, {"ultralytics==8.4.128": dialect_of((8, 4, 127))})
    assert main(["eras", "--releases", "edges"]) == 1
    output = capsys.readouterr().out
    assert "8.4.128: not ultralytics-8.4.190: TAL-CAND-2: " in output
    assert "1 do not follow the dialect of their era" in output


@pytest.mark.slow
def test_a_release_that_cannot_be_used_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    replace_releases(monkeypatch, {})
    find = sources.find

    def all_but_one(name: str) -> Implementation:
        if name.endswith("8.0.52"):
            raise UnknownImplementation(f"{name} cannot be used here")
        return find(name)

    monkeypatch.setattr(sources, "find", all_but_one)
    assert main(["eras"]) == 1
    output = capsys.readouterr().out
    assert "8.0.52: not ultralytics-8.3.253: ultralytics==8.0.52 cannot be used here" in output
    assert "3 releases, 3 distinct sources; 1 do not follow the dialect" in output


def test_an_empty_cache_is_not_a_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TAL_CONFORMANCE_CACHE", str(tmp_path))
    assert main(["eras"]) == 1


def test_the_first_and_the_last_source_of_an_era_are_judged_by_the_whole_suite(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    """A release that replaces NaN fails `eras`, because an era's first and last source run the whole suite.

    Only the suite's test of non-finite predictions finds this fault.
    """

    class HidesNaN(ReferenceAdapter):
        def loss(self, feature_maps: Any, *arguments: Any) -> Any:
            return super().loss([level.nan_to_num() for level in feature_maps], *arguments)

    replace_releases(monkeypatch, {})
    find = eras.find

    def one_hides(name: str) -> Implementation:
        implementation = find(name)
        if name.endswith("8.4.127"):
            adapter: Any = HidesNaN(implementation.dialect)
            adapter.worker = implementation.adapter.worker
            return replace(implementation, adapter=adapter)
        return implementation

    def only_non_finite(dialect: Dialect, count: int, assigner: bool, task: str) -> list[GeneratedCase]:
        return [case for case in suite_cases(dialect, 2, assigner, task) if case.test == "test_nonfinite"]

    monkeypatch.setattr(sources, "find", one_hides)
    monkeypatch.setattr(eras, "find", one_hides)
    monkeypatch.setattr(eras, "suite_cases", lambda *arguments: [])
    assert main(["eras"]) == 0
    monkeypatch.setattr(eras, "suite_cases", only_non_finite)
    assert main(["eras"]) == 1
    assert "8.4.127: not ultralytics-8.4.127: test_nonfinite: NONFINITE-" in capsys.readouterr().out


def test_the_suites_cases_are_of_every_strategy_and_relation():
    cases = suite_cases(dialect_of((8, 4, 0)), 1)
    tests = {case.test for case in cases}
    assert {
        "test_nonfinite",
        "test_loss",
        "test_exponents",
        "test_rows_in_any_order",
        "test_repeatable",
    } <= tests
    assert {f"test_relation[{clause}]" for clause in RELATIONS} <= tests
    assert {f"test_precision[{name}]" for name in PRECISIONS} <= tests
    assert "test_rows_in_any_order" not in {case.test for case in suite_cases(dialect_of((8, 4, 128)), 1)}
    assert "test_exponents" not in {
        case.test for case in suite_cases(dialect_of((8, 4, 0)), 1, assigner=False)
    }


def test_ends_of_eras_are_the_sources_of_first_and_last_releases():
    def source(*releases: Version) -> CheckedSource:
        return CheckedSource(era_of(releases[0]), str(releases), list(releases))

    first, between, last, alone = source((8, 1, 0)), source((8, 2, 0)), source((8, 3, 0)), source((8, 4, 128))
    assert eras.ends_of_eras([between, last, first, alone]) == [first, last, alone]


def test_eras_of_rotated_boxes(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    """`--task obb` judges releases by the dialects of rotated boxes, and names a release that follows another one."""
    replace_releases(monkeypatch, {})
    wrong = {"8.4.83": dialect_in((8, 4, 84), "obb")}

    def find(name: str) -> Implementation:
        release = parsed(name.removeprefix("ultralytics=="))
        own = dialect_in(release, "obb")
        assert own is not None
        adapter: Any = ReferenceAdapter(wrong.get(name.removeprefix("ultralytics==")) or own)
        adapter.worker = SimpleNamespace(close=lambda: None)
        return replace(implementation_from(adapter, name), dialects={"obb": own})

    for module in (sources, eras):
        monkeypatch.setattr(module, "find", find)
    monkeypatch.setattr(
        eras, "select_releases", lambda *_: [(8, 3, 241), (8, 3, 242), (8, 4, 83), (8, 4, 84)]
    )
    assert main(["eras", "--task", "obb"]) == 1
    output, _ = capsys.readouterr()
    assert "4 releases, 4 distinct sources; 1 do not follow the dialect of their era" in output
    assert "8.4.83: not ultralytics-8.4.83: " in output
    assert "8.3.241" in output


def test_edges_that_were_not_checked_are_those_of_the_task():
    """Release 8.4.39 begins an era of rotated boxes, and none of detection."""
    releases: list[Version] = [(8, 4, 38), (8, 4, 79)]
    checked = [CheckedSource(era_of(release), str(release), [release]) for release in releases]
    assert eras.eras_fields(checked, "obb")["unchecked_edges"] == [["8.4.38", "8.4.79"]]
    assert eras.eras_fields(checked)["unchecked_edges"] == []


@pytest.mark.parametrize("task", ["obb", "e2e"])
def test_every_case_of_a_task_is_fit_for_its_judge(task: str):
    """The reference follows the dialect: batches that the dialect rejects are not run twice to compare the runs."""
    dialect = ERAS_BY_TASK[task][1].dialect
    subject = Subject(implementation_from(ReferenceAdapter(dialect), "reference").of_task(task), "cpu")
    found = list(failures(subject, suite_cases(dialect, 1, task=task)))
    assert [f"{case.test}: {failure.summary}" for case, failure in found] == []
