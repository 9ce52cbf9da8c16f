"""Every test runs with the shapes in the annotations of `reference` checked; test_shapes.py proves it."""

from jaxtyping import install_import_hook

# Before anything imports reference; other packages carry no shapes.
install_import_hook("reference", "beartype.beartype")
