"""Suggestions for mistyped names, and texts that are shortened."""

from tal_reference.names import suggestion, unknown_name

__all__ = ["LONGEST_MESSAGE", "LONGEST_TRACEBACK", "cut", "suggestion", "unknown_name"]

LONGEST_MESSAGE, LONGEST_TRACEBACK = 2_000, 20_000
"""Maximum numbers of characters of the message and traceback of an implementation's exception."""


def cut(text: str, longest: int) -> str:
    """Return the text, without its middle if it has more than `longest` characters."""
    half = longest // 2
    return text if len(text) <= longest else f"{text[:half]} [...] {text[-half:]}"
