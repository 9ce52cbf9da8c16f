"""The JSON Schemas of log lines and of summary.json, and what is wrong with a value by them."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

FOLDER = Path(__file__).parents[1] / "schema"
"""Where the schemas lie, for tools that read what a run leaves."""


@cache
def schema(name: str) -> dict[str, Any]:
    """The schema `log` or `summary`."""
    content: dict[str, Any] = json.loads((FOLDER / f"{name}.schema.json").read_text(encoding="utf-8"))
    return content


@cache
def kinds() -> frozenset[str]:
    """The kinds of line that this version writes and reads; its readers leave out others, as the log's schema says."""
    return frozenset(rule["if"]["properties"]["kind"]["const"] for rule in schema("log")["allOf"])


@cache
def _validator(name: str, part: str | None) -> Draft202012Validator:
    whole = schema(name)
    return Draft202012Validator(_resolved(whole if part is None else whole["$defs"][part], whole["$defs"]))


def _resolved(part: Any, definitions: dict[str, Any]) -> Any:
    """The schema with every reference replaced by what it refers to: several times as fast to validate by."""
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
