"""Metamorphic relations (META-*): an implementation compared with itself on a changed batch.

An error that the implementation shares with the reference cannot hide here, because the reference decides nothing.
"""
