"""Bounds on the effect of rounding: enclosures of geometry, exact losses, and the error of each quantity by dtype."""
