"""Case files that a command's argument names."""

from pathlib import Path

from tal_conformance.commands.program import CommandError
from tal_conformance.core.files import REPOSITORY

RUN_FOLDERS = ("reports/runs", "tal-conformance-reports")
"""Folders with runs in which a case is searched by its name."""


def case_file(case: str) -> Path:
    """Return the path of a case file.

    Args:
        case: path of the file, or the name of a case in a run; if several runs have this case, the newest run is used.

    Raises:
        CommandError: the file or case does not exist.
    """
    path = Path(case)
    if path.suffix or path.is_file():
        return path
    parents = [REPOSITORY / RUN_FOLDERS[0], *(Path(folder) for folder in RUN_FOLDERS)]
    for parent in parents:
        files = sorted(parent.glob(f"*/cases/{path.name}.safetensors"), reverse=True)
        if files:
            return files[0]
    raise CommandError(
        f"{case!r} is not a file, and no run in {', '.join(RUN_FOLDERS)} has a case of this name"
    )
