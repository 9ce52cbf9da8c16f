"""Format the number of planted faults that a profile finds: the worth of a passing run in that profile."""

from typing import Any

QUICK, GATING = "dev", "ci"
"""The profile for work in progress, and the profile that gates a merge."""


def worth_in_words(worth: dict[str, Any] | None) -> str:
    """Return a clause such as "dev: a quick look, finds 171 of 250 planted faults; ci finds all".

    Args:
        worth: field `worth` of the log's first line; None in logs of older versions.

    Returns:
        The clause; "" if no number of found faults was measured.
    """
    if not worth or not worth["figures"]:
        return ""
    profile, figures = worth["profile"], worth["figures"]
    if not worth["whole"]:
        words = f"a part of {profile}" + (f", which {_finds(figures[profile])}" if profile in figures else "")
    elif profile in figures:
        words = f"{profile}: {'a quick look, ' * (profile == QUICK)}{_finds(figures[profile])}"
    else:
        words = f"{profile}: not measured"
    if profile != GATING and GATING in figures:
        gate = figures[GATING]
        number = "all" if gate["found"] == gate["planted"] else f"{gate['found']:,} of {gate['planted']:,}"
        words += f"; {GATING} finds {number}"
    return words if worth["this_code"] else f"{words}; measured on other code"


def _finds(figure: dict[str, int]) -> str:
    found, planted = figure["found"], figure["planted"]
    number = f"all {planted:,}" if found == planted else f"{found:,} of {planted:,}"
    later = figure.get("unmeasured", 0)
    newer = f" ({later:,} newer ones not measured)" if later else ""
    return f"finds {number} planted faults{newer}"
