"""Training: comparison of the weights after a training with an implementation's loss and with the reference's loss."""

import math
from typing import Any

from tal_reports.text import real, short


def training_row(line: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table: a `training` line of the summary in the form that the template uses."""
    share = (real(line["worst"]) or 0.0) / (real(line["bound"]) or math.inf)
    return line | {
        "verdict": "within_bound" if line["agrees"] else "divergent",
        "text": "agrees" if line["agrees"] else "diverges",
        "worst": short(line["worst"]),
        "bound": short(line["bound"]),
        "share": short(share, 2) if real(line["bound"]) else "–",
    }
