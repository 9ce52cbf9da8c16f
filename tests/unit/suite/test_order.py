"""Quick modules run first, and all tests of an implementation remain together."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from tal_conformance.suite.order import SLOW, slow_modules_last

SUITE = Path(__file__).parents[3] / "conformance" / "suite"


def item(module: str, name: str | None = None) -> Any:
    subject = SimpleNamespace(implementation=SimpleNamespace(name=name))
    callspec = SimpleNamespace(params={} if name is None else {"subject": subject})
    return SimpleNamespace(path=Path(f"{module}.py"), callspec=callspec, key=(module, name))


def test_slow_modules_come_last_within_their_implementation():
    modules = ("test_annotations", "test_training", "test_devices", "test_topk")
    items = [item(module, name) for name in ("a", "b") for module in modules] + [item("test_dialects")]
    order = ("test_annotations", "test_topk", "test_devices", "test_training")
    expected = [(module, name) for name in ("a", "b") for module in order] + [("test_dialects", None)]
    assert [test.key for test in slow_modules_last(items)] == expected


def test_tests_of_others_keep_their_order():
    items = [item("test_z"), item("test_a"), item("test_z")]
    assert slow_modules_last(items) == items


def test_the_slow_modules_exist():
    assert [name for name in SLOW if not (SUITE / f"{name}.py").is_file()] == []
