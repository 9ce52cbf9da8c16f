"""pytest hooks and fixtures of the suite for `pytest conformance`, defined in `suite/hooks.py`."""

from tal_conformance.suite.hooks import *  # noqa: F403
