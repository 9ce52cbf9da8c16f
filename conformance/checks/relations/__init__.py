"""Metamorphic relations (META-*): compare an implementation with itself on a transformed batch.

The relations also find errors that the implementation shares with the reference, because the reference's results are
not compared.
"""
