"""`assert_conforms` and similar functions: options of the child process, and errors from its exit status."""

import inspect
from pathlib import Path
from typing import Any

import pytest
from tests.common.run_logs import batch, divergence, implementation, run_line, write

from tal_conformance import assert_conforms, conformance_test, run_conformance
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.testing import assertion
from tal_conformance.testing.assertion import DoesNotConform
from tal_conformance.testing.child import CannotFork, Finished

RUN = ("run", run_line([implementation("my-assigner")]))


class Own(ReferenceAdapter):
    pass


class Children:
    """Stand-in for the child process: stores the options, and writes a prepared run."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.options, self.given, self.limit = folder, [], {}, None
        self.status, self.output, self.timed_out = 0, "", False

    def by_name(self, options: list[str], title: str, limit: float | None, show: bool) -> Finished:
        self.options, self.limit = options, limit
        return Finished(self.status, self.folder, self.output, self.timed_out)

    def by_fork(self, options: list[str], given: Any, *rest: Any) -> Finished:
        self.given = dict(given)
        return self.by_name(options, *rest)


@pytest.fixture
def children(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Children:
    """Replace the child process of `assert_conforms` by a stand-in whose run passes."""
    stand_in = Children(tmp_path / "run")
    write(stand_in.folder, [RUN, ("batch", batch(0, "my-assigner")), ("end", {"exit": 0})])
    monkeypatch.setattr(assertion, "run_by_name", stand_in.by_name)
    monkeypatch.setattr(assertion, "run_by_fork", stand_in.by_fork)
    return stand_in


@pytest.fixture
def failing(children: Children, tmp_path: Path) -> Children:
    """Replace the child process of `assert_conforms` by a stand-in whose run has a divergence."""
    children.folder, children.status = tmp_path / "failing", 1
    lines = ("batch", batch(0, "my-assigner")), ("divergence", divergence()), ("end", {"exit": 1})
    write(children.folder, [RUN, *lines])
    return children


def value(options: list[str], name: str) -> str:
    return options[options.index(name) + 1]


def test_a_class_is_given_by_name(children: Children):
    assert assert_conforms(Own).conforms
    assert value(children.options, "--implementation") == f"{__name__}:Own"
    assert not children.given


@pytest.mark.parametrize("name", ["ultralytics", "ultralytics==8.3.253", "mine.py:Mine"])
def test_a_name_is_given_as_it_is(children: Children, name: str):
    assert_conforms(name)
    assert value(children.options, "--implementation") == name


def test_an_object_is_given_itself(children: Children):
    own = Own()
    assert_conforms(own)
    assert children.given == {value(children.options, "--implementation"): own}


def test_every_argument_becomes_an_option(children: Children, tmp_path: Path):
    assert_conforms(
        Own, "nightly", "detect", device="cpu", dialect="article", isolate=True, timeout=7.0,
        report_dir=tmp_path, options=["-k", "topk"],
    )  # fmt: skip
    names = ("--conformance-profile", "--task", "--device", "--dialect", "--report-dir", "-k")
    expected = ["nightly", "detect", "cpu", "article", str(tmp_path), "topk"]
    assert [value(children.options, name) for name in names] == expected
    assert "--isolate" in children.options
    assert children.limit == 7.0


def test_a_failure_is_an_assertion_error_with_the_message_and_the_result(failing: Children):
    with pytest.raises(DoesNotConform, match="my-assigner diverges") as caught:
        assert_conforms(Own)
    assert isinstance(caught.value, AssertionError)
    assert caught.value.result.causes[0].clause == "TAL-CONF-1"
    assert str(caught.value) == caught.value.result.message


def test_run_conformance_returns_a_failing_result(failing: Children):
    assert run_conformance(Own).verdict == "divergent"


def test_a_run_that_a_limit_stopped_does_not_conform(children: Children):
    children.status, children.timed_out = 2, True
    with pytest.raises(DoesNotConform, match="time limit of 3 s"):
        assert_conforms(Own, timeout=3)


def test_an_implementation_that_cannot_be_loaded_is_an_error(children: Children):
    children.status, children.output = 4, "ERROR: --implementation nobody: unknown implementation 'nobody'\n"
    with pytest.raises(UnknownImplementation, match=r"^--implementation nobody: unknown"):
        assert_conforms("nobody")


def test_a_run_that_ended_before_its_begin_is_an_error_with_its_output(children: Children, tmp_path: Path):
    children.status, children.output, children.folder = -9, "the last words", tmp_path / "nowhere"
    with pytest.raises(RuntimeError, match=r"(?s)exit status -9.*the last words"):
        assert_conforms(Own)


def test_the_error_about_a_process_that_cannot_be_copied_says_what_to_do(
    children: Children, monkeypatch: pytest.MonkeyPatch
):
    def refuse(*_: Any) -> Finished:
        raise CannotFork("CUDA is in use")

    monkeypatch.setattr(assertion, "run_by_fork", refuse)
    with pytest.raises(CannotFork, match=r"CUDA is in use\. Put the class or function at the top of a file"):
        assert_conforms(Own())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"profile": "nightl"}, "unknown profile 'nightl'; did you mean 'nightly'"),
        ({"task": "detection"}, "unknown task 'detection'; did you mean 'detect'"),
    ],
)
def test_a_mistyped_argument_is_an_error(children: Children, arguments: dict[str, str], message: str):
    with pytest.raises(ValueError, match=message):
        assert_conforms(Own, **arguments)


def test_an_object_cannot_be_isolated(children: Children):
    with pytest.raises(ValueError, match="isolate=True needs an importable class"):
        assert_conforms(Own(), isolate=True)


def test_the_decorator_calls_the_function_with_the_result(children: Children):
    results = []

    @conformance_test(Own, profile="dev")
    def test_own(tmp_path: Path, result: Any) -> None:
        results.append((tmp_path, result.verdict))

    assert list(inspect.signature(test_own).parameters) == ["tmp_path"]
    test_own(tmp_path=Path("x"))
    assert results == [(Path("x"), "conforms")]
    assert value(children.options, "--conformance-profile") == "dev"


def test_the_decorator_parametrizes_over_several_adapters(children: Children):
    @conformance_test(Own, "article")
    def test_each() -> None:
        pass

    (mark,) = test_each.pytestmark  # type: ignore[attr-defined]
    assert mark.args == ("adapter", (Own, "article"))
    assert mark.kwargs == {"ids": ["Own", "article"]}
    test_each(adapter="article")
    assert value(children.options, "--implementation") == "article"


def test_the_decorator_does_not_call_the_function_of_a_failing_run(failing: Children):
    @conformance_test(Own)
    def test_own() -> None:
        pytest.fail("the function was called")

    with pytest.raises(DoesNotConform):
        test_own()


@pytest.mark.parametrize("given", ["nothing", "the function itself"])
def test_the_decorator_without_an_adapter_is_an_error(given: str):
    def function() -> None:
        """Stand for a test to which the decorator is applied without parentheses."""

    function.__name__ = "test_mine"
    with pytest.raises(TypeError, match="needs an adapter"):
        conformance_test(*([] if given == "nothing" else [function]))


def test_an_error_of_usage_is_the_error_and_not_the_list_of_options():
    output = (
        "ERROR: usage: python -m pytest [options] [file_or_dir]\n"
        "python -m pytest: error: argument --device: unknown device 'gpu'. Known devices: cpu, cuda, all\n"
        "  inifile: None\n\nERROR: --implementation x.py:X: implementation file not found: x.py\n"
    )
    assert assertion.usage_errors(output) == [
        "argument --device: unknown device 'gpu'. Known devices: cpu, cuda, all",
        "--implementation x.py:X: implementation file not found: x.py",
    ]


def test_a_file_that_starts_a_run_when_a_run_imports_it_is_told_so(monkeypatch: pytest.MonkeyPatch):
    """Without this, a script without `if __name__ == "__main__"` would start runs without end."""
    monkeypatch.setenv(assertion.FILE_VARIABLE, "/nowhere")
    with pytest.raises(RuntimeError, match="starts a run itself"):
        run_conformance(ReferenceAdapter, profile="dev")
