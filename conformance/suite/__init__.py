"""The suite as pytest sees it: options, hooks, fixtures, the run log, and the tests themselves."""
