"""Every test runs with the shapes in the annotations of `reference` checked; test_shapes.py proves it."""

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)  # batches are small: more threads wait for each other, and for other processes'

# Before anything imports reference; other packages carry no shapes.
install_import_hook("reference", "beartype.beartype")

from conformance.batches import draw_from_seed_alone  # noqa: E402

draw_from_seed_alone()  # or what a test draws would depend on the modules that the tests before it loaded
