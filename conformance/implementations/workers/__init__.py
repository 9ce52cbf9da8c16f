"""Implementations in subprocesses: install packages, start workers, exchange messages with them."""
