"""The suite's command line, and the profiles that say how much is generated."""

import os
import random
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, Phase, settings
from hypothesis.database import DirectoryBasedExampleDatabase

from tal_conformance.checks.profiles import PROFILES, SEEDS
from tal_conformance.core.arguments import positive
from tal_conformance.core.files import REPOSITORY, default_report_dir
from tal_reference import DIALECTS, Dialect


def add_options(parser: pytest.Parser) -> None:
    """Declare the suite's options."""
    group = parser.getgroup("conformance", "conformance of assigners and losses")
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
        help="run each implementation of your own (module:object, file.py:object) in a process of its own, where it "
        "may crash, hang or eat memory",
    )
    group.addoption(
        "--against",
        metavar="DIALECT",
        choices=tuple(DIALECTS),
        help="hold every implementation to this dialect, in place of the one that it declares: "
        + ", ".join(DIALECTS),
    )
    group.addoption(
        "--device",
        choices=("cpu", "cuda", "all"),
        help="where to test (default: every device that is present; absent ones are reported as not tested)",
    )
    group.addoption(
        "--conformance-profile", choices=tuple(PROFILES), default="dev", help="how much is generated"
    )
    group.addoption(
        "--examples", type=positive, metavar="N", help="batches of each test, in place of the profile's"
    )
    group.addoption(
        "--large",
        action="store_true",
        help="batches at the size of training too: 16 images of 640 x 640 px, up to 300 ground truths each, 80 classes "
        "(less than a minute each, in 8 GiB)",
    )
    group.addoption(
        "--rounds",
        type=positive,
        metavar="N",
        help="interleaved rounds of each benchmark, of all sizes, in place of the profile's; peak memory too",
    )
    group.addoption("--report-dir", type=Path, metavar="DIR", help="where runs are left")
    group.addoption(
        "--ledger",
        type=Path,
        metavar="FILE",
        help="a ledger of your own, in TOML: divergences of your implementations that are on record",
    )
    group.addoption(
        "--case",
        action="append",
        metavar="FILE",
        help="judge these case files instead of generated batches, repeatable",
    )


def against(config: pytest.Config) -> Dialect | None:
    """The dialect that all are held to, if one was asked for."""
    name = config.getoption("--against")
    return DIALECTS[name] if name else None


def report_dir(config: pytest.Config) -> Path:
    """Where runs are left: `--report-dir`, else reports/runs in this repository, else under the working directory."""
    chosen: Path | None = config.getoption("--report-dir")
    if chosen is not None:
        return Path(config.invocation_params.dir, chosen)
    if config.rootpath == REPOSITORY:
        return REPOSITORY / "reports" / "runs"
    return default_report_dir(config.invocation_params.dir)


def devices(config: pytest.Config) -> dict[str, str]:
    """Every device with "tested" or the reason why not.

    Raises:
        pytest.UsageError: a device was asked for by name that is not there.
    """
    asked = config.getoption("--device")
    there = {"cpu": True, "cuda": torch.cuda.is_available()}
    if asked in there and not there[asked]:
        raise pytest.UsageError(f"--device {asked}: no such device here (torch.cuda.is_available() is False)")
    states = {}
    for device, present in there.items():
        if asked in there and device != asked:
            states[device] = "not tested: not asked for"
        else:
            states[device] = "tested" if present else "not tested: no such device"
    return states


def seed_hypothesis(config: pytest.Config) -> str:
    """Choose and fix the seed of this run; what to print for it."""
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
    """Make the chosen profile Hypothesis' current one."""
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
        deadline=None,  # time claims come from benchmarks
        phases=phases,
        print_blob=False,
        report_multiple_bugs=profile.remembers,
        suppress_health_check=[
            HealthCheck.function_scoped_fixture,  # a test's fixture records; it holds no state between examples
            HealthCheck.differing_executors,
            HealthCheck.too_slow,
            HealthCheck.data_too_large,
        ],
    )
    settings.load_profile(f"conformance-{name}")
