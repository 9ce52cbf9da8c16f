"""Make the draws of Hypothesis depend on the strategies and the seed alone."""

from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

NONE = Constants()


def make_draws_reproducible() -> None:
    """Stop Hypothesis, in this process, from drawing constants that it finds in loaded modules.

    With such constants a derandomized run draws other batches as soon as any module is loaded, moved into
    site-packages or changed, even if the module is not used: nobody could reproduce the batches that CI judged.
    Hypothesis has no setting for this, and a custom backend (`AVAILABLE_PROVIDERS`) is not used for the first and the
    shrunk examples. So the function that collects the constants is replaced; a test fails if a release of Hypothesis
    no longer calls it.
    """
    providers._get_local_constants = lambda: NONE
