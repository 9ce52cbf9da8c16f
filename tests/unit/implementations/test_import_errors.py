"""For an adapter that cannot be imported or instantiated, the traceback of the adapter's own frames is shown."""

from pathlib import Path

import pytest

from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.registry import find
from tal_conformance.suite.loading import find_implementations

BROKEN = "def helper():\n    raise KeyError('no weights')\n\n\nhelper()\n\n\nclass Adapter:\n    name = 'a'\n"
MAKES = "class Adapter:\n    name = 'a'\n\n    def __init__(self):\n        self.weights = {}['none']\n"


@pytest.mark.parametrize("isolate", [False, True], ids=["here", "worker"])
def test_an_import_that_raises(tmp_path: Path, isolate: bool):
    path = tmp_path / "broken.py"
    path.write_text(BROKEN, encoding="utf-8")
    with pytest.raises(UnknownImplementation) as caught:
        find(f"{path}:Adapter", isolate=isolate)
    assert "in helper" in caught.value.details
    assert "broken.py" in caught.value.details
    assert "KeyError: 'no weights'" in caught.value.details


def test_the_session_prints_it(tmp_path: Path):
    path = tmp_path / "broken.py"
    path.write_text(BROKEN, encoding="utf-8")
    with pytest.raises(pytest.UsageError) as caught:
        find_implementations([f"{path}:Adapter"])
    first, *rest = str(caught.value.args[0]).splitlines()
    assert "raised KeyError: 'no weights'" in first
    assert any("in helper" in line for line in rest)
    assert not any("importlib" in line for line in rest)


def test_an_adapter_that_cannot_be_made(tmp_path: Path):
    path = tmp_path / "makes.py"
    path.write_text(MAKES, encoding="utf-8")
    with pytest.raises(ProtocolViolation) as caught:
        find(f"{path}:Adapter")
    assert "in __init__" in caught.value.details
