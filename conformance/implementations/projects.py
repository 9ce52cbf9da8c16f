"""The projects that are known: what is fetched of each, what it imports besides, and what it is held to."""

from dataclasses import dataclass

from tal_conformance.implementations.errors import PackageUnavailable
from tal_conformance.implementations.workers.packages import Package, ensure_package
from tal_conformance.implementations.workers.process import Launch, Worker
from tal_conformance.implementations.workers.remote import RemoteAdapter
from tal_reference import DIALECTS

PROGRESS = Package("tqdm", "4.67.1")
HUB = Package("huggingface_hub", "0.25.2")
"""The last ones that need nothing which torch and ultralytics do not need as well."""


@dataclass(frozen=True)
class Project:
    """Another project with a task-aligned assigner.

    Attributes:
        version: the one that the adapter was written for, taken where none is named.
        adapter: `module:object` that runs in the worker.
        dialect: what it is held to, by name.
        needs: what it imports and a present environment lacks.
        stand_ins: what it imports at its top, never for assigner and loss: where missing, an empty module stands in.
        inside: folder of its package from which it imports its own modules; "" where that is by its full name.
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
"""By the name on PyPI, which is also the name behind `--implementation`."""


def project(name: str, version: str = "") -> RemoteAdapter:
    """Another project's implementation, in a worker.

    Args:
        name: of the table.
        version: which of its versions; "": the one that the adapter was written for.

    Raises:
        Unavailable: there is no such version, or it cannot be had or run here.
    """
    known = PROJECTS[name]
    package = Package(name, version or known.version)
    folders = [ensure_package(each) for each in (package, *known.needs)]
    folders[0] /= known.inside
    launch = Launch(known.adapter, {"version": package.version}, folders, known.stand_ins)
    try:
        return RemoteAdapter(name, Worker(launch), DIALECTS[known.dialect])
    except PackageUnavailable as error:
        raise PackageUnavailable(
            f"{package}: {error}; the adapter was written for {name}=={known.version}"
        ) from error
