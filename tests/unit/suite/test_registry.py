"""The registry contains every check; pytest and mutation testing run the same functions from this registry."""

import importlib
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st

import tal_conformance.suite
import tal_conformance.suite.every_check
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.registry import CHECKS, check, check_for
from tal_conformance.core.task import DETECT
from tal_conformance.suite.checker import Checker

SUITE = Path(str(tal_conformance.suite.__file__)).parent


def test_every_module_with_checks_is_imported():
    declaring = {
        path.stem for path in SUITE.glob("test_*.py") if "@check(" in path.read_text(encoding="utf-8")
    }
    assert declaring == {name for name in vars(tal_conformance.suite.every_check) if name.startswith("test_")}


@pytest.mark.parametrize("name", CHECKS)
def test_pytest_runs_the_registered_function(name: str):
    entry = CHECKS[name]
    module = importlib.import_module(entry.body.__module__)
    test = getattr(module, f"test_{name}")
    assert test.hypothesis.inner_test is entry.body
    groups = [mark.args[0] for mark in test.pytestmark if mark.name == "clauses"]
    assert groups == list(entry.clauses[:1])


def test_every_stage_has_a_check():
    assert {stage: check_for(clause).name for stage, clause in DETECT.clauses.items()} == {
        "decode": "decoding", "candidates": "borders", "overlap": "metric", "metric": "metric", "top-k": "topk",
        "conflict": "conflict", "targets": "targets", "normalisation": "targets", "cls": "loss", "box": "loss",
        "dfl": "loss", "total": "loss", "gradients": "loss",
    }  # fmt: skip


def test_a_clause_without_check_is_an_error():
    with pytest.raises(LookupError, match="no check covers the clause 'NO-SUCH-1'"):
        check_for("NO-SUCH-1")


@pytest.fixture
def entries(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove from the registry, after the test, the checks that the test has registered."""
    for name in ("a_share", "of_each_value"):
        monkeypatch.setitem(CHECKS, name, None)


@pytest.mark.usefixtures("entries")
def test_a_check_draws_its_share():
    drawn = []

    @check("TAL", batches=st.integers(), share=3, least=2)
    def test_a_share(recipe: int) -> None:
        drawn.append(recipe)

    assert [CHECKS["a_share"].examples(number) for number in (90, 3)] == [30, 2]
    test_a_share()
    current = settings.default
    assert current is not None
    assert len(drawn) == max(2, current.max_examples // 3)


@pytest.mark.usefixtures("entries")
def test_a_check_with_a_parameter_is_one_test_for_each_value():
    @check("TAL", batches=st.just(Recipe()), parameter=("dtype", ["a", "b"]))
    def test_of_each_value(checker: Checker, dtype: str, recipe: Recipe) -> None:
        checker(recipe)

    assert list(CHECKS["of_each_value"].calls()) == [
        ("test_of_each_value[a]", {"dtype": "a"}),
        ("test_of_each_value[b]", {"dtype": "b"}),
    ]
