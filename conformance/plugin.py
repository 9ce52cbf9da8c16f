"""pytest plugin of the installed distribution: the options of `pytest --pyargs tal_conformance`, and a fixture.

In other pytest runs the plugin only offers the fixture `conforms`. `pytest conformance` in the repository does not need
the plugin: pytest finds `conftest.py` there by itself.
"""

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

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


@pytest.fixture
def conforms(request: pytest.FixtureRequest) -> Callable[..., Any]:
    """Return `assert_conforms`, whose runs go to `tal-conformance-reports` in pytest's rootdir by default.

    The path of each report becomes a property of the test, which JUnit files contain.
    """
    from tal_conformance import assert_conforms
    from tal_conformance.testing.assertion import DoesNotConform

    def run(adapter: Any, *arguments: Any, **options: Any) -> Any:
        __tracebackhide__ = True
        options.setdefault("report_dir", request.config.rootpath / "tal-conformance-reports")
        try:
            result = assert_conforms(adapter, *arguments, **options)
        except DoesNotConform as error:
            _note(request.node, error.result)
            raise
        _note(request.node, result)
        return result

    return run


def _note(item: pytest.Item, result: Any) -> None:
    item.user_properties.append(("tal_conformance_report", str(result.report())))
