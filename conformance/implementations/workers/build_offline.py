"""Run pip, and with it the build script of a source release, in a network namespace without interfaces.

This file runs as a script, by its path, with the arguments of pip. It imports nothing but the standard library and the
script that confines workers, beside it.
"""

import importlib.util
import runpy
import sys
from pathlib import Path

NO_NAMESPACE = 78
"""Exit status if this system lets the process enter no network namespace."""


def main() -> None:
    """Enter a network namespace without interfaces, and run pip.

    Raises:
        SystemExit: with `NO_NAMESPACE` if no network namespace can be made, else with the exit status of pip.
    """
    specification = importlib.util.spec_from_file_location("confine", Path(__file__).with_name("confine.py"))
    assert specification is not None
    assert specification.loader is not None
    confine = importlib.util.module_from_spec(specification)
    specification.loader.exec_module(confine)
    if confine.leave_network() != confine.NAMESPACE:
        sys.exit(NO_NAMESPACE)
    sys.argv = ["pip", *sys.argv[1:]]
    runpy.run_module("pip", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main()
