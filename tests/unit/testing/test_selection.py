"""Names of a class or function, with which another process can import it."""

import functools
import sys
from pathlib import Path

import pytest

import tal_conformance.implementations.adapters.reference as module
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.registry import find
from tal_conformance.testing.selection import importable_name


class Own(ReferenceAdapter):
    class Inner:
        """A nested class, defined inside another class."""


def test_a_class_of_a_package_is_named_by_module():
    assert importable_name(ReferenceAdapter) == f"{module.__name__}:ReferenceAdapter"


def test_a_class_in_a_class_is_named_by_both():
    assert importable_name(Own.Inner) == f"{__name__}:Own.Inner"


def test_a_class_of_a_file_outside_of_the_path_is_named_by_file(tmp_path: Path):
    path = tmp_path / "adapter_aside.py"
    path.write_text("class Mine:\n    def assign(self, inputs): ...\n")
    mine = type(find(f"{path}:Mine").adapter)
    assert importable_name(mine) == f"{path}:Mine"


def test_a_file_that_hides_behind_another_module_of_its_name_is_named_by_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    for name in ("first", "second"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_twice.py").write_text("class Mine: pass\n")
    monkeypatch.syspath_prepend(tmp_path / "first")
    import adapter_twice

    monkeypatch.setitem(sys.modules, "adapter_twice", adapter_twice)
    assert importable_name(adapter_twice.Mine) == "adapter_twice:Mine"
    monkeypatch.syspath_prepend(tmp_path / "second")
    assert importable_name(adapter_twice.Mine) == f"{tmp_path}/first/adapter_twice.py:Mine"


def local() -> type:
    class Local(ReferenceAdapter):
        pass

    return Local


@pytest.mark.parametrize(
    "target",
    [Own(), local(), local()(), functools.partial(Own), lambda: 3, len, 3, None],
    ids=["object", "local class", "local object", "partial", "lambda", "builtin", "number", "none"],
)
def test_an_object_that_no_other_process_can_import_has_no_name(target: object):
    assert importable_name(target) is None


def test_a_name_that_now_leads_to_another_object_is_not_used(monkeypatch: pytest.MonkeyPatch):
    original = Own
    monkeypatch.setattr(sys.modules[__name__], "Own", ReferenceAdapter)
    assert importable_name(original) is None
