"""Every test runs with the shapes in the annotations of `reference` checked; test_shapes.py proves it."""

import torch
from jaxtyping import install_import_hook

torch.set_num_threads(1)  # batches are small: more threads wait for each other, and for other processes'

# Before anything imports reference; other packages carry no shapes.
install_import_hook("reference", "beartype.beartype")
