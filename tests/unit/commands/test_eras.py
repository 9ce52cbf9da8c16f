"""`eras`: releases that follow the dialect of their era, releases that do not, and releases that cannot be used."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tal_conformance.commands import eras, main
from tal_conformance.dialects import sources
from tal_conformance.dialects.sources import CheckedSource
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.adapters.ultralytics import parsed
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_reference import Dialect
from tal_reference.eras import Version, dialect_of, era_of


def replace_releases(monkeypatch: pytest.MonkeyPatch, dialects: dict[str, Dialect]) -> None:
    """Replace three releases by the reference, in the dialect of their era or in the one named here."""

    def find(name: str) -> Implementation:
        release = parsed(name.removeprefix("ultralytics=="))
        adapter: Any = ReferenceAdapter(dialects.get(name, dialect_of(release)))
        adapter.worker = SimpleNamespace(close=lambda: None)
        return replace(implementation_from(adapter, name), dialect=dialect_of(release))

    def one_source_a_release(releases: Sequence[Version]) -> list[CheckedSource]:
        return [CheckedSource(era_of(release), str(release), [release]) for release in releases]

    monkeypatch.setattr(sources, "find", find)
    monkeypatch.setattr(sources, "BATCHES_PER_STRATEGY", 1)
    monkeypatch.setattr(eras, "distinct_sources", one_source_a_release)
    monkeypatch.setattr(eras, "select_releases", lambda selection: [(8, 0, 52), (8, 4, 127), (8, 4, 128)])


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
