"""Sequences of calls: the answer to a batch must not depend on earlier calls (STATE-*)."""
