"""Folders of the project, the default report folder, and atomic creation of files and folders."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PACKAGES = Path(__file__).parents[2]
"""Folder that the packages are imported from: src/ in this repository, site-packages elsewhere."""
REPOSITORY = Path(__file__).resolve().parents[2]
"""Root folder of this repository; site-packages if the distribution is installed."""


def default_report_dir(working: Path) -> Path:
    """Return the folder for the reports of runs that start in `working`.

    It is reports/runs in this repository, and below `working` elsewhere.
    """
    if working == REPOSITORY or REPOSITORY in working.parents:
        return REPOSITORY / "reports" / "runs"
    return working / "tal-conformance-reports"


@contextmanager
def write_atomically(path: Path) -> Iterator[Path]:
    """Yield a path beside `path` to write to; when the block ends, the file written there replaces `path`.

    If the block raises, `path` stays as it was, and the unfinished file is deleted.
    """
    unfinished = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        yield unfinished
        unfinished.replace(path)
    finally:
        unfinished.unlink(missing_ok=True)


@contextmanager
def create_folder_atomically(folder: Path) -> Iterator[Path]:
    """Yield an empty folder beside `folder` to fill; when the block ends, it replaces `folder`.

    If the block raises, `folder` stays as it was, and the unfinished folder is deleted.
    """
    unfinished = Path(tempfile.mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        yield unfinished
        shutil.rmtree(folder, ignore_errors=True)
        unfinished.rename(folder)
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)
