"""Profiles of generation: how many batches are generated, and whether every run repeats the same batches."""

from dataclasses import dataclass

SEEDS = 2**32
"""Number of possible seeds."""


@dataclass(frozen=True)
class Profile:
    """Settings of generation.

    Attributes:
        examples: number of batches of each test and implementation.
        repeats: True if every run generates the same batches.
        remembers: True if failing batches are stored in a folder and tried first in the next run.
        compares_training: True if the weights of a small model after a few training steps are compared too.
    """

    examples: int
    repeats: bool = False
    remembers: bool = False
    compares_training: bool = True


PROFILES = {
    "dev": Profile(examples=8, compares_training=False),
    "ci": Profile(examples=90, repeats=True),
    "nightly": Profile(examples=2000, remembers=True),
}
"""`dev` for work in progress, `ci` to gate a merge, `nightly` to search more widely."""
