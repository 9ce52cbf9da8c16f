"""Keep Ultralytics from writing settings into the user's home, installing packages and using the network."""

import os
import tempfile
from functools import cache


@cache
def configure_ultralytics() -> str:
    """Give Ultralytics a temporary settings folder, and disable its package installation and network access.

    Call this function before `ultralytics` is imported in the process.

    Returns:
        The settings folder, which is removed when the process ends.
    """
    folder = tempfile.TemporaryDirectory(prefix="tal-conformance-ultralytics-")
    _kept.append(folder)
    os.environ |= {
        "YOLO_CONFIG_DIR": folder.name,
        "YOLO_AUTOINSTALL": "false",
        "YOLO_OFFLINE": "true",
        "YOLO_VERBOSE": "false",
        "ULTRALYTICS_SKIP_REQUIREMENTS_CHECKS": "1",
    }
    return folder.name


_kept: list["tempfile.TemporaryDirectory[str]"] = []
