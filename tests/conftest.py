"""Every test runs with the shapes in the annotations of `reference` checked; test_shapes.py proves it."""

import os

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)  # batches are small: more threads wait for each other, and for other processes'

for name in ("PYTEST_XDIST_WORKER", "PYTEST_XDIST_WORKER_COUNT"):
    os.environ.pop(name, None)  # with -n: the runs that tests start are no workers of this one

# Before anything imports reference; other packages carry no shapes.
install_import_hook("reference", "beartype.beartype")

from tal_conformance.batches.seeding import make_draws_reproducible  # noqa: E402

make_draws_reproducible()  # or what a test draws would depend on the modules that the tests before it loaded
