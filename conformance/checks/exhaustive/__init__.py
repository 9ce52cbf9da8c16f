"""Exhaustive checks: judge every image of a scope, a small set of images that is enumerated completely."""
