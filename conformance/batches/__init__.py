"""What the suite feeds: batches, the recipes they are made of, their hazards, and what Hypothesis draws."""

from conformance.batches.batch import Batch
from conformance.batches.casefile import CorruptCase
from conformance.batches.drawing import draw_from_seed_alone
from conformance.batches.hazards import HAZARDS, MEANINGS, hazards_of
from conformance.batches.predictions import REGIMES, Copy
from conformance.batches.recipe import Recipe
from conformance.batches.strategies import recipes, training_size
from conformance.batches.truths import KINDS, Crowd, Truth

__all__ = [
    "HAZARDS",
    "KINDS",
    "MEANINGS",
    "REGIMES",
    "Batch",
    "Copy",
    "CorruptCase",
    "Crowd",
    "Recipe",
    "Truth",
    "draw_from_seed_alone",
    "hazards_of",
    "recipes",
    "training_size",
]
