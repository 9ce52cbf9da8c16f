"""With xdist's option `-n`, runs use the scheduler `worksteal`, unless the user selects another scheduler."""

from types import SimpleNamespace
from typing import Any

import pytest
from xdist.scheduler import WorkStealingScheduling

from tal_conformance.suite.hooks import pytest_xdist_make_scheduler


def config(asked: str) -> Any:
    values = {"dist": asked, "tx": ["2*popen"], "maxschedchunk": None}
    return SimpleNamespace(getoption=values.__getitem__, getvalue=values.__getitem__)


def test_workers_steal_where_nothing_else_was_asked_for():
    assert isinstance(pytest_xdist_make_scheduler(config("load"), None), WorkStealingScheduling)


@pytest.mark.parametrize("asked", ["loadfile", "loadgroup", "each"])
def test_what_was_asked_for_stays(asked: str):
    assert pytest_xdist_make_scheduler(config(asked), None) is None
