"""A module that calls `pytest.skip` when it is imported."""

import pytest

pytest.skip("not here", allow_module_level=True)
