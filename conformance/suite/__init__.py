"""The pytest suite: options, hooks, fixtures, the run log, and the tests."""
