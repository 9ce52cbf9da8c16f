"""The suite's pytest face: its options, one set of tests for every implementation, and the run that it leaves."""

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from itertools import count
from pathlib import Path
from typing import Any

import pytest
import torch

from conformance.accounting import loose_bounds, shortfalls
from conformance.batches import MEANINGS, Batch, CorruptCase, draw_from_seed_alone
from conformance.benchmarks import table
from conformance.conforming import Conformance
from conformance.devices.arithmetic import fixed_arithmetic
from conformance.implementations import Implementation, ProtocolViolation, UnknownImplementation, find
from conformance.implementations.isolation import official_code
from conformance.ledger import BUNDLED, CorruptLedger, Entry, Standing, read_ledger, standings
from conformance.options import add_options, against, devices, load_profile, report_dir, seed_hypothesis
from conformance.recording import Failure, Recorder, Subject, command_line
from reference import Dialect
from reports import RunLog, read_log, render, terminal_table

RUN = pytest.StashKey["Run"]()
GATING = ("ci", "nightly")
"""Profiles whose runs fail where a clause or a hazard was reached too rarely."""


@dataclass
class Run:
    """What one pytest session tests.

    Attributes:
        recorder: writes the log.
        seed: of Hypothesis.
        devices: every device with "tested" or the reason why not.
        implementations: those that could be had.
        missing: those that could not, with the reason.
        cases: batches of `--case`.
        unreadable: those of its files that hold none, with the reason.
        unreached: clauses and hazards that the run should have reached more often.
        ledger: divergences on record.
        stale: entries of it that must make the run fail, and why.
        report: the report's path, or what kept it from being made.
    """

    recorder: Recorder
    seed: str
    devices: dict[str, str]
    implementations: list[Implementation] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)
    cases: list[Batch] = field(default_factory=list)
    unreadable: dict[str, str] = field(default_factory=dict)
    unreached: list[str] = field(default_factory=list)
    ledger: tuple[Entry, ...] = ()
    stale: list[str] = field(default_factory=list)
    report: Path | Exception | None = None

    @property
    def folder(self) -> Path:
        """Where the run leaves its log, cases and report."""
        return self.recorder.folder

    @property
    def subjects(self) -> list[Subject]:
        """Every implementation on every tested device."""
        tested = [device for device, state in self.devices.items() if state == "tested"]
        return [
            Subject(implementation, device) for implementation in self.implementations for device in tested
        ]


def pytest_addoption(parser: pytest.Parser) -> None:
    """Declare the options."""
    add_options(parser)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Fix seed, profile and implementations, and open the run's folder."""
    config.addinivalue_line(
        "markers", "clauses(group): the clause group of the specification that a test is about"
    )
    if config.option.collectonly or config.option.help:
        return
    draw_from_seed_alone()
    seed = seed_hypothesis(config)
    load_profile(config)
    tested = devices(config)
    arithmetic = ExitStack()
    arithmetic.enter_context(fixed_arithmetic())
    config.add_cleanup(arithmetic.close)
    worker = getattr(config, "workerinput", None)
    torch.set_num_threads(1)  # batches are small: more threads wait for each other, and for other processes'
    log = RunLog(worker["tal_run"], worker["workerid"]) if worker else _create_log(config)
    run = Run(Recorder(log), seed, tested)
    names = config.getoption("--implementation") or ["ultralytics"]
    find_implementations(run, names, against(config), config.getoption("--isolate"))
    load_cases(run, config)
    run.ledger = load_ledger(config)
    config.stash[RUN] = run
    if config.getoption("benchmark_columns", "absent") is None:  # of pytest-benchmark's own tables
        config.option.benchmark_columns = ["min", "median", "iqr", "rounds"]
    if not worker:
        try:
            begin(run, config)
        except OSError as error:
            raise pytest.UsageError(f"cannot write into {run.folder}: {error}") from error


def _create_log(config: pytest.Config) -> RunLog:
    parent = report_dir(config)
    try:
        return RunLog.create(parent)
    except OSError as error:
        raise pytest.UsageError(
            f"cannot write a report into {parent}: {error} (--report-dir takes another)"
        ) from error


def find_implementations(
    run: Run, names: list[str], dialect: Dialect | None = None, isolate: bool = False
) -> None:
    """Look up what is to be tested; what cannot be had is noted, and does not keep the others from it.

    Args:
        run: takes them.
        names: as behind `--implementation`.
        dialect: what all are held to; None: each to its own.
        isolate: run those of one's own in processes of their own.
    """
    taken: set[str] = set()
    for name in dict.fromkeys(names):
        try:
            implementation = find(name, isolate)
        except (UnknownImplementation, ProtocolViolation) as error:
            run.missing[name] = str(error)
            continue
        if implementation.name in taken:
            free = (f"{name} ({number})" if number else name for number in count())
            implementation = replace(implementation, name=next(text for text in free if text not in taken))
        if dialect is not None:
            implementation = replace(implementation, dialect=dialect)
        taken.add(implementation.name)
        run.implementations.append(implementation)


def load_cases(run: Run, config: pytest.Config) -> None:
    """The batches of `--case`; a file that holds none is noted, and does not keep the others from being judged."""
    for name in config.getoption("--case") or []:
        try:
            run.cases.append(Batch.load(Path(config.invocation_params.dir, name)))
        except CorruptCase as error:
            run.unreadable[name] = (
                f"{error}; take it anew from `cases/` of the run that it came from, or record it again"
            )
        except OSError as error:
            run.unreadable[name] = f"{name} cannot be read: {error.strerror or error}"


def load_ledger(config: pytest.Config) -> tuple[Entry, ...]:
    """What is on record: of this project, and of `--ledger`. It is so by declared dialects: `--against` has none.

    Raises:
        pytest.UsageError: a file is no ledger.
    """
    own = config.getoption("--ledger")
    paths = [BUNDLED, *([Path(config.invocation_params.dir, own)] if own else [])]
    try:
        entries = read_ledger(*paths)
    except CorruptLedger as error:
        raise pytest.UsageError(f"--ledger {error}") from error
    return () if against(config) else entries


def begin(run: Run, config: pytest.Config) -> None:
    """Write the log's first lines."""
    run.recorder.begin(
        {
            "profile": config.getoption("--conformance-profile"),
            "seed": run.seed,
            "command": command_line(),
            "devices": run.devices,
            "hazards": dict(MEANINGS),
            "implementations": [
                {
                    "name": implementation.name,
                    "version": implementation.version,
                    "dialect": implementation.dialect.name,
                    "capabilities": implementation.capabilities,
                }
                for implementation in run.implementations
            ]
            + [
                {"name": name, "version": "unknown", "dialect": "unknown", "capabilities": []}
                for name in run.missing
            ],
        }
    )
    for device, state in run.devices.items():
        if state != "tested":
            run.recorder.line(
                "not_tested", implementation=None, device=device, reason=state.removeprefix("not tested: ")
            )
    for name, reason in run.missing.items():
        run.recorder.line("not_tested", implementation=name, device=None, reason=reason)
    for reason in run.unreadable.values():
        run.recorder.line("not_tested", implementation=None, device=None, reason=f"--case: {reason}")


@pytest.hookimpl(optionalhook=True)
def pytest_configure_node(node: Any) -> None:
    """Tell a worker of pytest-xdist which run it belongs to."""
    node.workerinput["tal_run"] = str(node.config.stash[RUN].folder)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n N` a worker that is done takes tests from the others: some take a hundred times as long as most."""
    if config.getoption("dist") != "load":
        return None  # another order was asked for
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what is tested, and with which seed."""
    run = config.stash.get(RUN, None)
    if run is None:
        return []
    tested = (
        ", ".join(f"{i.name} {i.version} (dialect {i.dialect.name})" for i in run.implementations) or "none"
    )
    places = ", ".join(f"{device} {state}" for device, state in run.devices.items())
    profile = config.getoption("--conformance-profile")
    return [
        f"conformance: {tested}",
        f"conformance: {places}; profile {profile}, seed {run.seed}",
    ]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """One test for every implementation on every device."""
    run = metafunc.config.stash.get(RUN, None)
    subjects = run.subjects if run else []
    if "conforms" in metafunc.fixturenames or "subject" in metafunc.fixturenames:
        metafunc.parametrize(
            "subject", subjects, ids=lambda subject: subject.id, scope="session", indirect=True
        )
    if "missing" in metafunc.fixturenames:
        metafunc.parametrize("missing", list(run.missing) if run else [])
    if "unreadable" in metafunc.fixturenames:
        metafunc.parametrize("unreadable", list(run.unreadable) if run else [])
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", run.cases if run else [], ids=lambda batch: batch.id)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """With `--case` only those cases are judged; without, there is nothing to skip. Large batches are asked for."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    ours = [item for item in items if Path(__file__).parent in item.path.parents]
    empty = ("test_cases", "test_findings", "test_implementations")
    dropped = [item for item in ours if item.path.stem in empty and item.get_closest_marker("skip")]
    if run.cases or run.unreadable:
        judged = ("test_cases", "test_implementations")
        dropped = [item for item in ours if item in dropped or item.path.stem not in judged]
    elif not config.getoption("--large"):
        dropped += [item for item in ours if item.path.stem == "test_large"]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
        items[:] = [item for item in items if item not in dropped]


@pytest.fixture(scope="session")
def run(request: pytest.FixtureRequest) -> Run:
    """The run that this session is."""
    return request.config.stash[RUN]


@pytest.fixture(scope="session")
def subject(request: pytest.FixtureRequest) -> Subject:
    """One implementation on one device."""
    value: Subject = request.param
    return value


@pytest.fixture(autouse=True)
def _official_code_stays(request: pytest.FixtureRequest) -> Iterator[None]:
    """No test changes the loaded code of the official modules for the tests after it."""
    before = official_code()
    yield
    after = official_code()
    changed = [name for name, code in before.items() if after.get(name) != code]
    if changed:
        pytest.fail(f"{request.node.nodeid} changed the loaded code of {', '.join(changed)}", pytrace=False)


@pytest.fixture
def conforms(request: pytest.FixtureRequest, run: Run, subject: Subject) -> Conformance:
    """Call it with a recipe or a batch: the implementation must conform on it."""
    marker = request.node.get_closest_marker("clauses")
    group = marker.args[0] if marker else ""
    name = getattr(request.node, "originalname", request.node.name)
    today = datetime.now(UTC).date()
    entries = tuple(each for each in run.ledger if each.concerns(subject) and not each.expired(today))
    return Conformance(subject, run.recorder, name, group, entries)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Write down the batch that a test failed on, as Hypothesis has shrunk it; print it in place of a traceback."""
    report: Any = yield
    run = item.config.stash.get(RUN, None)
    if run is None or call.when != "call" or call.excinfo is None:
        return report
    if run.recorder.lost is not None:
        return stopped(item.session, run, report)
    failures = list(failures_in(call.excinfo.value))
    marker = item.get_closest_marker("clauses")
    if failures:
        report.longrepr = "\n".join(str(failure) for failure in failures)
    try:
        for failure in failures:
            name = getattr(item, "originalname", item.name)
            run.recorder.failure(name, item.nodeid, marker.args[0] if marker else "", failure)
    except OSError:
        return stopped(item.session, run, report)
    return report


def stopped(session: pytest.Session, run: Run, report: Any) -> Any:
    """Test no more where nothing can be written any more: what is judged from now on would be lost."""
    session.shouldstop = f"the run's log cannot be written: {run.recorder.lost}"
    report.longrepr = session.shouldstop
    return report


def failures_in(error: BaseException) -> Iterator[Failure]:
    """The failures that an exception is, or is a group of."""
    if isinstance(error, Failure):
        yield error
    elif isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from failures_in(part)


@pytest.hookimpl(trylast=True)
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Count what was exercised, close the log and render the report."""
    run = session.config.stash.get(RUN, None)
    if run is None or hasattr(session.config, "workerinput"):
        return
    if exitstatus == pytest.ExitCode.OK and gates(session.config):
        run.unreached = unreached(run)
        if run.unreached:
            session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
        if session.config.getoption("--conformance-profile") == "nightly":
            note_loose_bounds(run)
    note_ledger(run, whole=gates(session.config) and not session.shouldfail and not session.shouldstop)
    if exitstatus == pytest.ExitCode.OK and run.stale:
        session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
    lacking = run.missing or run.unreadable  # also where -k left out the test that says so
    if exitstatus == pytest.ExitCode.OK and lacking:
        session.exitstatus = exitstatus = pytest.ExitCode.TESTS_FAILED
    try:
        run.recorder.end(int(exitstatus != 0))
    except OSError as error:
        run.report = error
    else:
        run.report = rendered(run)
    if isinstance(run.report, Exception):
        session.exitstatus = session.exitstatus or pytest.ExitCode.INTERNAL_ERROR


def gates(config: pytest.Config) -> bool:
    """Whether this run is a whole one of a profile that must exercise everything."""
    whole = config.getoption("--conformance-profile") in GATING
    whole = whole and not config.getoption("--examples") and not config.getoption("--case")
    narrowed = ("keyword", "markexpr", "deselect", "lf", "stepwise")
    parts = [argument for argument in config.args if "::" in argument or argument.endswith(".py")]
    return whole and not parts and not any(config.getoption(option, None) for option in narrowed)


def unreached(run: Run) -> list[str]:
    """Clauses and hazards that too few batches of this run reached; they are logged as not tested."""
    batches = read_log(run.folder).batches
    near_ties = max((kinds["near_tie"] for kinds in batches.uniqueness.values()), default=0)
    missed = shortfalls(batches.hazards, batches.different, near_ties)
    for reason in missed:
        run.recorder.line("not_tested", implementation=None, device=None, reason=reason)
    return missed


def note_ledger(run: Run, whole: bool) -> None:
    """Log how the entries of the ledger stand; those that must make the run fail are noted."""
    concerned = [each for each in run.ledger if any(each.concerns(subject) for subject in run.subjects)]
    if not concerned:
        return
    batches = read_log(run.folder).batches
    counts = {"met": batches.met, "known": batches.known}
    for standing in standings(concerned, run.subjects, counts, whole, datetime.now(UTC).date()):
        run.recorder.line("ledger", **ledger_line(standing))
        run.stale += [standing.problem] if standing.problem else []


def ledger_line(standing: Standing) -> dict[str, Any]:
    """A standing for the log."""
    entry, subject = standing.entry, standing.subject
    return {
        "entry": entry.id,
        "implementation": subject.implementation.name,
        "device": subject.device,
        "versions": str(entry.versions),
        "clause": entry.clause,
        "stage": entry.stage,
        "when": entry.when,
        "reason": entry.reason,
        "link": entry.link,
        "owner": entry.owner,
        "expires": entry.expires.isoformat(),
        "met": standing.met,
        "known": standing.known,
        "state": standing.state.value,
        "fails": standing.problem is not None,
    }


def note_loose_bounds(run: Run) -> None:
    """Log the bounds that no error came near: a reader must know, but the implementation did nothing wrong."""
    margins = read_log(run.folder).batches.margins
    for reason in loose_bounds({key: margin.quantile(0.999) for key, margin in margins.items()}):
        run.recorder.line("not_tested", implementation=None, device=None, reason=reason)


def rendered(run: Run) -> Path | Exception:
    """The report's path, or what kept it from being made; the log is whole either way."""
    try:
        report = render(run.folder)
        run.recorder.make_latest()
    except Exception as error:
        return error
    return report


@pytest.hookimpl(trylast=True)
def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Render the report, print one short table and say where the report is."""
    run = config.stash.get(RUN, None)
    if run is None:
        return
    terminalreporter.section("conformance")
    log = read_log(run.folder)
    if log.benchmarks:
        terminalreporter.write_line("\n".join([*table(log.benchmarks), ""]))
    terminalreporter.write_line(terminal_table(log))
    for missed in [*run.unreached, *run.stale]:
        terminalreporter.write_line(missed, red=True)
    if isinstance(run.report, Exception):
        problem = f"{type(run.report).__name__}: {run.report}"
        terminalreporter.write_line(f"the report could not be rendered ({problem})", red=True)
        kept = "the log has what was judged until then" if run.recorder.lost else "the log is whole"
        terminalreporter.write_line(f"{kept}: python -m reports render {run.folder}", red=True)
    terminalreporter.write_line(f"seed {run.seed}")
