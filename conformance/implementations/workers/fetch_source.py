"""Let pip download and unpack a source release, and end before it runs any code of the release.

This file runs as a script, by its path, with the arguments of `pip download`. To learn the dependencies of a source
release, pip starts Python with the release's build script. An audit hook ends the process at that moment: the unpacked
release then lies in the folder for temporary files.
"""

import os
import runpy
import sys
from typing import Any

FETCHED = 77
"""Exit status when pip has downloaded and unpacked the release."""


def end_before_python(event: str, arguments: tuple[Any, ...]) -> None:
    """End this process before it starts another Python. Other programs may start: pip runs `uname`, for example."""
    if event == "subprocess.Popen" and arguments[1] and os.fsdecode(arguments[1][0]) == sys.executable:
        os._exit(FETCHED)


def main() -> None:
    """Run pip with an audit hook that ends this process before it starts another Python."""
    sys.addaudithook(end_before_python)
    sys.argv = ["pip", *sys.argv[1:]]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
