"""Metamorphic relations (specification section 7): what holds of an implementation whatever the right answer is.

Each is judged against the implementation alone: its numbers on a batch are compared with its own numbers on a changed
batch, so that an error that it shares with the reference cannot hide.
"""

from conformance.relations.table import RELATIONS, NotShown, Relation, SaysNothing

__all__ = ["RELATIONS", "NotShown", "Relation", "SaysNothing"]
