"""TODO tal_conformance.checks.profiles."""

from dataclasses import dataclass

SEEDS = 2**32


@dataclass(frozen=True)
class Profile:
    """How much is generated.

    Attributes:
        examples: batches of each test and implementation.
        repeats: the same batches every time.
        remembers: keeps found cases in a folder from run to run.
        compares_training: trains with each loss and compares the weights, which equal gradients imply already.
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
"""`dev` while one works, `ci` as the gate of a merge, `nightly` to find what nobody thought of."""
