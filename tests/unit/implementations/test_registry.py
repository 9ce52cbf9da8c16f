"""Loading implementations by name, and the messages for names that cannot be loaded."""

import os
import subprocess
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from tal_conformance.core.files import PACKAGES
from tal_conformance.core.outcome import AssignerInputs, Assignment
from tal_conformance.implementations.adapters import ultralytics
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.implementations.registry import REGISTERED, find
from tal_conformance.suite.loading import find_implementations
from tal_reference import ARTICLE, DIALECTS, NEWEST, Dialect

ADAPTER = """
class Adapter:
    name = {name!r}

    def assign(self, inputs):
        raise NotImplementedError
"""


class Assigner:
    def assign(self, inputs: AssignerInputs) -> Assignment:
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Change to a working directory with Python files of adapters, some of which raise when imported."""
    monkeypatch.chdir(tmp_path)
    imported, searched = set(sys.modules), list(sys.path)
    files = {
        "good.py": ADAPTER.format(name="good") + "adapter = Adapter()\nclass Outer:\n    Inner = Adapter\n",
        "same name/good.py": ADAPTER.format(name="also good") + "adapter = Adapter()\n",
        "package/__init__.py": "",
        "package/module.py": ADAPTER.format(name="in a package"),
        "raises.py": "raise RuntimeError('no GPU here')",
        "exits.py": "import sys\nsys.exit('usage: exits.py')",
        "wrong.py": "def f(:\n",
        "lacks.py": "import a_package_that_nobody_has",
    }
    for name, text in files.items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
    (tmp_path / "folder.py").mkdir()
    yield tmp_path
    for name in set(sys.modules) - imported:
        del sys.modules[name]
    sys.path[:] = searched


FOUND = {
    "good.py:adapter": "good",
    "good.py:Adapter": "good",
    "good.py:Outer.Inner": "good",
    "./good.py:adapter": "good",
    "same name/good.py:adapter": "also good",
    "good:adapter": "good",
    "package.module:Adapter": "in a package",
}


@pytest.mark.parametrize("asked", FOUND)
def test_found(folder: Path, asked: str):
    found = find(asked)
    assert (found.name, found.spec) == (FOUND[asked], asked)


def test_a_module_is_found_in_the_working_directory_without_leaving_that_in_the_path(folder: Path):
    path = list(sys.path)
    find("package.module:Adapter")
    assert sys.path == path


def test_a_file_may_import_what_lies_beside_it(folder: Path):
    (folder / "same name/user.py").write_text("def make():\n    import beside\n    return beside.Adapter()\n")
    (folder / "same name/beside.py").write_text(ADAPTER.format(name="beside"))
    assert find("same name/user.py:make").name == "beside"


def test_found_by_absolute_path(folder: Path):
    assert find(f"{folder / 'good.py'}:Adapter").name == "good"


def test_files_of_one_name_are_not_confused(folder: Path):
    assert [find(f"{where}good.py:Adapter").name for where in ("", "same name/", "")] == [
        "good", "also good", "good",
    ]  # fmt: skip


@pytest.mark.parametrize("name", REGISTERED)
def test_registered(name: str):
    found = find(name)
    assert found.name == found.spec == name
    assert found.capabilities == ["assign", "loss"] + ["stages"] * (not name.startswith("rearranged"))


UNKNOWN = {
    "nothing": "unknown implementation 'nothing'. Choose one of ultralytics, article, reference, rearranged, ",
    "refrence": "unknown implementation 'refrence'; did you mean 'reference'? Choose one of ultralytics, ",
    "": "unknown implementation ''",
    ":": "unknown implementation ':'",
    "good:": "unknown implementation 'good:'",
    ":adapter": "unknown implementation ':adapter'",
    "good.py": (
        "'good.py' is a file: append the name of one of its objects, as good.py:OBJECT. "
        "Its objects: Adapter, adapter, Outer"
    ),
    "absent.py": "unknown implementation 'absent.py'",
    "absent.py:adapter": "implementation file not found: absent.py (looked in /",
    "goood.py:adapter": "implementation file not found: goood.py (looked in /",
    "folder.py:adapter": "implementation file not found: folder.py (looked in /",
    "yolo8==1.0.0": "unknown package in 'yolo8==1.0.0'; did you mean 'yolo9'",
    "ultralytic==8.3.0": "unknown package in 'ultralytic==8.3.0'; did you mean 'ultralytics'?",
    "absent.module:adapter": "importing absent.module raised ModuleNotFoundError: No module named 'absent'",
    "good.py:nobody": "good.py has no object 'nobody'. Its objects: Adapter, adapter, Outer",
    "good.py:Outr": "good.py has no object 'Outr'; did you mean 'Outer'? Its objects: ",
    "good:Outer.nobody": "good has no object 'Outer.nobody'. Its objects: Adapter, adapter, Outer",
    "good:Outer.Iner": "good has no object 'Outer.Iner'; did you mean 'Inner'? Its objects: ",
    "raises.py:adapter": "running raises.py raised RuntimeError: no GPU here",
    "raises:adapter": "importing raises raised RuntimeError: no GPU here",
    "exits.py:adapter": "running exits.py raised SystemExit: usage: exits.py",
    "exits:adapter": "importing exits raised SystemExit: usage: exits.py",
    "wrong.py:adapter": "running wrong.py raised SyntaxError",
    "wrong:adapter": "importing wrong raised SyntaxError",
    "lacks.py:adapter": "running lacks.py raised ModuleNotFoundError: No module named 'a_package_that_nobody_has'",
}


@pytest.mark.parametrize("asked", UNKNOWN)
def test_unknown(folder: Path, asked: str):
    with pytest.raises(UnknownImplementation) as caught:
        find(asked)
    assert str(caught.value).startswith(UNKNOWN[asked])


IMPORTS_OLD_NAMES = """
from conformance.implementations import Assignment
from reference import Head
import tal_conformance, tal_reference
assert Assignment is tal_conformance.implementations.Assignment
assert Head is tal_reference.Head

class Adapter:
    name = "old names"

    def assign(self, inputs):
        from conformance.core.outcome import AssignerInputs
        assert isinstance(inputs, AssignerInputs)
        raise ValueError("reached")
"""


@pytest.mark.parametrize("isolate", [False, True])
@pytest.mark.parametrize("where", ["adapter.py:Adapter", "adapter:Adapter"])
def test_an_adapter_may_import_the_packages_by_their_old_names(tmp_path: Path, where: str, isolate: bool):
    (tmp_path / "adapter.py").write_text(IMPORTS_OLD_NAMES, encoding="utf-8")
    script = (
        "import sys\n"
        "from tal_conformance.batches.recipe import Recipe\n"
        "from tal_conformance.implementations import ImplementationFailed, execute, find\n"
        f"found = find({where!r}, isolate={isolate})\n"
        "try:\n"
        "    execute(found, Recipe().build())\n"
        "except ImplementationFailed as error:\n"
        "    print(found.name, error.what)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(PACKAGES)}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("old names raised ValueError: reached"), done.stderr


def raising() -> Any:
    raise ValueError("no weights")


def exiting() -> Any:
    sys.exit("no weights")


class NeedsArguments(Assigner):
    def __init__(self, weights: str) -> None:
        self.weights = weights


class Unmakeable(Assigner):
    def __init__(self) -> None:
        raise OSError("no such file")


class Of(Assigner):
    def __init__(self, dialect: Any) -> None:
        self.dialect = dialect


class Nothing:
    pass


VIOLATIONS: dict[str, tuple[Any, str]] = {
    "a number": (3, "x has type int, without `assign(inputs)` and without `loss("),
    "None": (None, "x has type NoneType, without `assign"),
    "a module": (sys, "x has type module, without `assign"),
    "an object without methods": (Nothing(), "x has type Nothing, without `assign"),
    "a class without methods": (Nothing, "x has type Nothing, without `assign"),
    "a function that returns None": (lambda: None, "x has type NoneType, without `assign"),
    "a function that raises": (raising, "x: making the adapter raised ValueError: no weights"),
    "a function that exits": (exiting, "x: making the adapter raised SystemExit: no weights"),
    "a function with arguments": (lambda weights: Assigner(), "x: making the adapter raised TypeError"),
    "a class with arguments": (NeedsArguments, "x: making the adapter raised TypeError"),
    "a class that raises": (Unmakeable, "x: making the adapter raised OSError: no such file"),
    "an unknown dialect": (
        Of("yolov9"), f"x: unknown dialect 'yolov9'. Known dialects: {', '.join(DIALECTS)}",
    ),
    "a dialect that is none": (Of(8), "x: `dialect` must be a dialect or its name, not int"),
}  # fmt: skip


@pytest.mark.parametrize("adapter", VIOLATIONS)
def test_violations(adapter: str):
    what, message = VIOLATIONS[adapter]
    with pytest.raises(ProtocolViolation) as caught:
        implementation_from(what, "x")
    assert str(caught.value).startswith(message)


class LossWithSettings:
    def __init__(self, num_classes: int) -> None: ...

    def assign(self, scores: Any, boxes: Any) -> None: ...


@pytest.mark.parametrize(("target", "is_hinted"), [(LossWithSettings, True), (NeedsArguments, False)])
def test_a_loss_that_is_no_adapter_is_told_how_to_get_one(target: Any, is_hinted: bool):
    with pytest.raises(ProtocolViolation) as caught:
        implementation_from(target, "my.loss:Loss")
    hint = "write one: tal-conformance init my_adapter.py --from my.loss:Loss"
    assert (hint in str(caught.value)) == is_hinted


def test_a_mistyped_module_is_answered_with_the_nearest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    (tmp_path / "nearly_right.py").write_text("")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UnknownImplementation, match=r"'nearly_rihgt'; did you mean 'nearly_right'\?"):
        find("nearly_rihgt:Adapter")


def test_what_an_adapter_need_not_say():
    found = implementation_from(Assigner, "my.py:Assigner")
    assert (found.name, found.version, found.dialect) == ("my.py:Assigner", "unknown", NEWEST)
    assert not found.exposes_stages
    assert found.capabilities == ["assign"]


@pytest.mark.filterwarnings("error::DeprecationWarning")
def test_stages_are_declared_by_exposes_stages():
    class Declares(Assigner):
        exposes_stages = True

    assert implementation_from(Declares, "x").exposes_stages


def test_the_old_name_of_exposes_stages_is_accepted_with_a_warning():
    class Declares(Assigner):
        shows_stages = True

    with pytest.warns(
        DeprecationWarning, match="Declares.shows_stages: rename the attribute to exposes_stages"
    ):
        found = implementation_from(Declares, "x")
    assert found.exposes_stages


@pytest.mark.parametrize("dialect", [ARTICLE, "article"])
def test_a_dialect_or_its_name(dialect: Dialect | str):
    assert implementation_from(Of(dialect), "x").dialect == ARTICLE


def test_an_object_that_can_be_called_is_not_called():
    class Module(Assigner):
        def __call__(self) -> None:
            raise AssertionError("called")

    assert implementation_from(Module(), "x").capabilities == ["assign"]


def test_implementations_that_cannot_be_loaded_are_a_usage_error_of_a_line_and_a_traceback(folder: Path):
    with pytest.raises(pytest.UsageError) as caught:
        find_implementations(["nobody", "good.py:adapter", "raises.py:adapter", "article"])
    first, second = caught.value.args
    assert first.startswith("--implementation nobody: ")
    assert second.startswith("--implementation raises.py:adapter: ")
    assert "\n" not in first
    line, _, traceback = second.partition("\n")
    assert "raised" in line
    assert "Traceback (most recent call last):" in traceback


def test_two_of_one_name_are_told_apart(folder: Path):
    found = find_implementations(["good.py:adapter", "good.py:Adapter", "good.py:adapter"])
    assert [one.name for one in found] == ["good", "good.py:Adapter"]


# Ultralytics is not installed


def find_ultralytics() -> str:
    with pytest.raises(UnknownImplementation) as caught:
        find("ultralytics")
    return str(caught.value)


def test_ultralytics_is_not_installed(monkeypatch: pytest.MonkeyPatch):
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert find_ultralytics() == "ultralytics is not installed: run `pip install ultralytics`"


def test_ultralytics_is_too_old(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(metadata, "version", lambda name: "8.3.1")
    assert find_ultralytics() == (
        "ultralytics 8.3.1 is installed; expected 8.4.128 or newer: older releases have another dialect. "
        "Upgrade it, or select the older release with --implementation ultralytics==8.3.1"
    )


def test_ultralytics_cannot_be_imported(monkeypatch: pytest.MonkeyPatch):
    ultralytics.load_release.cache_clear()
    monkeypatch.setitem(sys.modules, "ultralytics.utils", None)
    try:
        assert find_ultralytics().startswith("importing ultralytics raised ModuleNotFoundError")
    finally:
        ultralytics.load_release.cache_clear()


@pytest.mark.parametrize(
    ("declared", "wrong"),
    [
        (("float12",), "'float12'"),
        ("float64", "'float64'"),
        (("float64", 16), "16"),
        (None, "None"),
        (3, "3"),
    ],
)
def test_precisions_are_a_tuple_of_known_names(declared: Any, wrong: str):
    adapter = Assigner()
    adapter.precisions = declared
    with pytest.raises(ProtocolViolation, match=f"mine.*precisions.*{wrong}.*float64, autocast-float16"):
        implementation_from(adapter, "mine")
