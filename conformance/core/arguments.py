"""Types of command line arguments, for argparse."""

import argparse


def positive(text: str) -> int:
    """Return the positive integer that a command line argument spells.

    Raises:
        ArgumentTypeError: the text is not an integer, or the integer is below 1.
    """
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected an integer >= 1, got {text!r}")
    return int(text)
