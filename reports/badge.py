"""A badge with the result of a run: an SVG picture, and JSON for shields.io's endpoint."""

import json
from html import escape
from pathlib import Path
from typing import Any

from tal_reports.analysis.headline import RESULTS
from tal_reports.analysis.summary import is_complete
from tal_reports.log.batches import FAILING
from tal_reports.log.writer import write_whole
from tal_reports.text import shortened, visible

LABEL = "TAL conformance"
COLOURS = {"conforms": "#17683d", "fails": "#b3211c", "unproven": "#765800"}
"""Background of the right half: a pass, a failure, and neither; white text on each has a contrast of at least 4.5."""
CHARACTER, PADDING, HEIGHT = 7.0, 10.0, 20
"""Width of a character, space around each text, and height of the badge, in CSS pixels; texts are fitted to it."""
MAX_MESSAGE = 60
"""Maximum number of characters of the right half."""


def badge_of(summary: dict[str, Any]) -> dict[str, Any]:
    """Return the badge of a run's summary, in the format of shields.io's endpoint.

    The message is the worst result. If the implementation declares a dialect, the message of a pass names the dialect.
    """
    lines = summary["implementations"]
    failing = [line for line in lines if line["result"] in FAILING]
    unproven = [line for line in lines if line["result"] != "conforms" or not is_complete(line)]
    if failing:
        message, state = RESULTS[failing[0]["result"]], "fails"
    elif unproven or not lines:
        message, state = RESULTS[unproven[0]["result"]] if unproven else "was not tested", "unproven"
    elif summary["exit"]:
        message, state = "failed", "fails"
    else:
        dialects = list(dict.fromkeys(line["dialect"] for line in lines if line["dialect"]))
        message, state = f"conforms to {dialects[0]}" if len(dialects) == 1 else "conforms", "conforms"
    return {
        "schemaVersion": 1,
        "label": LABEL,
        "message": visible(shortened(message, MAX_MESSAGE)),
        "color": COLOURS[state],
        "isError": state == "fails",
    }


def svg_of(badge: dict[str, Any]) -> str:
    """Return a badge as an SVG picture without fonts, scripts and links."""
    texts = badge["label"], badge["message"]
    left, right = (round(CHARACTER * len(text) + 2 * PADDING) for text in texts)
    halves = "".join(
        f'<text x="{start + width / 2:g}" y="14" textLength="{CHARACTER * len(text):g}">{escape(text)}</text>'
        for text, start, width in zip(texts, (0, left), (left, right), strict=True)
    )
    title = escape(": ".join(texts))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + right}" height="{HEIGHT}" role="img" '
        f'aria-label="{title}"><title>{title}</title>'
        f'<rect width="{left}" height="{HEIGHT}" fill="#3b3d42"/>'
        f'<rect x="{left}" width="{right}" height="{HEIGHT}" fill="{escape(badge["color"])}"/>'
        f'<g fill="#fff" text-anchor="middle" font-family="Verdana,DejaVu Sans,sans-serif" font-size="11">{halves}</g>'
        "</svg>\n"
    )


def write_badge(summary: dict[str, Any], folder: Path) -> tuple[Path, Path]:
    """Write badge.svg and badge.json into a folder, and return their paths.

    Raises:
        OSError: a file cannot be written.
    """
    badge = badge_of(summary)
    picture, data = folder / "badge.svg", folder / "badge.json"
    write_whole(picture, svg_of(badge))
    write_whole(data, json.dumps(badge, indent=1) + "\n")
    return picture, data
