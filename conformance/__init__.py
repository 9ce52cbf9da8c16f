"""Conformance tests for YOLOv8's task-aligned label assigner and detection loss: `pytest conformance`."""

import importlib
from typing import TYPE_CHECKING, Any

if __name__ != "tal_conformance":  # imported by the name of its folder
    from tal_folder_names import hand_over

    hand_over(__name__)

if TYPE_CHECKING:
    from tal_conformance.batches.content.truths import Truth
    from tal_conformance.batches.recipe import Recipe
    from tal_conformance.batches.strategies.detection import recipes
    from tal_conformance.checks.everything import check
    from tal_conformance.core.batch import Batch
    from tal_conformance.core.case_file import InvalidCase
    from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, Stages
    from tal_conformance.core.verdicts import Judgement, Verdict
    from tal_conformance.implementations.errors import (
        PackageUnavailable,
        ProtocolViolation,
        UnknownImplementation,
    )
    from tal_conformance.implementations.registry import find as load_implementation
    from tal_conformance.judgement.failure import Failure
    from tal_conformance.testing.assertion import (
        DoesNotConform,
        assert_conforms,
        conformance_test,
        run_conformance,
    )
    from tal_conformance.testing.child import CannotFork
    from tal_conformance.testing.result import Cause, ConformanceResult
    from tal_conformance.training.callbacks import recording_callbacks
    from tal_conformance.training.summary import recording

_HOMES = {
    "AssignerInputs": "core.outcome",
    "Assignment": "core.outcome",
    "Batch": "core.batch",
    "CannotFork": "testing.child",
    "Cause": "testing.result",
    "ConformanceResult": "testing.result",
    "DoesNotConform": "testing.assertion",
    "InvalidCase": "core.case_file",
    "Failure": "judgement.failure",
    "Judgement": "core.verdicts",
    "Loss": "core.outcome",
    "ProtocolViolation": "implementations.errors",
    "Recipe": "batches.recipe",
    "Stages": "core.outcome",
    "Truth": "batches.content.truths",
    "PackageUnavailable": "implementations.errors",
    "UnknownImplementation": "implementations.errors",
    "Verdict": "core.verdicts",
    "assert_conforms": "testing.assertion",
    "check": "checks.everything",
    "conformance_test": "testing.assertion",
    "load_implementation": "implementations.registry:find",
    "recipes": "batches.strategies.detection",
    "recording": "training.summary",
    "recording_callbacks": "training.callbacks",
    "run_conformance": "testing.assertion",
}
"""Module of each public name, as `MODULE`, or as `MODULE:NAME` if the object has another name in that module."""

__all__ = [
    "AssignerInputs",
    "Assignment",
    "Batch",
    "CannotFork",
    "Cause",
    "ConformanceResult",
    "DoesNotConform",
    "Failure",
    "InvalidCase",
    "Judgement",
    "Loss",
    "PackageUnavailable",
    "ProtocolViolation",
    "Recipe",
    "Stages",
    "Truth",
    "UnknownImplementation",
    "Verdict",
    "assert_conforms",
    "check",
    "conformance_test",
    "load_implementation",
    "recipes",
    "recording",
    "recording_callbacks",
    "run_conformance",
]


def __getattr__(name: str) -> Any:
    """Import a public name on first use, so that pytest's plugin does not import torch in runs of other projects."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, attribute = _HOMES[name].partition(":")
    return getattr(importlib.import_module(f"tal_conformance.{module}"), attribute or name)
