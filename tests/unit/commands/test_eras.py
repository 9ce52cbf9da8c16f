"""The table of eras against releases: which are looked at, what is one source, and what a wrong table leads to."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tal_conformance.commands import eras as releases
from tal_conformance.commands import main
from tal_conformance.commands.eras import (
    Checked,
    cached_releases,
    distinct_sources,
    edges_unseen,
    eras,
    format_releases,
    select_releases,
    source_of,
)
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.implementations.workers.packages import Package
from tal_reference import Dialect
from tal_reference.eras import ERAS, dialect_of, era_of

EVERY = [
    (8, 0, 0),
    (8, 0, 6),
    (8, 0, 35),
    (8, 0, 51),
    (8, 0, 52),
    (8, 0, 99),
    (8, 0, 100),
    (8, 0, 101),
    (8, 3, 253),
]
EVERY += [
    (8, 4, 0),
    (8, 4, 7),
    (8, 4, 8),
    (8, 4, 24),
    (8, 4, 25),
    (8, 4, 127),
    (8, 4, 128),
    (8, 4, 150),
    (8, 5, 1),
]


@pytest.fixture
def index(monkeypatch: pytest.MonkeyPatch) -> None:
    """What PyPI is said to have."""
    monkeypatch.setattr(releases, "published", lambda first, last: [r for r in EVERY if first <= r <= last])


@pytest.mark.usefixtures("index")
def test_edges_are_looked_at_from_both_sides_and_the_newest_is_todays():
    assert select_releases("edges") == [release for release in EVERY if release != (8, 4, 150)]


def test_one_release_of_each_era_asks_no_index():
    assert [era_of(release) for release in select_releases("each")] == list(ERAS)


def test_the_cache_is_looked_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAL_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    assert cached_releases() == []
    tag = releases.sys.implementation.cache_tag
    for name in (
        f"ultralytics-8.4.10-{tag}",
        f"ultralytics-8.4.9-{tag}",
        "ultralytics-8.4.8-other",
        f"tqdm-1.0.0-{tag}",
    ):
        (tmp_path / "cache" / name).mkdir(parents=True)
    assert cached_releases() == [(8, 4, 9), (8, 4, 10)]


def written(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        file = folder / "ultralytics" / "utils" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return folder


def test_a_source_is_what_assigner_and_loss_are_made_of(tmp_path: Path):
    one = source_of(written(tmp_path / "a", tal="1", loss="2", plotting="3"))
    assert one == source_of(written(tmp_path / "b", tal="1", loss="2", plotting="4"))
    assert one != source_of(written(tmp_path / "c", tal="1", loss="3", plotting="3"))
    assert one != source_of(written(tmp_path / "d", tal="1", metrics="2", plotting="3"))


def test_a_source_of_two_releases_is_judged_once_in_each_era(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def folder(package: Package) -> Path:
        return written(tmp_path / package.version, tal="old" if package.version < "8.4.20" else "new")

    monkeypatch.setattr(releases, "ensure_package", folder)
    found = distinct_sources([(8, 0, 99), (8, 0, 101), (8, 3, 9), (8, 4, 25), (8, 4, 30)])
    assert [format_releases(source.releases) for source in found] == [
        "8.0.99",
        "8.0.101 .. 8.3.9 (2)",
        "8.4.25 .. 8.4.30 (2)",
    ]
    assert len({source.hash for source in found}) == 2


def planted(monkeypatch: pytest.MonkeyPatch, speaks: dict[str, Dialect]) -> None:
    """Releases that are the reference, in the dialect of their era or in another one."""

    def find(name: str) -> Implementation:
        release = releases.parsed(name.removeprefix("ultralytics=="))
        adapter: Any = ReferenceAdapter(speaks.get(name, dialect_of(release)))
        adapter.worker = SimpleNamespace(close=lambda: None)
        return replace(implementation_from(adapter, name), dialect=dialect_of(release))

    monkeypatch.setattr(releases, "find", find)
    monkeypatch.setattr(releases, "PER_LANE", 1)
    monkeypatch.setattr(
        releases,
        "distinct_sources",
        lambda these: [Checked(era_of(each), str(each), [each]) for each in these],
    )
    monkeypatch.setattr(releases, "select_releases", lambda which: [(8, 0, 52), (8, 4, 127), (8, 4, 128)])


def test_a_table_that_holds(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]):
    planted(monkeypatch, {})
    assert main(["eras"]) == 0
    said, progress = capsys.readouterr()
    assert "3 releases, 3 distinct sources; 0 leave the dialect of their era" in said
    assert "edges that lie between releases that were not looked at: 8.0.52 and 8.4.127" in said
    assert len(progress.splitlines()) == 3


def test_a_release_that_is_of_another_era(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    planted(monkeypatch, {"ultralytics==8.4.128": dialect_of((8, 4, 127))})
    assert eras("edges", lambda line: None) == 1
    said = capsys.readouterr().out
    assert "8.4.128: not ultralytics-8.4.190: TAL-CAND-2: " in said
    assert "1 leave the dialect of their era" in said


def test_a_release_that_cannot_be_used_does_not_stop_the_others(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
):
    planted(monkeypatch, {})
    find = releases.find

    def missing_one(name: str) -> Implementation:
        if name.endswith("8.0.52"):
            raise UnknownImplementation(f"{name} cannot be used here")
        return find(name)

    monkeypatch.setattr(releases, "find", missing_one)
    assert main(["eras"]) == 1
    said = capsys.readouterr().out
    assert "8.0.52: not ultralytics-8.3.253: ultralytics==8.0.52 cannot be used here" in said
    assert "3 releases, 3 distinct sources; 1 leave the dialect" in said


def test_an_empty_cache_is_no_success(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setenv("TAL_CONFORMANCE_CACHE", str(tmp_path))
    assert main(["eras"]) == 1


def test_edges_between_what_was_looked_at():
    assert edges_unseen([(8, 4, 7), (8, 4, 8), (8, 4, 100)]) == [((8, 4, 8), (8, 4, 100))]
