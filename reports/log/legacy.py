"""Upgrade run lines of older schemas, so that the rest of this package handles only the current schema.

The order of stages and the loss terms come from the run line. Logs of schema 1 do not contain them, because only the
detection loss existed. The tables below apply to logs of schema 1 only.
"""

from typing import Any

STAGES_OF_SCHEMA_1 = {
    "decode": "DEC-2",
    "candidates": "TAL-CAND-1",
    "overlap": "TAL-MET-1",
    "metric": "TAL-MET-1",
    "top-k": "TAL-TOPK-1",
    "conflict": "TAL-CONF-1",
    "targets": "TAL-TGT-1",
    "normalisation": "TAL-NORM-1",
    "cls": "LOSS-CLS-1",
    "box": "LOSS-BOX-1",
    "dfl": "LOSS-DFL-1",
    "total": "LOSS-GAIN-1",
    "gradients": "LOSS-GRAD-1",
}
"""Clause by stage, in the order in which the stages are computed."""

TERMS_OF_SCHEMA_1 = ("box", "cls", "dfl")
"""Loss terms, in the order of the loss items."""

ADDED_SINCE: dict[int, dict[str, Any]] = {
    1: {
        "stages": [{"name": name, "clause": clause} for name, clause in STAGES_OF_SCHEMA_1.items()],
        "terms": list(TERMS_OF_SCHEMA_1),
    },
    2: {},  # lacks the verdicts `rejected` and `inconclusive`, which `undecided` marked
    3: {},  # lacks the verdict `not_supported`
}
"""For each older schema that is still read, the fields of the run line that it lacks."""


def upgraded(line: dict[str, Any], schema: int) -> dict[str, Any]:
    """Return a run line in the current schema. A line of an unknown schema is returned unchanged.

    Args:
        line: a line of kind `run`.
        schema: number of the current schema.
    """
    found = line.get("schema")
    if type(found) is not int or found not in ADDED_SINCE:
        return line
    return line | ADDED_SINCE[found] | {"schema": schema}
