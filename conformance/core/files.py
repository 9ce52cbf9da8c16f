"""Folders of the project, the default report folder, and atomic creation of files and folders."""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

PACKAGES = Path(__file__).parents[2]
"""Folder that the packages are imported from: src/ in this repository, site-packages elsewhere."""
REPOSITORY = Path(__file__).resolve().parents[2]
"""Root folder of this repository; site-packages if the distribution is installed."""

SETTLED = 60.0
"""Age in seconds from which a temporary folder without a lock counts as abandoned."""


def default_report_dir(working: Path) -> Path:
    """Return the folder for the reports of runs that start in `working`.

    It is reports/runs in this repository, and below `working` elsewhere.
    """
    if working == REPOSITORY or REPOSITORY in working.parents:
        return REPOSITORY / "reports" / "runs"
    return working / "tal-conformance-reports"


LARGEST_FILE = 2**33
"""Size in bytes of the largest file that is read; a batch in training has a hundredth of it."""


def check_regular(path: Path, largest: int = LARGEST_FILE) -> None:
    """Raise unless a path leads to a regular file that is not too large. Pipes and devices are not opened.

    Raises:
        OSError: the file does not exist, is not a regular file, or is too large.
    """
    status = path.stat()
    if not stat.S_ISREG(status.st_mode):
        kinds = {stat.S_IFDIR: "a directory", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
        kind = kinds.get(stat.S_IFMT(status.st_mode), "a device")
        raise OSError(errno.EINVAL, f"expected a file, found {kind}", str(path))
    if status.st_size > largest:
        raise OSError(
            errno.EFBIG, f"the file has {status.st_size:,} bytes, expected at most {largest:,}", str(path)
        )


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


class TemporaryFolder:
    """A temporary folder; if the process that made it is killed, the next process with such a folder removes it.

    The process holds a lock on the folder; the system releases the lock when the process ends.

    Args:
        prefix: beginning of the name; folders of killed processes with this prefix are removed.

    Attributes:
        path: the folder.
    """

    def __init__(self, prefix: str) -> None:
        remove_abandoned(prefix)
        self.path = Path(tempfile.mkdtemp(prefix=prefix))
        self._lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        fcntl.flock(self._lock, fcntl.LOCK_EX)

    def remove(self) -> None:
        """Remove the folder with its content."""
        if self._lock >= 0:
            shutil.rmtree(self.path, ignore_errors=True)
            os.close(self._lock)
            self._lock = -1


def remove_abandoned(prefix: str) -> None:
    """Remove the temporary folders with this prefix whose process does not run any more."""
    for folder in Path(tempfile.gettempdir()).glob(f"{prefix}*"):
        with suppress(OSError):
            status = folder.lstat()
            if not folder.is_dir() or folder.is_symlink() or status.st_uid != os.getuid():
                continue
            if time.time() - status.st_mtime < SETTLED:
                continue  # its owner may not have locked it yet
            lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(folder, ignore_errors=True)
            finally:
                os.close(lock)
