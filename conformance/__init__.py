"""Conformance tests for YOLOv8's task-aligned label assigner and detection loss: `pytest conformance`."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from conformance.thorough import check

__all__ = ["check"]


def __getattr__(name: str) -> Any:
    """`check` is imported when it is first used: pytest's plugin must not import torch in everybody's runs."""
    if name == "check":
        from conformance.thorough import check

        return check
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
