"""Load releases of Ultralytics by version: install a release, start it in a worker, and judge it by its own dialect."""

from typing import TypeVar

from tal_conformance.implementations.adapters.ultralytics_losses import Version, parsed
from tal_conformance.implementations.errors import PackageUnavailable
from tal_conformance.implementations.workers.packages import Package, ensure_package
from tal_conformance.implementations.workers.process import Launch, Worker
from tal_conformance.implementations.workers.remote import RemoteAdapter
from tal_reference import Dialect
from tal_reference.eras import dialect_of
from tal_reference.eras_of_tasks import ERAS_BY_TASK, dialect_in

T = TypeVar("T")
Table = list[tuple[Version, Version, tuple[T, ...]]]
"""First and last release of a range, and the entries for its releases."""
OLDEST: Version = (8, 0, 0)
HYDRA = (
    Package("hydra-core", "1.3.2"),
    Package("omegaconf", "2.3.0"),
    Package("antlr4-python3-runtime", "4.9.3", source=True),
)
RESOURCES = Package("setuptools", "79.0.1")
"""The last version of setuptools with `pkg_resources`, which releases up to 8.0.194 import."""
PROGRESS = Package("tqdm", "4.67.1")

IMPORTS: Table[Package] = [
    ((8, 0, 0), (8, 0, 6), HYDRA),
    ((8, 0, 0), (8, 0, 194), (RESOURCES,)),
    ((8, 0, 0), (8, 3, 175), (PROGRESS,)),
]
"""First and last release of a range, and packages that its releases import and that current environments lack."""
STAND_INS = ("pandas", "IPython", "hub_sdk", "hub_sdk.config", "seaborn", "thop", "clip")
"""Modules that releases import but their assigner and loss never use; stubs replace missing ones."""


def release(version: str) -> RemoteAdapter:
    """Return an official release of Ultralytics, in a worker process.

    Args:
        version: three numbers, such as "8.3.236".

    Raises:
        PackageUnavailable: the release does not exist, or could not be installed or started.
    """
    try:
        numbers = parsed(version)
    except ValueError as error:
        raise PackageUnavailable(
            f"ultralytics=={version}: expected a version of three numbers, such as ultralytics==8.3.236"
        ) from error
    if numbers < OLDEST:
        raise PackageUnavailable(f"ultralytics=={version}: the first release with this loss is 8.0.0")
    packages = [Package("ultralytics", version), *chosen(IMPORTS, numbers)]
    folders = [ensure_package(package) for package in packages]
    launch = Launch(
        "tal_conformance.implementations.adapters.ultralytics:UltralyticsAdapter",
        {"version": version},
        folders,
        STAND_INS,
        [folder.parent for folder in folders],
    )
    return RemoteAdapter(
        f"ultralytics=={version}", Worker(launch), dialect_of(numbers), dialects_by_task(numbers)
    )


def dialects_by_task(numbers: Version) -> dict[str, Dialect]:
    """Return a release's dialect of every task that it has, by name of the task."""
    found = {task: dialect_in(numbers, task) for task in ERAS_BY_TASK}
    return {task: dialect for task, dialect in found.items() if dialect is not None}


def chosen(table: Table[T], numbers: Version) -> list[T]:
    """Return the entries of a table that apply to the release with these version numbers."""
    return [entry for first, last, entries in table if first <= numbers <= last for entry in entries]
