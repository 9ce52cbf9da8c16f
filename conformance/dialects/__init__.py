"""Comparison of dialects: differences of implementations, releases of changes, and the dialect of an implementation."""
