"""Implementations in subprocesses: installing their packages, starting and asking workers, and reading the answers."""
