"""Command line options of the suite, and the Hypothesis settings that they select."""

import argparse
import os
import random
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tal_conformance.checks.profiles import PROFILES, SEEDS
from tal_conformance.core.arguments import name_among, not_negative, positive
from tal_conformance.core.devices import USUAL, available_devices, is_device_type, reason_missing, unavailable
from tal_conformance.core.files import REPOSITORY, default_report_dir
from tal_conformance.core.names import LONGEST_MESSAGE, cut
from tal_conformance.core.task import TASKS
from tal_reference import DIALECTS, Dialect, parse

IDENTIFICATION_SECONDS = "40"
"""Default budget of processor time in seconds of the search for the cause of an implementation's failures, unless
the environment variable TAL_CONFORMANCE_IDENTIFICATION_SECONDS has another."""


SHRINKING_SECONDS = "40"
"""Default budget of processor time in seconds of shrinking the failing batches of an implementation: a cause takes 1 to
10 s, and failures for one cause appear at some five stages."""


EVERY_DEVICE = "all"
"""Value of `--device` for every available device."""


def device_type(text: str) -> str:
    """Return the name of a type of device that torch knows, or `EVERY_DEVICE`: an argument type."""
    if text != EVERY_DEVICE and not is_device_type(text):
        raise argparse.ArgumentTypeError(
            f"unknown device {text!r}: expected {EVERY_DEVICE}, cpu, cuda, mps, xpu or another type of device of torch"
        )
    return text


def add_options(parser: pytest.Parser) -> None:
    """Add the command line options of the suite to pytest's parser."""
    group = parser.getgroup("conformance", "conformance of assigners and losses")
    _add_implementations(group)
    _add_expectations(group)
    _add_numbers_of_batches(group)
    _add_budgets(group)
    _add_files(group)
    parser.addini("conformance_dialect", "dialect of every implementation, as --dialect spells it")


def _add_implementations(group: pytest.OptionGroup) -> None:
    """Add what is tested: implementations, their task and their device."""
    group.addoption(
        "--implementation",
        action="append",
        metavar="NAME",
        help="implementation to test, repeatable: a registered name, package.module:object or path/to/file.py:object "
        "(default: ultralytics)",
    )
    group.addoption(
        "--isolate",
        action="store_true",
        help="run every implementation given as module:object or file.py:object in a process of its own, so that a "
        "crash, a hang or too much memory ends that process only",
    )
    group.addoption(
        "--task",
        choices=tuple(TASKS),
        help="task to test: every implementation must declare it (default: all tasks that an implementation declares)",
    )
    group.addoption(
        "--device",
        type=device_type,
        metavar="DEVICE",
        help="device to test on: cpu, cuda, mps, xpu or another type of device of torch, or all (default: "
        "every available device; unavailable ones are reported as not tested)",
    )


def _add_expectations(group: pytest.OptionGroup) -> None:
    """Add the dialects that implementations are judged by."""
    group.addoption(
        "--against",
        metavar="DIALECT",
        type=dialect_from,
        help="judge every implementation by this dialect instead of the one that it declares, without known issues: "
        + ", ".join(DIALECTS)
        + "; choices may follow, as in 'article, overlap=iou'",
    )
    group.addoption(
        "--dialect",
        metavar="DIALECT",
        type=dialect_from,
        help="declare this dialect for every implementation, as if its adapter did: a name, and choices that differ on "
        "purpose, as in 'ultralytics-8.4.190, overlap=iou' (default: the setting conformance_dialect, or what the "
        "adapter declares)",
    )


def _add_numbers_of_batches(group: pytest.OptionGroup) -> None:
    """Add how many batches are generated, how large they are, and how often benchmarks run."""
    group.addoption(
        "--conformance-profile",
        type=name_among("profile", PROFILES),
        metavar="{" + ",".join(PROFILES) + "}",
        default="dev",
        help="how many batches are generated (default: dev)",
    )
    group.addoption(
        "--examples",
        type=positive,
        metavar="N",
        help="number of batches of each test, instead of the profile's",
    )
    group.addoption(
        "--large",
        action="store_true",
        help="also judge batches of the size of training: 16 images of 640 x 640 px, up to 300 ground truths each, "
        "80 classes (less than a minute each, needs 8 GiB)",
    )
    group.addoption(
        "--rounds",
        type=positive,
        metavar="N",
        help="number of interleaved rounds of each benchmark, at all sizes, instead of the profile's; also measures "
        "peak memory",
    )


def _add_budgets(group: pytest.OptionGroup) -> None:
    """Add the budgets of processor time for explaining failures."""
    group.addoption(
        "--identification-seconds",
        type=not_negative,
        default=os.environ.get("TAL_CONFORMANCE_IDENTIFICATION_SECONDS", IDENTIFICATION_SECONDS),
        metavar="N",
        help="budget of processor time, for each failing implementation, of the search for the choices that explain "
        "its failures; 0: no search (default: %(default)s)",
    )
    group.addoption(
        "--shrinking-seconds",
        type=not_negative,
        default=SHRINKING_SECONDS,
        metavar="N",
        help="budget of processor time, for each implementation, of making failing batches smaller; 0: the first "
        "failing batch is reported (default: %(default)s)",
    )


def _add_files(group: pytest.OptionGroup) -> None:
    """Add files that are read or written."""
    group.addoption("--report-dir", type=Path, metavar="DIR", help="folder that receives the runs")
    group.addoption(
        "--ledger",
        type=Path,
        metavar="FILE",
        help="TOML file with known issues of your own implementations",
    )
    group.addoption(
        "--case",
        action="append",
        metavar="FILE",
        help="judge these case files instead of generated batches, repeatable",
    )


def against(config: pytest.Config) -> Dialect | None:
    """Return the dialect of `--against`, or None if the option is absent."""
    dialect: Dialect | None = config.getoption("--against")
    return dialect


def declared(config: pytest.Config) -> Dialect | None:
    """Return the dialect of `--dialect` or of the ini option `conformance_dialect`, or None if neither is given.

    Raises:
        pytest.UsageError: the ini option names an unknown dialect, choice or value.
    """
    dialect: Dialect | None = config.getoption("--dialect")
    setting = str(config.getini("conformance_dialect"))
    if dialect is not None or not setting:
        return dialect
    try:
        return parse(setting)
    except ValueError as error:
        raise pytest.UsageError(f"conformance_dialect: {error}") from error


def dialect_from(text: str) -> Dialect:
    """Parse the text of a dialect (its name, or choices with values) and return the dialect.

    Raises:
        argparse.ArgumentTypeError: a dialect, a choice or a value is unknown.
    """
    try:
        return parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(cut(str(error), LONGEST_MESSAGE)) from error


def report_dir(config: pytest.Config) -> Path:
    """Return the folder of all runs: `--report-dir`, or a default in repository or working directory."""
    chosen: Path | None = config.getoption("--report-dir")
    if chosen is not None:
        return Path(config.invocation_params.dir, chosen)
    if config.rootpath == REPOSITORY:
        return REPOSITORY / "reports" / "runs"
    return default_report_dir(config.invocation_params.dir)


def devices(config: pytest.Config) -> dict[str, str]:
    """Return each device by name, with "tested" or the reason why it is not tested.

    Raises:
        pytest.UsageError: `--device` names a device that is not available.
    """
    requested = config.getoption("--device")
    chosen = requested not in (None, EVERY_DEVICE)
    if chosen and reason_missing(requested) is not None:
        raise pytest.UsageError(unavailable(requested))
    states, here = {}, available_devices()
    for device in dict.fromkeys((*USUAL, *here, *([requested] if chosen else []))):
        present = device in here or device == requested
        if chosen and device != requested:
            states[device] = "not tested: not asked for"
        else:
            states[device] = "tested" if present else "not tested: no such device"
    return states


def seed_hypothesis(config: pytest.Config) -> str:
    """Choose the seed of this run, pass it to Hypothesis, and return its description for the header."""
    profile = PROFILES[config.getoption("--conformance-profile")]
    given = config.getoption("--hypothesis-seed", None)
    if given is not None:
        return str(given)
    if profile.repeats:
        return "derandomized"
    seed = os.environ.get("TAL_CONFORMANCE_SEED") or str(random.SystemRandom().randrange(SEEDS))
    os.environ["TAL_CONFORMANCE_SEED"] = seed  # the workers of pytest-xdist inherit it
    config.option.hypothesis_seed = seed  # read by Hypothesis' own plugin when it is configured, after this
    return seed


def load_profile(config: pytest.Config) -> None:
    """Register the chosen profile with Hypothesis and load it."""
    name = config.getoption("--conformance-profile")
    profile = PROFILES[name]
    database = DirectoryBasedExampleDatabase(report_dir(config) / "examples") if profile.remembers else None
    phases = [phase for phase in Phase if phase is not Phase.explain]
    fixed = config.getoption("--hypothesis-seed", None) is not None
    settings.register_profile(
        f"conformance-{name}",
        max_examples=config.getoption("--examples") or profile.examples,
        derandomize=profile.repeats and not fixed,
        database=database,
        deadline=None,  # benchmarks measure time, not tests
        phases=phases,
        print_blob=False,
        report_multiple_bugs=profile.remembers,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,  # the checker counts and logs; examples stay independent
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )
    settings.load_profile(f"conformance-{name}")
