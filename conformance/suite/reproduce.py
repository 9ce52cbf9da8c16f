"""TODO tal_conformance.suite.reproduce."""

import json
import re
import shlex
from pathlib import Path

from tal_conformance.core.batch import Batch
from tal_conformance.core.files import REPOSITORY
from tal_conformance.implementations.protocol import Implementation


def reproduction_commands(implementation: Implementation, batch: Batch, case: Path) -> dict[str, str]:
    """Three ways to judge a batch again."""
    name = implementation.spec
    isolated = implementation.in_subprocess and ":" in name
    try:
        shown = case.relative_to(Path.cwd())
    except ValueError:
        shown = case
    ours = Path.cwd() == REPOSITORY
    pytest_target = "pytest conformance" if ours else "pytest --pyargs tal_conformance"
    return {
        "pytest": f"{pytest_target} --implementation {shlex.quote(name)} --case {shlex.quote(str(shown))}"
        + " --isolate" * isolated,
        "python": f"from tal_conformance import check\n\ncheck({_quoted(name)}, {_quoted(str(shown))}"
        + ", isolate=True" * isolated
        + ")",
        "example": _example(batch.origin) if batch.origin.startswith("Recipe(") else "",
    }


def _example(recipe: str) -> str:
    """What stands above `@given` of a test, and in a comment what the names in it are imported from."""
    names = dict.fromkeys(re.findall(r"\b[A-Z]\w+(?=\()", recipe))
    ours = ", ".join(name for name in names if name != "Hyperparameters")
    imports = ["from hypothesis import example", f"from tal_conformance import {ours}"]
    imports += ["from tal_reference import Hyperparameters"] * ("Hyperparameters" in names)
    return f"# above @given of a test; needs: {'; '.join(imports)}\n@example(recipe={recipe})"


def _quoted(text: str) -> str:
    """Text as Python writes it, between double quotes."""
    return json.dumps(text, ensure_ascii=False)
