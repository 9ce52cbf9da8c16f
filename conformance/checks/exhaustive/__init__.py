"""Exhaustive checks: every image of small scopes is judged, so that none of them is a counterexample."""
