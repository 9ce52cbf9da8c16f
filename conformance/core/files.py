"""Folders of the project, and where reports go."""

from pathlib import Path

PACKAGES = Path(__file__).parents[2]
"""Folder that the packages are imported from: src/ in this repository, site-packages elsewhere."""
REPOSITORY = Path(__file__).resolve().parents[2]
"""This repository; site-packages where the distribution is installed."""


def default_report_dir(working: Path) -> Path:
    """Where runs are left that start in the folder `working`: reports/runs in this repository, else under it."""
    if working == REPOSITORY or REPOSITORY in working.parents:
        return REPOSITORY / "reports" / "runs"
    return working / "tal-conformance-reports"
