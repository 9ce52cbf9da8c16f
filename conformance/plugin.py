"""pytest plugin of the installed distribution. It registers the options of `pytest --pyargs tal_conformance`.

In other pytest runs the plugin does nothing. `pytest conformance` in the repository does not need it: pytest finds
`conftest.py` there by itself.
"""

import importlib
from pathlib import Path

import pytest


def pytest_load_initial_conftests(early_config: pytest.Config) -> None:
    """Register the suite's conftest before options are parsed, if an argument names the suite's package."""
    known = early_config.known_args_namespace
    targets = [argument.split("::")[0] for argument in known.file_or_dir]
    by_name = [
        name for name in targets if name.split(".")[0] == "tal_conformance" and not Path(name).exists()
    ]
    if not (known.pyargs and by_name):
        return
    conftest = importlib.import_module("tal_conformance.conftest")
    name = str(conftest.__file__)
    if not early_config.pluginmanager.has_plugin(name):
        early_config.pluginmanager.register(conftest, name)
