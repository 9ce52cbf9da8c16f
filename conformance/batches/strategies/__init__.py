"""Hypothesis strategies of recipes, by task and by check."""
