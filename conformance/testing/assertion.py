"""`assert_conforms`, `run_conformance` and `conformance_test`: the suite inside other projects' tests and notebooks."""

import functools
import inspect
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from tal_conformance.checks.profiles import PROFILES
from tal_conformance.core.files import default_report_dir
from tal_conformance.core.names import unknown_name
from tal_conformance.core.task import TASKS
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.registry import name_of
from tal_conformance.testing.announcements import FILE_VARIABLE
from tal_conformance.testing.child import CannotFork, Finished, run_by_fork, run_by_name
from tal_conformance.testing.result import ConformanceResult
from tal_reference import Dialect, spelling
from tal_text import visible

USAGE_ERROR = 4
"""Exit status of pytest for wrong options, such as an implementation that cannot be loaded."""


class DoesNotConform(AssertionError):
    """Error: an implementation does not conform. The message says why, and how to repeat each failure.

    Attributes:
        result: the result of the run.
    """

    def __init__(self, result: ConformanceResult) -> None:
        super().__init__(result.message)
        self.result = result


def assert_conforms(
    adapter: Any, profile: str = "ci", task: str = "detect", **options: Any
) -> ConformanceResult:
    """Run the whole suite on an implementation, as one assertion in a test of pytest or unittest.

    Args:
        adapter: an adapter, a class or function that makes an adapter, or a value of the option `--implementation`,
            such as `"my_adapter.py:MyAssigner"` or `"ultralytics==8.3.253"`.
        profile: number of generated batches: `dev`, `ci` or `nightly`.
        task: the loss family.
        options: further arguments of `run_conformance`.

    Returns:
        The result, with verdict, counts, causes and report.

    Raises:
        DoesNotConform: the run did not pass. The error is an AssertionError whose message is the result as text.
        UnknownImplementation: the implementation was not found or does not follow the protocol.
        CannotFork: the object exists in this process only, which cannot be copied.
    """
    __tracebackhide__ = True
    result = run_conformance(adapter, profile, task, **options)
    if not result.conforms:
        raise DoesNotConform(result)
    return result


def run_conformance(
    adapter: Any,
    profile: str = "ci",
    task: str = "detect",
    *,
    device: str | None = None,
    dialect: Dialect | str | None = None,
    isolate: bool = False,
    timeout: float | None = None,
    report_dir: Path | str | None = None,
    progress: bool = True,
    options: Sequence[str] = (),
) -> ConformanceResult:
    """Run the whole suite on an implementation, and return the result, whether it passed or not.

    The suite runs in a child process with the same options as on the command line, so that the settings and plugins of
    the calling test run have no effect on it. A class or function at the top of a file is imported by the child. Any
    other object is used as it is, in a fork of this process.

    Args:
        adapter: see `assert_conforms`.
        profile: number of generated batches: `dev`, `ci` or `nightly`.
        task: the loss family.
        device: `cpu`, `cuda` or `all`; None for every available device.
        dialect: the dialect by which the implementation is judged; None for the dialect that its adapter declares.
        isolate: run the implementation in a worker process; needs a class, function or name.
        timeout: time limit in seconds; None for no limit.
        report_dir: folder that receives the run; None for `tal-conformance-reports` in the working directory.
        progress: show a progress bar on standard error.
        options: further options of pytest and the suite, such as `["--examples", "20", "-k", "topk"]`.

    Raises:
        UnknownImplementation: the implementation was not found or does not follow the protocol.
        CannotFork: the object exists in this process only, which cannot be copied.
        ValueError: the profile or the task is unknown, or `isolate` was given an object without a name.
        RuntimeError: the run ended before it judged a batch, for another reason; or this is the child process of a
            run, which imports the file that calls this function.
    """
    if FILE_VARIABLE in os.environ:
        raise RuntimeError(
            "a run of the suite imports this file, which starts a run itself: put the call into a test function, or "
            'below `if __name__ == "__main__":`'
        )
    for kind, value, known in (("profile", profile, PROFILES), ("task", task, TASKS)):
        if value not in known:
            raise ValueError(unknown_name(kind, value, known))
    folder = default_report_dir(Path.cwd()) if report_dir is None else Path(report_dir)
    name, given = _selected(adapter)
    if isolate and given:
        raise ValueError(f"isolate=True needs an importable class, function or name, got the object {name!r}")
    arguments = [
        *("--implementation", name, "--conformance-profile", profile, "--task", task),
        *("--report-dir", str(folder.resolve()), "--benchmark-skip"),
        *(["--device", device] if device else []),
        *(["--dialect", dialect if isinstance(dialect, str) else spelling(dialect)] if dialect else []),
        *(["--isolate"] if isolate else []),
        *options,
    ]
    title = f"Conformance of {name} ({profile})"
    if given:
        try:
            finished = run_by_fork(arguments, given, title, timeout, progress)
        except CannotFork as error:
            raise CannotFork(_without_fork(name, error)) from error
    else:
        finished = run_by_name(arguments, title, timeout, progress)
    return _result(name, finished, timeout)


def _selected(adapter: Any) -> tuple[str, dict[str, Any]]:
    """Return the adapter's value of `--implementation`, and {that value: adapter} if the adapter cannot be imported."""
    from tal_conformance.testing.selection import importable_name

    if isinstance(adapter, str):
        return adapter, {}
    name = importable_name(adapter)
    if name is not None:
        return name, {}
    label = f"{name_of(adapter)} of this process"
    return label, {label: adapter}


def _without_fork(name: str, error: CannotFork) -> str:
    return (
        f"{name}: {error}. Put the class or function at the top of a file, and give that instead of an object: "
        "assert_conforms(MyAdapter), or assert_conforms('my_adapter.py:MyAdapter')"
    )


def usage_errors(output: str) -> list[str]:
    """Return the errors in the output of a run that ended before any test, without pytest's list of options."""
    errors = []
    for line in output.splitlines():
        if line.startswith("ERROR: ") and not line.startswith("ERROR: usage: "):
            errors.append(line.removeprefix("ERROR: "))
        elif ": error: " in line:
            errors.append(line.partition(": error: ")[2])
    return errors


def _result(name: str, finished: Finished, limit: float | None) -> ConformanceResult:
    """Return the result of a finished child process; raise if the child judged no batch."""
    errors = usage_errors(finished.output)
    if finished.status == USAGE_ERROR and errors:
        raise UnknownImplementation(visible("\n".join(errors)))
    if finished.folder is None or not (finished.folder / "log.jsonl").is_file():
        raise RuntimeError(
            f"the run on {name} ended with exit status {finished.status} before it judged a batch:\n"
            + visible(finished.output[-4000:])
        )
    return ConformanceResult(finished.folder, finished.status, limit if finished.timed_out else None)


def conformance_test(*adapters: Any, **options: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Make a test of a function: run the suite on an adapter, and call the function with the result if it passes.

        @conformance_test(MyAssigner, profile="dev")
        def test_my_assigner(result):
            assert result.counts["inconclusive"] == 0

    The decorator works on functions and methods, in pytest and unittest. With several adapters, pytest runs one test
    for each of them.

    Args:
        adapters: one or more adapters, as `assert_conforms` accepts them.
        options: further arguments of `assert_conforms`.

    Raises:
        TypeError: no adapter was given.
    """
    bare = len(adapters) == 1 and not options and inspect.isfunction(adapters[0])
    if not adapters or (bare and adapters[0].__name__.startswith("test")):
        raise TypeError("conformance_test needs an adapter: @conformance_test(MyAdapter)")

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        parameters = inspect.signature(function).parameters
        rest = [parameter for name, parameter in parameters.items() if name != "result"]

        def run(adapter: Any, arguments: tuple[Any, ...], named: dict[str, Any]) -> None:
            __tracebackhide__ = True
            result = assert_conforms(adapter, **options)
            function(*arguments, **named, **({"result": result} if "result" in parameters else {}))

        if len(adapters) == 1:

            @functools.wraps(function)
            def test(*arguments: Any, **named: Any) -> None:
                __tracebackhide__ = True
                run(adapters[0], arguments, named)

            _set_signature(test, rest)
            return test

        @functools.wraps(function)
        def each(*arguments: Any, adapter: Any, **named: Any) -> None:
            __tracebackhide__ = True
            run(adapter, arguments, named)

        import pytest

        _set_signature(each, [*rest, inspect.Parameter("adapter", inspect.Parameter.KEYWORD_ONLY)])
        names = [adapter if isinstance(adapter, str) else name_of(adapter) for adapter in adapters]
        parametrized: Callable[..., Any] = pytest.mark.parametrize("adapter", adapters, ids=names)(each)
        return parametrized

    return decorate


def _set_signature(test: Any, parameters: list[inspect.Parameter]) -> None:
    """Set the parameters that pytest fills in with fixtures."""
    test.__signature__ = inspect.Signature(parameters)
    del test.__wrapped__  # pytest would read the parameters of the function inside
