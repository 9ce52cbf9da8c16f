"""Checks of ways of calling: a batch has the same results whichever way a trainer calls the loss (CALL-*)."""
