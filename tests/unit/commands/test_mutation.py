"""Command `power`: it leaves the link `latest` unchanged if the link points to a run of the suite."""

from pathlib import Path

import pytest
from tests.common import run_logs as factory

from tal_conformance.commands.mutation import may_become_latest


@pytest.mark.parametrize(
    ("lines", "expected"), [(factory.passing(10), False), (factory.planting(), True)], ids=["suite", "power"]
)
def test_latest_keeps_pointing_to_a_run_of_the_suite(
    tmp_path: Path, lines: factory.Lines, expected: bool
) -> None:
    factory.write(tmp_path / "run", lines)
    (tmp_path / "latest").symlink_to("run")
    assert may_become_latest(tmp_path) is expected


def test_without_latest_a_run_of_power_becomes_latest(tmp_path: Path):
    assert may_become_latest(tmp_path)
