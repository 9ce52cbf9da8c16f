"""The suite's tests are imported here, and their marker with them."""

import pytest


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "clauses(group): of the suite's own tests")
