"""A sentence about a run whose failures are all outside generated float32 batches, where no dialect is searched."""

from collections import Counter
from collections.abc import Iterable
from typing import Any

from tal_conformance.suite.shared_properties import failing_line
from tal_reports import counted, listed

Line = dict[str, Any]


def precision_of(line: Line) -> str:
    """Return the precision in which the batch of a line was judged: "float32", "bfloat16 under autocast"."""
    return f"{line['dtype']} under autocast" if line.get("autocast") else str(line["dtype"])


def sentence_about_calls(lines: Iterable[Line]) -> str:
    """Return a sentence with the numbers of failing batches by precision, and of conforming ones in float32.

    Args:
        lines: `batch` lines of a run, of one implementation.
    """
    failing, judged = Counter[str](), Counter[str]()
    for line in lines:
        result = failing_line(line)
        if result is None:
            continue
        kind = f"in {precision_of(line)}{'' if line.get('recipe') else ' that were not generated'}"
        judged[kind] += 1
        failing[kind] += result
    parts = [
        f"{failing[kind]} of {counted(judged[kind], 'batch')} {kind}" for kind in judged if failing[kind]
    ]
    conforming = judged["in float32"]
    also = f", and on none of {counted(conforming, 'generated batch')} in float32" if conforming else ""
    return (
        f"It fails on {listed(parts)}{also}. The search for the cause compares generated batches in float32, so that "
        "it names no choice."
    )
