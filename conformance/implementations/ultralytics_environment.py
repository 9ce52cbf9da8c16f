"""Ultralytics keeps settings in the user's home, installs what it misses and looks for the network. Not here."""

import os
import tempfile
from functools import cache


@cache
def configure_ultralytics() -> str:
    """Point Ultralytics to a folder of its own for as long as this process lives, without installs or network.

    Must be called before `ultralytics` is imported anywhere in the process.

    Returns:
        The folder that takes its settings; it goes with the process.
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
