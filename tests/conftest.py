"""Settings of every test run of this project. The suite has its own conftest, `conformance/conftest.py`."""

import os

import pytest
import torch

from tal_conformance.batches.seeding import make_draws_reproducible

torch.set_num_threads(1)  # batches are small: more threads wait for each other, and for other processes'

for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
    os.environ.pop(name, None)  # with -n: the runs that tests start are no workers of this one

os.environ.setdefault(
    "TAL_CONFORMANCE_IDENTIFICATION_SECONDS", "0"
)  # else each failing run would search 40 s

make_draws_reproducible()  # or what a test draws would depend on the modules that the tests before it loaded


def pytest_configure(config: pytest.Config) -> None:
    """Register the marker of the suite's own tests, because some tests import their modules."""
    config.addinivalue_line(
        "markers", "clauses(group): the clause group of the specification that a test is about"
    )
    config.addinivalue_line("markers", "every_task: the test has batches of the task of its implementation")
