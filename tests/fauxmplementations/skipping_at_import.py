"""A module that skips the test while it is imported."""

import pytest

pytest.skip("not here", allow_module_level=True)
