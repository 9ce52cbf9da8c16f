"""Commands and code with which a user judges a logged batch again."""

import json
import re
import shlex
import shutil
from pathlib import Path

from tal_conformance.core.batch import Batch
from tal_conformance.core.files import REPOSITORY
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import GIVEN


def reproduction_commands(implementation: Implementation, batch: Batch, case: Path) -> dict[str, str]:
    """Return three ways to reproduce a failure, by name: a pytest command, Python code, and an `@example`.

    Args:
        implementation: the implementation under test.
        batch: the failing batch.
        case: path of the batch's case file.
    """
    name = implementation.spec
    isolated = implementation.in_subprocess and ":" in name
    try:
        path = case.relative_to(Path.cwd())
    except ValueError:
        path = case
    in_repository = Path.cwd() == REPOSITORY
    if name in GIVEN:  # no command can select an object of a process
        return {
            "pytest": "",
            "python": f"from tal_conformance import check\n\ncheck(adapter, {_quoted(str(path))})  # adapter: {name}",
            "example": _example(batch.origin) if batch.origin.startswith("Recipe(") else "",
        }
    pytest_target = "pytest conformance" if in_repository else "pytest --pyargs tal_conformance"
    return {
        "pytest": f"{pytest_target} --implementation {shlex.quote(name)} --case {shlex.quote(str(path))}"
        + " --isolate" * isolated,
        "python": f"from tal_conformance import check\n\ncheck({_quoted(name)}, {_quoted(str(path))}"
        + ", isolate=True" * isolated
        + ")",
        "example": _example(batch.origin) if batch.origin.startswith("Recipe(") else "",
    }


def render_command(folder: Path) -> str:
    """Return the command that renders the report of a run, from the working directory.

    `python -m reports` works only in the root of a clone that is not installed.

    Args:
        folder: folder of the run.
    """
    in_clone = Path.cwd() == REPOSITORY and shutil.which("tal-conformance") is None
    return f"python -m {'reports' if in_clone else 'tal_reports'} render {shlex.quote(str(folder))}"


def _example(recipe: str) -> str:
    """Return the line `@example(recipe)` to put above `@given`, after a comment with the imports it needs."""
    names = dict.fromkeys(re.findall(r"\b[A-Z]\w+(?=\()", recipe))
    imported = ", ".join(name for name in names if name != "Hyperparameters")
    imports = ["from hypothesis import example", f"from tal_conformance import {imported}"]
    imports += ["from tal_reference import Hyperparameters"] * ("Hyperparameters" in names)
    return f"# above @given of a test; needs: {'; '.join(imports)}\n@example(recipe={recipe})"


def _quoted(text: str) -> str:
    """Return text as a Python literal in double quotes."""
    return json.dumps(text, ensure_ascii=False)
