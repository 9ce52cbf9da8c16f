"""Checks of ways of calling: a batch has the same results in every way in which a trainer calls (CALL-*)."""
