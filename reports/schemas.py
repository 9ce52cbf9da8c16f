"""The JSON Schemas of log lines and of summary.json, and what is wrong with a value by them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

FOLDER = Path(__file__).parent / "schema"
"""Where the schemas lie, for tools that read what a run leaves."""


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema `log` or `summary`."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    return content


@cache
def _validator(name: str, part: str | None) -> Draft202012Validator:
    whole = schema(name)
    return Draft202012Validator(whole if part is None else {"$ref": f"#/$defs/{part}", "$defs": whole["$defs"]})


def fault(value: Any, name: str, part: str | None = None) -> str | None:
    """What is wrong with `value`, in one line that says where; None if it follows the schema.

    Args:
        value: what json.loads returns.
        name: `log` or `summary`.
        part: one of the schema's definitions instead of the whole, for example `batch`.
    """
    error = best_match(_validator(name, part).iter_errors(value))
    if error is None:
        return None
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
    message = error.message if len(error.message) <= 200 else f"{error.message[:200]}…"
    return f"{where.lstrip('.')}: {message}" if where else message
