"""Shape checks of the reference's type annotations during its tests, if the option of `make test` is given."""

import pytest

import tal_reference

OPTION = "--jaxtyping-packages=tal_reference,beartype.beartype"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests of run-time shape checks if shape checks are off; print how to enable them."""
    if hasattr(tal_reference.make_anchors, "__wrapped__"):
        return
    unchecked = [item for item in items if item.path.name == "test_shapes.py"]
    if unchecked:
        config.hook.pytest_deselected(items=unchecked)
        items[:] = [item for item in items if item not in unchecked]
        reporter = config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(
                f"shapes are not checked; add {OPTION} to run {len(unchecked)} tests of the checks"
            )
