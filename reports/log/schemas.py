"""Validate log lines, summaries and walkthroughs against their JSON Schemas."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

FOLDER = Path(__file__).parents[1] / "schema"
"""Folder of the JSON Schema files, which other tools that read logs and summaries may use too."""


@cache
def schema(name: str) -> dict[str, Any]:
    """Return the JSON Schema named `log`, `summary` or `walkthrough`."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    return content


@cache
def kinds() -> frozenset[str]:
    """Return the kinds of log lines that this version writes and reads; lines of other kinds are left out."""
    return frozenset(rule["if"]["properties"]["kind"]["const"] for rule in schema("log")["allOf"])


@cache
def _validator(name: str, part: str | None) -> Draft202012Validator:
    whole = schema(name)
    return Draft202012Validator(_resolved(whole if part is None else whole["$defs"][part], whole["$defs"]))


def _resolved(part: Any, definitions: dict[str, Any]) -> Any:
    """Return the schema with references replaced by their targets, which makes validation several times as fast."""
    if isinstance(part, list):
        return [_resolved(item, definitions) for item in part]
    if not isinstance(part, dict):
        return part
    whole = {
        key: _resolved(value, definitions) for key, value in part.items() if key not in ("$ref", "$defs")
    }
    if "$ref" in part:
        target = definitions[part["$ref"].removeprefix("#/$defs/")]
        whole["allOf"] = [*whole.get("allOf", []), _resolved(target, definitions)]
    return whole


def fault(value: Any, name: str, part: str | None = None) -> str | None:
    """Return a one-line description of the place where a value violates its schema, or None for a valid value.

    Args:
        value: a result of json.loads.
        name: `log`, `summary` or `walkthrough`.
        part: a definition of the schema to validate against, for example `batch`; None for the whole schema.
    """
    error = best_match(_validator(name, part).iter_errors(value))
    if error is None:
        return None
    where = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in error.absolute_path)
    message = error.message if len(error.message) <= 200 else f"{error.message[:200]}…"
    return f"{where.lstrip('.')}: {message}" if where else message
