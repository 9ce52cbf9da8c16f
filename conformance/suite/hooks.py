"""pytest hooks and fixtures of the suite: configure a session, parametrize its tests, log and report the results."""

import gc
import importlib
import sys
from collections.abc import Generator, Iterator
from contextlib import ExitStack, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import torch

from tal_conformance.batches.seeding import make_draws_reproducible
from tal_conformance.core.determinism import fixed_arithmetic
from tal_conformance.core.interrupts import lost_interrupts
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.guards.code_state import CodeState, baseline, own_code
from tal_conformance.implementations.guards.open_files import open_files
from tal_conformance.implementations.guards.process_settings import fault_handler
from tal_conformance.implementations.guards.torch_state import changes, torch_state
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Subject
from tal_conformance.suite import terminal_output
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.explanation import explain_failures
from tal_conformance.suite.loading import divide_by_task, find_implementations
from tal_conformance.suite.options import (
    add_options,
    against,
    declared,
    devices,
    load_profile,
    seed_hypothesis,
)
from tal_conformance.suite.progress import TestProgress
from tal_conformance.suite.reproduce import render_command
from tal_conformance.suite.run_log import RunLogWriter
from tal_conformance.suite.running_messages import RunningMessages
from tal_conformance.suite.selection import EVERY_TASK, select_tests
from tal_conformance.suite.session import (
    RUN,
    SessionState,
    begin,
    close_run,
    create_log,
    failures_in,
    gates,
    ignored_ledger,
    load_cases,
    load_ledger,
    log_shrinking,
    new_mistakes,
    note_absent,
    note_ledger,
    note_loose_bounds,
    note_unreached_hazards,
    stopped,
    too_unsupported,
    uncovered_clauses,
)
from tal_conformance.suite.shrinking import TestShrinking
from tal_conformance.suite.supervision import supervise_run
from tal_conformance.suite.terminal_output import (
    HIDDEN,
    LOGGED,
    MISTAKES,
    benchmark_lines,
    end_progress,
    hidden_sentence,
    hide_paths,
    is_brief,
    needs_screen,
    selects_suite_alone,
    shorten_interrupt,
    shrinking_sentence,
)
from tal_reports import RunLog, read_log, terminal_table
from tal_text import encodable, prepare_streams, visible


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the command line options of the suite to pytest."""
    add_options(parser)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> Iterator[None]:
    """Continue the run in a supervised process, before an implementation is imported."""
    prepare_streams()
    supervise_run(config)
    try:
        return (yield)
    finally:
        prepare_streams()  # pytest's capture restores the streams of the start, and pytest flushes them


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Set seed and profile, load the implementations, and create the folder and the log of the run."""
    _declare_markers(config)
    if config.option.collectonly or config.option.help:
        return
    make_draws_reproducible()
    config.add_cleanup(lost_interrupts.record())
    seed = seed_hypothesis(config)
    load_profile(config)
    tested = devices(config)
    arithmetic = ExitStack()
    arithmetic.enter_context(fixed_arithmetic())
    config.add_cleanup(arithmetic.close)
    worker = getattr(config, "workerinput", None)
    # batches are small: more threads only wait for each other and for other processes
    torch.set_num_threads(1)
    found, untested_tasks = _load_implementations(config)
    ledger = load_ledger(config)  # before the log: a wrong file leaves no folder of a run
    log = RunLog(worker["tal_run"], worker["workerid"]) if worker else create_log(config)
    run = SessionState(RunLogWriter(log), seed, tested, implementations=found, ledger=ledger)
    run.untested_tasks = untested_tasks
    run.shrinking.seconds = config.getoption("--shrinking-seconds")
    load_cases(run, config)
    config.stash[RUN] = run
    open_files.protect()
    _prepare_terminal(run, config)
    gc.freeze()  # what was imported lives until the end: the garbage collector need not look at it again
    # a later run in this process collects the objects of this run, such as its workers
    config.add_cleanup(gc.unfreeze)
    if not worker:
        try:
            begin(run, config)
        except OSError as error:
            raise pytest.UsageError(f"cannot write into {run.folder}: {error}") from error


def _declare_markers(config: pytest.Config) -> None:
    """Declare the suite's markers, and filter the warning that its recipes cause."""
    config.addinivalue_line(
        "markers", "clauses(group): the clause group of the specification that the test covers"
    )
    config.addinivalue_line(
        "markers", f"{EVERY_TASK}: the test has batches of the task of its implementation"
    )
    # a recipe of many ground truths is long on purpose, and Hypothesis repeats the warning for each test
    config.addinivalue_line("filterwarnings", "ignore:Generating overly large repr")


def _load_implementations(config: pytest.Config) -> tuple[list[Implementation], list[str]]:
    """Load the implementations that the options name, and keep the state of the process that they must not change."""
    names = config.getoption("--implementation") or ["ultralytics"]
    chosen = against(config) or declared(config)
    open_files.protect()
    _follow_fault_handler(config)
    task = config.getoption("--task")
    found = find_implementations(names, chosen, config.getoption("--isolate"), task)
    divided = divide_by_task(found, task)
    baseline.take()
    config.add_cleanup(baseline.forget)
    config.add_cleanup(open_files.release)
    return divided


def _prepare_terminal(run: SessionState, config: pytest.Config) -> None:
    """Register what the terminal shows during and after a run."""
    run.progress = TestProgress(run.recorder)
    config.pluginmanager.register(run.progress, "tal-conformance-progress")
    config.pluginmanager.register(terminal_output, "tal-conformance-terminal-output")
    config.pluginmanager.register(RunningMessages(config), RunningMessages.NAME)
    if config.getoption("benchmark_columns", "absent") is None:  # pytest-benchmark prints tables of its own
        config.option.benchmark_columns = ["min", "median", "iqr", "rounds"]
        config.option.benchmark_quiet = config.option.benchmark_quiet or terminal_output.is_brief(config)


def _follow_fault_handler(config: pytest.Config) -> None:
    """Take the file and the timer of the handler of fatal errors from the configuration of pytest's plugin."""
    plugin = config.pluginmanager.get_plugin("faulthandler")
    key: Any = getattr(plugin, "fault_handler_stderr_fd_key", None)
    fault_handler.file = None if key is None else config.stash.get(key, None)
    with suppress(ValueError):  # without the plugin, the option is unknown
        fault_handler.keeps_timer = float(config.getini("faulthandler_timeout") or 0) > 0


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Pass the run's folder to a worker of pytest-xdist."""
    node.workerinput["tal_run"] = str(node.config.stash[RUN].folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n N`, let idle workers steal tests, because some tests take a hundred times as long as most."""
    if config.getoption("dist") != "load":
        return None  # `--dist` names another scheduler
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Print the progress of the suite's tests without a line for each file."""
    if session.config.stash.get(RUN, None) is not None:
        hide_paths(session.config)


def pytest_keyboard_interrupt() -> None:
    """Forget a Ctrl-C that ends the session, because the failures are still explained and reported."""
    lost_interrupts.forget()


def _described(implementation: Implementation) -> str:
    """Return name, version and dialect of an implementation, without its task, which another line of the header has."""
    name = implementation.name.removesuffix(f" ({implementation.task})")
    return f"{name} {implementation.version} (dialect {implementation.dialect.name})"


@pytest.hookimpl(wrapper=True)
def pytest_report_header(config: pytest.Config) -> Generator[None, list[Any], list[Any]]:
    """Return the header lines of a run: its own alone, if only tests of the suite are selected, without -v."""
    others = yield
    lines = header_lines(config)
    return [lines] if lines and is_brief(config) and selects_suite_alone(config) else [*others, lines]


def header_lines(config: pytest.Config) -> list[str]:
    """Return the header lines of a run: implementations, devices, profile and seed."""
    run = config.stash.get(RUN, None)
    if run is None:
        return []
    tested = ", ".join(dict.fromkeys(map(_described, run.implementations))) or "none"
    places = ", ".join(f"{device} {state}" for device, state in run.devices.items())
    profile = config.getoption("--conformance-profile")
    ignored = ignored_ledger(config)
    task = [] if run.tasks == (DETECT.name,) else [f"conformance: tasks {', '.join(run.tasks)}"]
    return [
        *([printable_text(f"conformance: {ignored}")] if ignored else []),
        printable_text(f"conformance: {tested}"),
        *task,
        printable_text(f"conformance: {places}; profile {profile}, seed {run.seed}"),
    ]


def pytest_pycollect_makemodule(module_path: Path) -> None:
    """Import the suite's modules as `tal_conformance.suite.*`; pytest would derive `conformance.suite.*`."""
    path = module_path.resolve()
    if path.parent == Path(__file__).resolve().parent:
        name = f"tal_conformance.suite.{path.stem}"
        sys.modules[name.replace("tal_", "", 1)] = importlib.import_module(name)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize tests over implementations and devices, case files, or problems that must fail the run."""
    run = metafunc.config.stash.get(RUN, None)
    subjects = run.subjects if run else []
    if "checker" in metafunc.fixturenames or "subject" in metafunc.fixturenames:
        metafunc.parametrize(
            "subject", subjects, ids=lambda subject: subject.id, scope="session", indirect=True
        )
    if "unreadable" in metafunc.fixturenames:
        metafunc.parametrize("unreadable", list(run.unreadable) if run else [])
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", run.cases if run else [], ids=lambda batch: batch.id)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests that the options exclude, so that pytest does not list them as skipped; order the rest."""
    run = config.stash.get(RUN, None)
    if run is not None:
        select_tests(run, config, items)


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> SessionState:
    """Return the state of this session: implementations, devices and run log."""
    return request.config.stash[RUN]


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    """Return the implementation and device that the test is parametrized with."""
    value: Subject = request.param
    return value


@pytest.fixture(scope="session")
def own_code_at_start() -> CodeState:
    """Return a snapshot of the code of the reference and of the suite before the first test."""
    return own_code()


@pytest.fixture(autouse=True)
def code_and_state_stay(request: pytest.FixtureRequest, own_code_at_start: CodeState) -> Iterator[None]:
    """Fail a test during which code of the suite, official code or torch's state was changed, and undo the change."""
    state = torch_state()
    yield
    problems = (
        [f"torch's state: {', '.join(changed)}"] if (changed := changes(state, random_numbers=False)) else []
    )
    problems += own_code_at_start.restore()
    problems += baseline.computing.restore() if baseline.computing is not None else []
    if not problems:
        return
    what = f"changed {', '.join(problems[:3])} (restored)"
    checker = request.node.funcargs.get("checker") if isinstance(request.node, pytest.Function) else None
    if isinstance(checker, Checker) and (failure := checker.blame(what)) is not None:
        recorder = request.config.stash[RUN].recorder
        recorder.failure(checker.test, checker.clause_group, failure, checker.parameter)
    pytest.fail(f"{request.node.nodeid}: {what}", pytrace=False)


@pytest.fixture
def checker(request: pytest.FixtureRequest, run: SessionState, subject: Subject) -> Iterator[Checker]:
    """Return the checker of this test, which judges the implementation on a recipe or a batch and logs the result.

    After the test, the fixture fails if too large a share of the batches is inconclusive, or if the results have formal
    mistakes, each of which fails one test of the process.
    """
    marker = request.node.get_closest_marker("clauses")
    group = marker.args[0] if marker else ""
    name = getattr(request.node, "originalname", request.node.name)
    today = datetime.now(UTC).date()
    entries = tuple(issue for issue in run.ledger if issue.concerns(subject) and not issue.expired(today))
    shrinking = TestShrinking(run.shrinking, subject.id)
    messages: Any = request.config.pluginmanager.get_plugin(RunningMessages.NAME)
    checker = Checker(
        subject,
        run.recorder,
        name,
        group,
        parameter_of(request.node),
        entries,
        shrinking,
        messages.announce,
        messages.print_running,
    )
    yield checker
    note_absent(run, checker)
    mistakes = new_mistakes(run, checker)
    for failure in mistakes:
        run.recorder.failure(name, group, failure)
    if checker.too_inconclusive:
        run.recorder.line(
            "inconclusive",
            implementation=subject.implementation.name,
            device=subject.device,
            test=request.node.name,
            batches=checker.judged,
            inconclusive=checker.inconclusive,
            reason=checker.too_inconclusive,
        )
        pytest.fail(checker.too_inconclusive, pytrace=False)
    if mistakes:
        request.node.stash[MISTAKES] = printable_text("\n".join(map(str, mistakes)))
        pytest.fail(request.node.stash[MISTAKES], pytrace=False)


def parameter_of(item: pytest.Item) -> str:
    """Return the value of a test's own parameter, such as a way of calling, as text; "" if it has none."""
    callspec = getattr(item, "callspec", None)
    values = {} if callspec is None else callspec.params
    own = [value for name, value in values.items() if name not in ("subject", "case", "unreadable")]
    return ", ".join(str(getattr(value, "clause", getattr(value, "stem", value))) for value in own)[:200]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Log the shrunk failing batch of a test, and print the failure instead of a traceback."""
    report: Any = yield
    report.sections = [(name, printable_text(content)) for name, content in report.sections]
    run = item.config.stash.get(RUN, None)
    if call.excinfo is not None and str(call.excinfo.value) == item.stash.get(MISTAKES, None):
        setattr(report, LOGGED, True)
    if run is None or call.when != "call" or call.excinfo is None:
        return report
    if run.recorder.lost is not None:
        return stopped(item.session, run, report)
    failures = list(failures_in(call.excinfo.value))
    marker = item.get_closest_marker("clauses")
    if failures:
        report.longrepr = printable_text("\n".join(str(failure) for failure in failures))
        setattr(report, LOGGED, True)
    try:
        for failure in failures:
            name = getattr(item, "originalname", item.name)
            group = marker.args[0] if marker else ""
            run.recorder.failure(name, group, failure, parameter_of(item))
    except OSError:
        return stopped(item.session, run, report)
    return report


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Log clauses that too few batches reached and the known issues, close the log and render the report."""
    run = session.config.stash.get(RUN, None)
    if run is None:
        return
    shorten_interrupt(session.config)
    log_shrinking(run)
    if hasattr(session.config, "workerinput"):
        return
    if exitstatus == pytest.ExitCode.OK and gates(session.config):
        run.uncovered = uncovered_clauses(run)
        note_unreached_hazards(run)
        if run.uncovered:
            session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
        if session.config.getoption("--conformance-profile") == "nightly":
            note_loose_bounds(run)
    ended = exitstatus in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED)
    if ended and not run.cases:
        run.unsupported = too_unsupported(run)
    note_ledger(
        run, whole=gates(session.config) and ended and not session.shouldfail and not session.shouldstop
    )
    if exitstatus == pytest.ExitCode.OK and (
        run.stale or run.unreadable or run.unsupported
    ):  # also if -k left out their tests
        session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
    explain_failures(
        run,
        session.config.getoption("--identification-seconds"),
        begins=lambda: end_progress(session.config),
    )
    session.exitstatus = close_run(run, exitstatus, judges_cases=bool(run.cases))
    if isinstance(run.report, Exception):
        session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR


def printable_text(text: str) -> str:
    """Return text from outside the suite with only characters that the terminal can print."""
    return encodable(visible(text))


def write_line(terminalreporter: Any, text: str, **style: bool) -> None:
    """Print text in pytest's summary, without control characters."""
    terminalreporter.write_line(printable_text(text), **style)


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Print the table of results, the problems of the run and its seed."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    terminalreporter.section("conformance")
    log = read_log(run.folder)
    for line in benchmark_lines(log, config):
        write_line(terminalreporter, line)
    write_line(terminalreporter, terminal_table(log, brief=needs_screen(log, config)))
    shrinking = "" if is_brief(config) else shrinking_sentence(log)  # the log has it
    for sentence in (hidden_sentence(config.stash.get(HIDDEN, {})), shrinking):
        if sentence:
            write_line(terminalreporter, sentence)
    if ignored := ignored_ledger(config):
        write_line(terminalreporter, ignored, yellow=True)
    for problem in [*run.uncovered, *run.unsupported, *run.stale]:
        write_line(terminalreporter, problem, red=True)
    if isinstance(run.report, Exception):
        problem = f"{type(run.report).__name__}: {run.report}"
        write_line(terminalreporter, f"the report could not be rendered ({problem})", red=True)
        state = "the log ends where writing failed" if run.recorder.lost else "the log is complete"
        write_line(terminalreporter, f"{state}: {render_command(run.folder)}", red=True)
    write_line(terminalreporter, f"seed {run.seed}")
