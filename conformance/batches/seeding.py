"""Make the draws of Hypothesis depend only on the strategies and the seed."""

from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

NONE = Constants()


def make_draws_reproducible() -> None:
    """Stop Hypothesis from drawing constants that it finds in loaded modules, in this process.

    With such constants a derandomized run would draw other batches as soon as any module is loaded, moved or changed,
    even if it is not used, so that the batches of CI could not be reproduced. Hypothesis has no setting for this, and a
    custom backend (`AVAILABLE_PROVIDERS`) is not used for the first and the shrunk examples. Therefore the function
    that collects the constants is replaced; a test fails if a release of Hypothesis no longer calls it.
    """
    providers._get_local_constants = lambda: NONE
