"""The adapters of other frameworks load where their framework is installed, and elsewhere say what to install."""

import re
import sys
from pathlib import Path

import pytest

from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.registry import find

FOLDER = Path(__file__).parents[2] / "examples" / "frameworks"
ADAPTERS = {"keras_loss.py:KerasLoss": "keras", "mlx_loss.py:MlxLoss": "mlx"}


@pytest.mark.parametrize(("adapter", "package"), ADAPTERS.items())
def test_it_loads_or_says_what_to_install(adapter: str, package: str, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    try:
        found = find(f"{FOLDER / adapter}")
    except UnknownImplementation as error:
        assert f"pip install {package}" in str(error)  # noqa: PT017 - one of both, by what is installed
    else:
        assert found.name.startswith(package)


@pytest.mark.parametrize(("adapter", "package"), ADAPTERS.items())
def test_without_its_framework_it_says_what_to_install(
    adapter: str, package: str, monkeypatch: pytest.MonkeyPatch
):
    for module in (package, f"{package}.core"):
        monkeypatch.setitem(sys.modules, module, None)  # as if it were not installed
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    with pytest.raises(UnknownImplementation, match=f"is not installed.*pip install {package}"):
        find(f"{FOLDER / adapter}")


def test_every_adapter_is_tested():
    defined = {
        f"{path.name}:{name}"
        for path in FOLDER.glob("*_loss.py")
        for name in re.findall(r"^class (\w+)\(ArrayLoss\)", path.read_text(encoding="utf-8"), re.MULTILINE)
    }
    assert defined == set(ADAPTERS)
