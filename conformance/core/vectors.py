"""Test vectors: a folder of batches as files, for programs in any language, and its list `vectors.json`.

    FOLDER/vectors.json                         settings, flags and checksums of every vector
    FOLDER/vectors/ID.safetensors               a batch: a case file
    FOLDER/assigner/ID.safetensors              the inputs of an assigner alone, decoded from the batch
    FOLDER/outcomes/NAME/...                    what a program computed (`implementations.outcomes_folder`)

Nothing in these files is ever executed. `schema/vectors.schema.json` describes the JSON files.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match
from safetensors import SafetensorError, safe_open
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import as_json, check_schema, format_error, parse_json, save_atomically
from tal_conformance.core.files import check_regular, write_atomically
from tal_conformance.core.outcome import AssignerInputs

SCHEMA = 1
"""Version of the files of a folder of vectors. It rises only if older readers would misread a newer file."""
MANIFEST = "vectors.json"
"""Name of the list of a folder's vectors."""
SCHEMA_FILE = Path(__file__).parent / "schema" / "vectors.schema.json"
"""The JSON Schema of `vectors.json` and of a program's `implementation.json`."""
INPUTS = ("scores", "boxes", "anchors", "strides", "labels", "truth_boxes", "truth_mask")
"""Tensors of the file of an assigner's inputs: the fields of `AssignerInputs`."""
FLAGS = {
    "TIE": "equal values compete (T1, T2, T3): each of the assignments that the specification admits is accepted",
    "NEAR_TIE": "values that compete differ by less than their rounding (T4): either order is accepted",
    "RAISES": "the settings are invalid: the program must raise an error, and an outcome without one fails",
    "UNDEFINED": "the specification leaves a part of the result undefined (0 / 0 in IOU-1): the rest is judged",
    "NOT_FINITE": "a prediction is infinite or NaN",
    "NO_TRUTHS": "no ground truth in the batch (TAL-EMPTY-1)",
    "ASSIGNER_ALONE": "alpha, beta or k differ from those of the loss: only the assigner is judged",
    "CLASS_WEIGHTS": "the head has class weights (COR-7)",
    "TOPK2": "the one-to-one head's topk2 is set (TAL-CONF-2)",
    "ONE_BIN": "R = 1: distances are values, and DFL is an L1 loss",
    "MIXED_PRECISION": "to be computed with automatic mixed precision, in the dtype of the feature maps",
}
"""Meaning of each flag of a vector."""


class InvalidVectors(ValueError):
    """Error: a folder is not a valid folder of vectors or outcomes. The message names file, problem and remedy."""


@dataclass(frozen=True)
class VectorFile:
    """A file of a folder of vectors.

    Attributes:
        file: path within the folder.
        sha256: SHA-256 of the file's bytes, hexadecimal.
    """

    file: str
    sha256: str


@dataclass(frozen=True)
class Vector:
    """One test vector: a batch, and facts about it. The schema describes the fields.

    Attributes:
        id: id of the batch.
        batch: file of the batch.
        inputs: file of the assigner's inputs.
        head, hyperparameters: settings of the batch, as JSON values.
        dtype: dtype of the feature maps, such as "float32".
        autocast: True if the batch is to be computed with automatic mixed precision.
        asks: "loss", or "assignment" if only an assigner is asked.
        result: "unique", "acceptable", "raises" or "undefined": which outcomes are accepted.
        flags: keys of `FLAGS`.
        checks: names of the suite's tests that draw the batch.
        clauses: ids of the clauses that decide something in the batch.
        hazards: names of the batch's hazards.
        description: the batch in one line.
    """

    id: str
    batch: VectorFile
    inputs: VectorFile
    head: Mapping[str, Any]
    hyperparameters: Mapping[str, Any]
    dtype: str
    autocast: bool
    asks: str
    result: str
    flags: Sequence[str]
    checks: Sequence[str]
    clauses: Sequence[str]
    hazards: Sequence[str]
    description: str


@dataclass(frozen=True)
class VectorSet:
    """A folder of test vectors.

    Attributes:
        task: name of the loss family.
        profile: name of the profile that drew the batches, or "shipped".
        dialect: name of the dialect for which the batches were drawn.
        generator: name and version of the program that wrote the folder.
        left_out: sentences about tests of the suite that the vectors do not contain.
        vectors: the vectors.
        number: version of the shipped set; None for other vectors.
    """

    task: str
    profile: str
    dialect: str
    generator: str
    left_out: Sequence[str]
    vectors: Sequence[Vector] = field(repr=False)
    number: int | None = None


@cache
def _validator(part: str) -> Draft202012Validator:
    schema = json.loads(SCHEMA_FILE.read_text(encoding="utf-8"))
    return Draft202012Validator({"$ref": f"#/$defs/{part}", "$defs": schema["$defs"]})


def read_json(path: Path, part: str) -> dict[str, Any]:
    """Return the JSON object in a file that a definition of the schema describes.

    Args:
        path: the file.
        part: "vectors" or "implementation".

    Raises:
        InvalidVectors: the file does not exist, is not JSON, or violates the schema.
    """
    try:
        check_regular(path)
        fields: dict[str, Any] = parse_json(path.read_text(encoding="utf-8"))
        check_schema(fields, SCHEMA)
    except FileNotFoundError as error:
        raise InvalidVectors(f"{path} does not exist: expected a folder with {path.name}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidVectors(f"cannot read {path}: {format_error(error)}") from error
    fault = best_match(_validator(part).iter_errors(fields))
    if fault is not None:
        raise InvalidVectors(f"{path}: {fault.json_path}: {fault.message:.200}")
    return fields


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file's bytes, hexadecimal.

    Raises:
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def save_inputs(path: Path, inputs: AssignerInputs) -> None:
    """Write the tensors of an assigner's inputs as a safetensors file.

    Raises:
        OSError: the file cannot be written.
    """
    save_atomically(path, {name: getattr(inputs, name).cpu().contiguous() for name in INPUTS}, {})


def load_inputs(path: Path, batch: Batch) -> AssignerInputs:
    """Return the inputs of an assigner that `save_inputs` wrote for a batch.

    Raises:
        InvalidVectors: the file does not have these tensors.
        OSError: the file cannot be read.
    """
    tensors, _ = read_tensors(path)
    if set(tensors) != set(INPUTS):
        raise InvalidVectors(f"{path} has the tensors {sorted(tensors)}, expected {sorted(INPUTS)}")
    return AssignerInputs(**tensors, head=batch.head, hyperparameters=batch.hyperparameters)


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return copies of the tensors of a safetensors file, and the texts of its header.

    Raises:
        InvalidVectors: the file is not a safetensors file, or is damaged.
        OSError: the file cannot be read.
    """
    check_regular(path)
    with path.open("rb"):
        pass  # an OSError here is about access; an OSError of safe_open may be about the content
    try:
        with safe_open(path, framework="pt") as file:
            names = file.keys()
            return {name: file.get_tensor(name).clone() for name in names}, dict(file.metadata() or {})
    except (OSError, SafetensorError) as error:
        raise InvalidVectors(f"{path} is damaged or not a safetensors file: {format_error(error)}") from error


def write_set(folder: Path, vectors: VectorSet) -> None:
    """Write the list of a folder's vectors, whose files exist already.

    Raises:
        OSError: the file cannot be written.
    """
    fields: dict[str, Any] = {
        "schema": SCHEMA,
        "generator": vectors.generator,
        "task": vectors.task,
        "profile": vectors.profile,
        "dialect": vectors.dialect,
        "flags": FLAGS,
        "left_out": list(vectors.left_out),
        "vectors": [asdict(vector) for vector in vectors.vectors],
        **({} if vectors.number is None else {"set": vectors.number}),
    }
    fields["sha256"] = list_digest(fields)
    with write_atomically(folder / MANIFEST) as unfinished:
        unfinished.write_text(json.dumps(fields, indent=1) + "\n", encoding="utf-8")


def list_digest(fields: Mapping[str, Any]) -> str:
    """Return the checksum of the list of a folder's vectors, without the field of the checksum itself."""
    return hashlib.sha256(as_json(fields).encode()).hexdigest()


def read_set(folder: Path) -> VectorSet:
    """Return the vectors of a folder, after comparing the checksums of all of its files.

    Raises:
        InvalidVectors: the list is invalid, or a file is missing or was changed.
    """
    path = folder / MANIFEST
    fields = read_json(path, "vectors")
    if fields.pop("sha256") != list_digest(fields):
        raise InvalidVectors(
            f"{path}: the checksum does not match the content: the file was edited. Export the vectors again"
        )
    names = Vector.__dataclass_fields__
    vectors = []
    for entry in fields["vectors"]:
        known = {name: entry[name] for name in names}
        known |= {
            name: VectorFile(entry[name]["file"], entry[name]["sha256"]) for name in ("batch", "inputs")
        }
        vectors.append(Vector(**known))
    check_files(folder, [file for vector in vectors for file in (vector.batch, vector.inputs)])
    return VectorSet(
        fields["task"], fields["profile"], fields["dialect"], fields["generator"], fields["left_out"], vectors,
        fields.get("set"),
    )  # fmt: skip


def check_files(folder: Path, files: Sequence[VectorFile]) -> None:
    """Raise unless every file exists and has its checksum.

    Raises:
        InvalidVectors: files are missing or were changed; the message counts them.
    """
    missing = [entry.file for entry in files if not (folder / entry.file).is_file()]
    changed = [
        entry.file
        for entry in files
        if entry.file not in missing and sha256_of(folder / entry.file) != entry.sha256
    ]
    problems = [
        f"{len(names):,} of {len(files):,} files {what}, such as {names[0]}"
        for names, what in ((missing, "are missing"), (changed, "were changed"))
        if names
    ]
    if problems:
        raise InvalidVectors(
            f"{folder}: {'; '.join(problems)}: the exported vectors were changed. Export them again"
        )
