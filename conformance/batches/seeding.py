"""What Hypothesis draws depends on the strategies and the seed alone."""

from hypothesis.internal.conjecture import providers
from hypothesis.internal.constants_ast import Constants

NONE = Constants()


def make_draws_reproducible() -> None:
    """In this process Hypothesis draws no constants that it reads in the modules that are loaded.

    With them a derandomized run draws other batches as soon as any module, even one that is not used, is loaded, moved
    into site-packages or changed: what a person repeats would not be what the gate judged. Hypothesis has no setting
    for it, and a backend of one's own (`AVAILABLE_PROVIDERS`) is not asked for the first and the shrunk examples, so
    the function that reads them is replaced; its test fails where a release of Hypothesis no longer calls it.
    """
    providers._get_local_constants = lambda: NONE
