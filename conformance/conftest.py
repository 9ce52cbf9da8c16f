"""pytest's hooks and fixtures of the suite, for `pytest conformance`; they live in `suite/hooks.py`."""

from tal_conformance.suite.hooks import *  # noqa: F403
