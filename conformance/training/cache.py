"""Cache of the trainings that do not depend on the implementation under test.

They are the suite's training of a YOLOv8n with the official loss (`yolov8n.recorded_training`), its
continuation with the reference's loss, and its continuations with artificial rounding errors ("control
trainings", see `compare`). They depend only on this project's code, torch, Ultralytics and the processor, so
they are computed once and stored under a hash of those inputs. The entries lie in the cache of fetched
packages and are verified on each use; without a writable cache, the trainings are computed each time.
"""

import hashlib
import json
import platform
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

import torch
from filelock import FileLock
from safetensors.torch import load_file, save_file
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.cache import FILES, HASHES, cache_folder, damage, hashes
from tal_conformance.core.case_file import head_as_dict, head_from_dict
from tal_conformance.core.environment import processor_name
from tal_conformance.core.files import PACKAGES, create_folder_atomically
from tal_conformance.training.compare import Ended, reference_training, rms_of_controls
from tal_conformance.training.yolov8n import Progress, RecordedTraining, Schedule, recorded_training
from tal_reference import Dialect

T = TypeVar("T")
TRAINING, WEIGHTS, CONTROLS, ENDED = (
    "training.json",
    "weights.safetensors",
    "controls.json",
    "ended.safetensors",
)
WHOLE = Schedule()
"""Default schedule of the suite's training."""
ROOMS = ("tal_reference", "tal_conformance")
"""Packages whose source is part of the hash: all of them, because a list of the modules in use could be incomplete."""


def cached_training(schedule: Schedule = WHOLE) -> RecordedTraining:
    """Return the result of `recorded_training`, which trains a YOLOv8n, from the cache if possible.

    Raises:
        UnknownImplementation: ultralytics is not installed, cannot be imported, or its photographs differ from the
            labelled ones.
    """
    return _kept(f"training {schedule}", lambda: recorded_training(schedule), write_training, read_training)


def cached_controls(recorded: RecordedTraining, device: str) -> float:
    """Return the root mean square distance of the control trainings' weights from the reference's, cached if possible.

    Args:
        recorded: the training of a YOLOv8n that the control trainings continue.
        device: device of the trainings.
    """
    return _kept(
        f"controls {recorded.schedule} {device}",
        lambda: rms_of_controls(recorded, device=device),
        lambda rms, folder: _write_json(folder / CONTROLS, rms),
        lambda folder: float(json.loads((folder / CONTROLS).read_text(encoding="utf-8"))),
    )


def cached_reference(recorded: RecordedTraining, dialect: Dialect, device: str) -> Ended:
    """Return the result of the training that continues `recorded` with the reference's loss, cached if possible."""
    return _kept(
        f"reference {recorded.schedule} {dialect} {device}",
        lambda: reference_training(recorded, dialect, device=device),
        write_ended,
        lambda folder: read_ended(folder, device),
    )


def _kept(what: str, made: Callable[[], T], write: Callable[[T, Path], None], read: Callable[[Path], T]) -> T:
    """Return the cached value named `what`; if it is not in the cache, compute it with `made` and store it.

    Args:
        what: description of the value, from which the name of its folder in the cache is derived.
        made: computes the value. A file lock lets only one process compute it.
        write: writes the value into a folder.
        read: reads the value from a folder.
    """
    folder = cache_folder() / f"kept-{fingerprint(what)}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f"{folder.name}.lock")):
            if damage(folder) is None:
                with suppress(OSError, ValueError, KeyError, TypeError):
                    return read(folder / FILES)
            value = made()
            _keep(value, folder, write)
            return value
    except OSError:  # the folder is missing, full or read-only: compute without the cache
        return made()


def _keep(value: T, folder: Path, write: Callable[[T, Path], None]) -> None:
    """Write a value into the cache atomically.

    Raises:
        OSError: the value cannot be written.
    """
    with create_folder_atomically(folder) as unfinished:
        (unfinished / FILES).mkdir()
        write(value, unfinished / FILES)
        _write_json(unfinished / HASHES, hashes(unfinished / FILES))


def fingerprint(what: str) -> str:
    """Return a hash of `what` and of a training's inputs: code, torch, image reader, processor and GPU."""
    sha = hashlib.sha256(what.encode())
    releases = [
        metadata.version(name) if _installed(name) else None for name in ("ultralytics", "opencv-python")
    ]
    facts = (torch.__version__, releases, platform.machine(), _cpu(), _gpu(), torch.get_num_threads())
    sha.update(repr(facts).encode())
    house = PACKAGES
    for path in sorted(path for room in ROOMS for path in (house / room).rglob("*.py")):
        sha.update(path.relative_to(house).as_posix().encode() + b"\n" + path.read_bytes())
    return sha.hexdigest()[:24]


def _installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def _cpu() -> tuple[str, str]:
    """Return instruction set, processor and number of cores, which determine the order of torch's sums."""
    return torch.backends.cpu.get_cpu_capability(), processor_name()


def _gpu() -> tuple[str, int | None] | None:
    """Return the name of the GPU and the version of cuDNN, or None without a GPU."""
    if not torch.cuda.is_available():
        return None
    return torch.cuda.get_device_name(), torch.backends.cudnn.version()


def write_training(recorded: RecordedTraining, folder: Path) -> None:
    """Write a training into a folder, as JSON, safetensors and case files.

    Raises:
        OSError: a file cannot be written.
    """
    facts = {
        "head": head_as_dict(recorded.head),
        "progress": [asdict(progress) for progress in recorded.progress],
        "losses": recorded.losses,
        "schedule": asdict(recorded.schedule),
    }
    _write_json(folder / TRAINING, facts)
    save_file(recorded.weights, folder / WEIGHTS)
    for number, batch in enumerate(recorded.batches):
        batch.save(folder / f"{number}.safetensors")


def read_training(folder: Path) -> RecordedTraining:
    """Return the training that `write_training` wrote, with bitwise equal tensors.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder does not contain a training.
    """
    facts: dict[str, Any] = json.loads((folder / TRAINING).read_text(encoding="utf-8"))
    schedule = facts["schedule"] | {
        "recorded": tuple(facts["schedule"]["recorded"]),
        "sizes": tuple((height, width) for height, width in facts["schedule"]["sizes"]),
    }
    return RecordedTraining(
        Schedule(**schedule),
        head_from_dict(facts["head"]),
        [Batch.load(folder / f"{number}.safetensors") for number in range(len(facts["progress"]))],
        [Progress(**progress) for progress in facts["progress"]],
        facts["losses"],
        load_file(folder / WEIGHTS),
    )


def write_ended(ended: Ended, folder: Path) -> None:
    """Write the result of a training with the reference's loss into a folder, as safetensors.

    The tensors are the weights and, for each step and image, the positives `choice.STEP.IMAGE` (M, A) bool.

    Raises:
        OSError: the file cannot be written.
    """
    choices = {
        f"choice.{step}.{image}": positives.contiguous()
        for step, choice in enumerate(ended.choices)
        for image, positives in enumerate(choice)
    }
    save_file({"weights": ended.weights} | choices, folder / ENDED)


def read_ended(folder: Path, device: str) -> Ended:
    """Return the result that `write_ended` wrote: final weights on the CPU, positives of each step on `device`.

    Raises:
        OSError, ValueError, KeyError, TypeError: the folder does not contain such a result.
    """
    tensors = load_file(folder / ENDED)
    weights = tensors.pop("weights")
    places = sorted(tuple(map(int, name.split(".")[1:])) for name in tensors)  # (step, image)
    choices: list[list[Tensor]] = [[] for _ in {step for step, _ in places}]
    for step, image in places:
        choices[step].append(tensors[f"choice.{step}.{image}"].to(device))
    return Ended(weights, choices)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value), encoding="utf-8")
