"""Checks of sequences of calls: the results for a batch do not depend on earlier calls (STATE-*)."""
