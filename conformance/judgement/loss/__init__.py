"""Judgement of the values and gradients of a loss, for a given assignment."""
