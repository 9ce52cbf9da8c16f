"""Case files: a batch as one safetensors file, with JSON in its header.

Nothing in a case file is ever executed, and a checksum over the whole content detects damage.
"""

import ctypes
import dataclasses
import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from tal_conformance.core.circumstances import Circumstances
from tal_conformance.core.files import check_regular, write_atomically
from tal_conformance.core.mask_runs import LENGTHS, VALUES, decoded, encoded
from tal_conformance.core.names import unknown_name
from tal_conformance.core.task import DETECT, TASKS
from tal_reference import Head, Hyperparameters

SCHEMA = 1
"""Version of the files that `write` writes. It changes only if older readers would misread a new file; fields that
they can ignore are added without a new version. `read` must keep reading older versions: `tests/samples` has some."""
METADATA = "tal-conformance"
"""Key of the JSON text in the file's header."""
CHECKSUM = "sha256"
"""Key of the checksum in the JSON text."""
LARGEST = 2**20
"""Largest stride, k, number of classes and number of bins that is accepted."""
MAX_ERROR_LENGTH = 400
"""Maximum number of characters of an error message, which may quote the content of the file."""
PART = 2**24
"""Largest number of bytes that are hashed at once."""
WHOLE = ("topk", "topk2", "updates", "epochs")
"""Hyperparameters that are integers."""
LATER = ("angle_gain", "updates", "epochs", "pose_gain", "kobj_gain", "rle_gain")
"""Hyperparameters that files of schema 1 did not have at first."""
OPTIONAL_OF_HEAD = (
    "class_weights",
    "keypoints",
    "keypoint_sigmas",
    "prototypes",
    "masks",
    "overlapping_masks",
    "parts_assign",
)
"""Fields of a head that are None, and not stored, unless a task needs them."""
RECORDED = "recorded"
"""Key of the circumstances of a recorded batch in the JSON text."""
EXTRA = "extra."
"""Prefix of the names of the tensors that hold a batch's extras."""


class InvalidCase(ValueError):
    """A case file that does not hold a valid batch; the message names the file and the problem."""


class Content(NamedTuple):
    """The content of a case file: the fields of `Batch`, in the order in which `Batch` defines them."""

    feature_maps: tuple[Tensor, ...]
    annotations: Tensor
    head: Head
    hyperparameters: Hyperparameters
    origin: str
    hazards: frozenset[str]
    autocast: bool
    task: str
    extras: Mapping[str, Tensor]


def write(path: Path, content: Content, circumstances: Circumstances | None = None) -> None:
    """Write a case file atomically: no other process sees an incomplete file.

    Args:
        path: path of the file.
        content: the batch, which need not be valid: a recorded batch may be one on which a loss raised.
        circumstances: circumstances of a recorded batch.

    Raises:
        OSError: the file cannot be written.
    """
    tensors = batch_tensors(content.feature_maps, content.annotations, content.extras)
    tensors |= encoded(tensors["annotations"], content.head, content.task)
    case = {
        "schema": SCHEMA,
        "head": head_as_dict(content.head),
        "hyperparameters": _stored(content.hyperparameters),
        "origin": content.origin,
        "hazards": sorted(content.hazards),
        **({"autocast": True} if content.autocast else {}),
        **({"task": content.task} if content.task != DETECT.name else {}),
        **({RECORDED: circumstances.as_dict()} if circumstances is not None else {}),
    }
    save_atomically(path, tensors, {METADATA: as_json(case | {CHECKSUM: digest(case, tensors)})})


def _stored(numbers: Hyperparameters) -> dict[str, Any]:
    """Return the hyperparameters that a file stores: those of schema 1, and newer ones unless they have defaults."""
    values = dataclasses.asdict(numbers)
    return {
        name: number
        for name, number in values.items()
        if name not in LATER or number != getattr(Hyperparameters, name)
    }


def save_atomically(path: Path, tensors: dict[str, Tensor], header: dict[str, str]) -> None:
    """Write a safetensors file atomically: no other process sees an incomplete file.

    Raises:
        OSError: the file cannot be written.
    """
    try:
        with write_atomically(path) as unfinished:
            save_file(tensors, unfinished, header)
    except SafetensorError as error:
        raise OSError(f"cannot write {path}: {error}") from error


def read(path: Path) -> Content:
    """Return the content of a case file after checking types and checksum. The batch itself is not validated.

    Raises:
        ValueError: the file is not a case file, or is damaged.
        TypeError: a setting of head or hyperparameters is unknown.
        OSError: the file cannot be read.
    """
    text, tensors = _text_and_tensors(path)
    case = parse_json(text)
    check_schema(case, SCHEMA)
    checksum = case.pop(CHECKSUM, None)
    if checksum != digest(case, tensors):
        raise ValueError("the checksum does not match the content: the file is damaged or was edited")
    head = _head(case.get("head"))
    extras = {
        name.removeprefix(EXTRA): tensors.pop(name) for name in sorted(tensors) if name.startswith(EXTRA)
    }
    task = case.get("task", DETECT.name)
    if not isinstance(task, str):
        raise ValueError(f"invalid task {task!r}: expected a name")
    if task not in TASKS:
        raise ValueError(unknown_name("task", task, TASKS))
    names = tensor_names(TASKS[task].map_count(head))
    if set(tensors) - {VALUES, LENGTHS} != set(names):
        raise ValueError(f"unexpected tensors {sorted(tensors)}: expected {sorted(names)}")
    annotations = decoded(tensors, head, task)
    maps = [tensors[name] for name in names[1:]]
    settings = _hyperparameters(case.get("hyperparameters"))
    origin, hazards, autocast = (
        _origin(case.get("origin")),
        _hazards(case.get("hazards")),
        case.get("autocast", False),
    )
    if not isinstance(autocast, bool):
        raise ValueError(f"invalid autocast {autocast!r}: expected a boolean")
    return Content(tuple(maps), annotations, head, settings, origin, hazards, autocast, task, extras)


def read_circumstances(path: Path) -> Circumstances:
    """Return the circumstances of a recorded batch from the header of its case file; unknown ones have defaults.

    The checksum is not verified; `read` does that.

    Raises:
        ValueError: the file is not a case file.
        OSError: the file cannot be read.
    """
    check_regular(path)
    try:
        with safe_open(path, framework="pt") as file:
            case = parse_json((file.metadata() or {}).get(METADATA, "null"))
    except (SafetensorError, RecursionError) as error:
        raise ValueError(str(error)) from error
    return Circumstances.from_dict(case.get(RECORDED) if isinstance(case, dict) else None)


def check_schema(facts: object, known: int) -> None:
    """Raise ValueError unless `facts`, the JSON object of a file, has the schema version `known`."""
    found = facts.get("schema") if isinstance(facts, dict) else None
    if found != known or isinstance(found, bool):
        newer = type(found) is int and found > known
        what_to_do = (
            ". The file was written by a newer version of tal-conformance; upgrade this one" if newer else ""
        )
        raise ValueError(f"unknown schema {found!r}: this version reads schema {known}{what_to_do}")


def digest(settings: object, tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 over `settings` as JSON, and over name, dtype, shape and bytes of CPU tensors."""
    sha = hashlib.sha256(as_json(settings).encode())
    for name, tensor in sorted(tensors.items()):
        sha.update(f"\n{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        for part in _parts(tensor):
            sha.update(part)
    return sha.hexdigest()


def _parts(tensor: Tensor) -> Iterator[memoryview]:
    """Yield the bytes of a contiguous CPU tensor in parts of at most `PART` bytes, without copies.

    An array type of `ctypes` has a length of 64 bits; `ctypes.string_at` would cut the length to 32 bits. Unlike a
    conversion to NumPy, `ctypes` works for bfloat16 too.
    """
    for start in range(0, tensor.nbytes, PART):
        size = min(PART, tensor.nbytes - start)
        yield memoryview((ctypes.c_char * size).from_address(tensor.data_ptr() + start))


def as_json(value: object) -> str:
    """Return a value as a JSON text; equal values give equal texts."""
    return json.dumps(value, sort_keys=True)


def parse_json(text: str) -> Any:
    """Return the Python value of a JSON text.

    Raises:
        ValueError: the text is not JSON, or an object has a key twice.
        RecursionError: the text is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_unique_keys)


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    for key, value in pairs:
        if key in fields:
            raise ValueError(f"a JSON object has the key {key!r:.100} more than once")
        fields[key] = value
    return fields


def format_error(error: Exception) -> str:
    """Return the message of an error, shortened in the middle if it is long."""
    text, half = str(error), MAX_ERROR_LENGTH // 2
    return text if len(text) <= MAX_ERROR_LENGTH else f"{text[:half]} … {text[-half:]}"


def tensor_names(levels: int) -> list[str]:
    """Return the names of the tensors in a file: the annotations, then the feature map of each level."""
    return ["annotations", *(f"level.{number}" for number in range(levels))]


def batch_tensors(
    feature_maps: tuple[Tensor, ...], annotations: Tensor, extras: Mapping[str, Tensor]
) -> dict[str, Tensor]:
    """Return the tensors of a batch by their names in a file, contiguous, on the CPU, without shared memory."""
    names = [*tensor_names(len(feature_maps)), *(f"{EXTRA}{name}" for name in extras)]
    tensors = (annotations, *feature_maps, *extras.values())
    plain = {name: value.detach().cpu().contiguous() for name, value in zip(names, tensors, strict=True)}
    seen: set[int] = set()
    for name, value in plain.items():
        place = value.untyped_storage().data_ptr()
        if place in seen and value.numel():
            plain[name] = value.clone()
        seen.add(place)
    return plain


def _text_and_tensors(path: Path) -> tuple[str, dict[str, Tensor]]:
    """Return the JSON text of a case file's header, and copies of its tensors, which outlive the file."""
    check_regular(path)
    with path.open("rb"):
        pass  # an OSError here concerns access to the file; an OSError of safe_open may concern its content
    try:
        with safe_open(path, framework="pt") as file:
            metadata, names = file.metadata() or {}, file.keys()
            tensors = {name: file.get_tensor(name).clone() for name in names}
    except (OSError, SafetensorError) as error:
        raise ValueError(str(error)) from error
    if METADATA not in metadata:
        raise ValueError(f"the header has no entry {METADATA!r}")
    return metadata[METADATA], tensors


def head_as_dict(head: Head) -> dict[str, Any]:
    """Return the fields of a head as JSON values; class weights only if there are any, for older readers."""
    fields = dataclasses.asdict(head)
    return {name: value for name, value in fields.items() if value is not None}


def head_from_dict(fields: Mapping[str, Any]) -> Head:
    """Return the head with the fields of `head_as_dict`, whose sequences JSON has turned into lists.

    Raises:
        ValueError: a field has no meaning.
        TypeError: a field is unknown.
    """
    values: dict[str, Any] = dict(fields)
    for name in ("strides", "class_weights", "keypoints", "keypoint_sigmas", "masks"):
        if values.get(name) is not None:
            values[name] = tuple(values[name])
    return Head(**values)


def _head(value: Any) -> Head:
    match value:
        case {"strides": [*strides], "classes": int(), "reg_max": int()} if all(
            type(number) is int and number <= LARGEST
            for number in [*strides, value["classes"], value["reg_max"]]
        ):
            for name in ("class_weights", "keypoint_sigmas"):
                numbers = value.get(name)
                if numbers is not None and not (
                    isinstance(numbers, list) and all(type(number) in (int, float) for number in numbers)
                ):
                    raise ValueError(f"invalid {name} {numbers!r:.200}: expected a list of numbers")
            for name in ("keypoints", "masks"):
                pair = value.get(name)
                if pair is not None and not (
                    isinstance(pair, list)
                    and len(pair) == 2
                    and all(type(number) is int and number <= LARGEST for number in pair)
                ):
                    raise ValueError(f"invalid {name} {pair!r:.200}: expected a list of 2 integers")
            prototypes, overlapping = value.get("prototypes"), value.get("overlapping_masks")
            if prototypes is not None and not (type(prototypes) is int and prototypes <= LARGEST):
                raise ValueError(
                    f"invalid prototypes {prototypes!r:.200}: expected an integer up to {LARGEST}"
                )
            if overlapping is not None and type(overlapping) is not bool:
                raise ValueError(f"invalid overlapping_masks {overlapping!r:.200}: expected a boolean")
            if value.get("parts_assign") not in (None, True, False):
                raise ValueError(f"invalid parts_assign {value['parts_assign']!r:.200}: expected a boolean")
            return head_from_dict(value)
    raise ValueError(
        f"invalid head {value!r:.200}: expected strides (list of int), classes (int) and reg_max (int), each at most"
        f" {LARGEST}"
    )


def _hyperparameters(value: Any) -> Hyperparameters:
    if not isinstance(value, dict):
        raise ValueError(f"invalid hyperparameters {value!r}: expected a JSON object")
    return Hyperparameters(**{name: _hyperparameter(name, number) for name, number in value.items()})


def _hyperparameter(name: str, number: Any) -> Any:
    """Return a hyperparameter in its type: int for those in `WHOLE` (topk2 may be None), finite float for others."""
    if number is None and name == "topk2":
        return None
    whole = type(number) is int
    if not whole and (name in WHOLE or type(number) is not float or not math.isfinite(number)):
        kind = "an integer" if name in WHOLE else "a finite number"
        raise ValueError(f"invalid hyperparameter {name} {number!r}: expected {kind}")
    if whole and abs(number) > LARGEST:
        raise ValueError(f"invalid hyperparameter {name} {number}: expected at most {LARGEST}")
    return number if name in WHOLE else float(number)


def _origin(value: Any) -> str:
    if not isinstance(value, str):
        raise ValueError(f"invalid origin {value!r}: expected a string")
    return value


def _hazards(value: Any) -> frozenset[str]:
    if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
        raise ValueError(f"invalid hazards {value!r}: expected a list of names")
    return frozenset(value)
