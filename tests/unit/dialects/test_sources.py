"""Releases with identical source files are checked once; unchecked boundaries between eras are listed."""

from pathlib import Path

import pytest

from tal_conformance.commands.eras import format_releases
from tal_conformance.dialects import sources
from tal_conformance.dialects.sources import distinct_sources, source_hash, unchecked_edges
from tal_conformance.implementations.workers.packages import Package


def write_package(folder: Path, **files: str) -> Path:
    for name, content in files.items():
        file = folder / "ultralytics" / "utils" / f"{name}.py"
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(content, encoding="utf-8")
    return folder


def test_the_hash_depends_on_the_files_of_assigner_and_loss_alone(tmp_path: Path):
    digest = source_hash(write_package(tmp_path / "a", tal="1", loss="2", plotting="3"))
    assert digest == source_hash(write_package(tmp_path / "b", tal="1", loss="2", plotting="4"))
    assert digest != source_hash(write_package(tmp_path / "c", tal="1", loss="3", plotting="3"))
    assert digest != source_hash(write_package(tmp_path / "d", tal="1", metrics="2", plotting="3"))


def test_a_source_is_listed_once_in_each_era(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    def folder(package: Package) -> Path:
        return write_package(tmp_path / package.version, tal="old" if package.version < "8.4.20" else "new")

    monkeypatch.setattr(sources, "ensure_package", folder)
    distinct = distinct_sources([(8, 0, 99), (8, 0, 101), (8, 3, 9), (8, 4, 25), (8, 4, 30)])
    assert [format_releases(source.releases) for source in distinct] == [
        "8.0.99",
        "8.0.101 .. 8.3.9 (2)",
        "8.4.25 .. 8.4.30 (2)",
    ]
    assert len({source.hash for source in distinct}) == 2


def test_an_edge_is_unchecked_if_the_later_release_is_not_the_first_of_its_era():
    assert unchecked_edges([(8, 4, 7), (8, 4, 8), (8, 4, 100)]) == [((8, 4, 8), (8, 4, 100))]
