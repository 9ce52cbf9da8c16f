"""Releases by version number: published, cached and selected releases, and ranges."""

import sys
from pathlib import Path

import pytest

from tal_conformance.dialects import releases
from tal_conformance.dialects.releases import cached_releases, parse_releases, range_of, select_releases
from tal_conformance.implementations.errors import UnknownImplementation
from tal_reference.eras import ERAS, era_of

PUBLISHED = [
    (8, 0, 0),
    (8, 0, 6),
    (8, 0, 35),
    (8, 0, 51),
    (8, 0, 52),
    (8, 0, 99),
    (8, 0, 100),
    (8, 0, 101),
    (8, 3, 253),
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


def test_edges_are_selected_from_both_sides_with_the_newest_release(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(
        releases, "published", lambda first, last: [r for r in PUBLISHED if first <= r <= last]
    )
    assert select_releases("edges") == [release for release in PUBLISHED if release != (8, 4, 150)]


def test_one_release_of_each_era_needs_no_index():
    assert [era_of(release) for release in select_releases("each")] == list(ERAS)


def test_cached_releases_are_those_of_this_python(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("TAL_CONFORMANCE_CACHE", str(tmp_path / "cache"))
    assert cached_releases() == []
    tag = sys.implementation.cache_tag
    for name in (
        f"ultralytics-8.4.10-{tag}",
        f"ultralytics-8.4.9-{tag}",
        "ultralytics-8.4.8-other",
        f"tqdm-1.0.0-{tag}",
    ):
        (tmp_path / "cache" / name).mkdir(parents=True)
    assert cached_releases() == [(8, 4, 9), (8, 4, 10)]


@pytest.mark.parametrize("text", ["8.4.0", "8.4..8.5", "a..b", "8.4.0..8.4.0", "8.4.1..8.4.0", ""])
def test_an_invalid_range_is_rejected(text: str):
    with pytest.raises(UnknownImplementation, match="is not a range of releases"):
        range_of(text)


def test_a_range():
    assert range_of("ultralytics==8.3.236..8.4.6") == ((8, 3, 236), (8, 4, 6))


def test_releases_are_parsed_from_pip():
    output = "ultralytics (8.4.2)\nAvailable versions: 8.4.2, 8.4.1, 8.0.0\n  INSTALLED: 8.4.1"
    assert sorted(parse_releases(output)) == [(8, 0, 0), (8, 4, 1), (8, 4, 2)]
