"""Findings: what official code does that is probably a bug, each with a script to be reported upstream."""

from conformance.findings.catalogue import (
    CorruptCatalogue,
    Finding,
    Ran,
    ScriptFailed,
    installed,
    read_findings,
    run_script,
)

__all__ = ["CorruptCatalogue", "Finding", "Ran", "ScriptFailed", "installed", "read_findings", "run_script"]
