"""Settings of every test run of this project; the suite's own conftest is `conformance/conftest.py`."""

import os

import torch

from tal_conformance.batches.seeding import make_draws_reproducible

torch.set_num_threads(1)  # batches are small: more threads wait for each other, and for other processes'

for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
    os.environ.pop(name, None)  # with -n: the runs that tests start are no workers of this one

make_draws_reproducible()  # or what a test draws would depend on the modules that the tests before it loaded
