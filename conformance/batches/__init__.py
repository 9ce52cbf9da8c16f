"""Generation of batches: recipes, their ground truths and predictions, hazards, and Hypothesis strategies."""

from tal_conformance.batches.content.predictions import PREDICTION_KINDS, Copy
from tal_conformance.batches.content.truths import KINDS, ManyTruths, Truth
from tal_conformance.batches.hazards.catalogue import HAZARDS, MEANINGS, hazards_of
from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.seeding import make_draws_reproducible
from tal_conformance.batches.strategies.detection import recipes, training_size
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase

__all__ = [
    "HAZARDS",
    "KINDS",
    "MEANINGS",
    "PREDICTION_KINDS",
    "Batch",
    "Copy",
    "InvalidCase",
    "ManyTruths",
    "Recipe",
    "Truth",
    "hazards_of",
    "make_draws_reproducible",
    "recipes",
    "training_size",
]
