"""Other projects: their packages, their dependencies, and their dialects."""

from dataclasses import dataclass

from tal_conformance.implementations.errors import PackageUnavailable
from tal_conformance.implementations.workers.packages import Package, ensure_package
from tal_conformance.implementations.workers.process import Launch, Worker
from tal_conformance.implementations.workers.remote import RemoteAdapter
from tal_reference import DIALECTS

PROGRESS = Package("tqdm", "4.67.1")
HUB = Package("huggingface_hub", "0.25.2")
"""Packages and the last versions whose dependencies torch and ultralytics satisfy."""


@dataclass(frozen=True)
class Project:
    """Another project with a task-aligned assigner.

    Attributes:
        version: the version of the project that the adapter was written for, which is the default.
        adapter: the adapter as `module:object`, which the worker process imports and calls.
        dialect: name of the dialect that the project is judged by.
        needs: packages that the project imports and that current environments lack.
        stand_ins: modules that the project imports but its assigner and loss never use; stubs replace missing ones.
        inside: subfolder of the package that must be on the import path; "" if none is needed.
    """

    version: str
    adapter: str
    dialect: str
    needs: tuple[Package, ...] = (PROGRESS,)
    stand_ins: tuple[str, ...] = ()
    inside: str = ""


PROJECTS = {
    "yolo9": Project(
        "1.0.18",
        "tal_conformance.implementations.adapters.yolo9:YOLO9",
        "ultralytics-8.0.51",
        stand_ins=("pandas", "IPython", "seaborn", "thop", "cv2", "pycocotools", "albumentations"),
        inside="yolo9",
    ),
    "libreyolo": Project(
        "1.6.0",
        "tal_conformance.implementations.adapters.libreyolo:LibreYOLO",
        "ultralytics-8.3.253",
        stand_ins=("pycocotools", "mss", "cv2", "scipy", "cloudpickle"),
    ),
    "coreyolo": Project(
        "0.2.1",
        "tal_conformance.implementations.adapters.coreyolo:CoreYOLO",
        "ultralytics-8.3.253",
        stand_ins=("coremltools",),
    ),
    "doclayout-yolo": Project(
        "0.0.4",
        "tal_conformance.implementations.adapters.doclayout_yolo:DocLayoutYOLO",
        "ultralytics-8.3.253",
        needs=(PROGRESS, HUB),
        stand_ins=("pandas", "seaborn", "thop", "cpuinfo", "albumentations"),
    ),
}
"""Projects by name on PyPI, which is also the `--implementation` value."""


def project(name: str, version: str = "") -> RemoteAdapter:
    """Return the implementation of another project, in a worker process.

    Args:
        name: key of `PROJECTS`.
        version: version of the project; "" for the version that the adapter was written for.

    Raises:
        PackageUnavailable: the version does not exist, or could not be installed or started.
    """
    known = PROJECTS[name]
    package = Package(name, version or known.version)
    folders = [ensure_package(needed) for needed in (package, *known.needs)]
    entries = [folder.parent for folder in folders]
    folders[0] /= known.inside
    launch = Launch(known.adapter, {"version": package.version}, folders, known.stand_ins, entries)
    try:
        return RemoteAdapter(name, Worker(launch), DIALECTS[known.dialect])
    except PackageUnavailable as error:
        raise PackageUnavailable(
            f"{package}: {error}; the adapter was written for {name}=={known.version}"
        ) from error
