"""Outcomes of test vectors, computed by a program in any language: read from a folder, and given to the suite.

    FOLDER/outcomes/NAME/implementation.json    name, version, dialect, and the parts that the program computes
    FOLDER/outcomes/NAME/ID.safetensors         its outcome of one vector

The text `vector` in the header of an outcome file is the SHA-256 of the batch that the outcome was computed from. The
texts `raised` and `unsupported` stand for tensors: the message of the error that the program raised, or the reason why
it does not support the vector. The suite judges the outcomes as those of any adapter.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.vectors import InvalidVectors, Vector, VectorSet, read_json, read_tensors
from tal_conformance.implementations.errors import NotSupported
from tal_conformance.implementations.protocol import EVERY, Implementation, implementation_from
from tal_reference import Dialect, Head, Hyperparameters, parse
from tal_reference.eras_of_tasks import for_task

OUTCOMES = "outcomes"
"""Name of the folder, in a folder of vectors, with a folder of outcomes for each program."""
IMPLEMENTATION = "implementation.json"
SUFFIX = ".safetensors"
VECTOR, RAISED, UNSUPPORTED = "vector", "raised", "unsupported"
"""Texts in the header of an outcome file."""
ASSIGNMENT = ("labels", "boxes", "scores", "foreground", "truth_index")
OPTIONAL = ("labels", "truth_index")
"""Tensors of an assignment that a program need not have."""
MOST_NAMED = 3
"""Maximum number of files that one message names."""


class ProgramRaised(ValueError):
    """The error that a program raised on a vector."""


@dataclass(frozen=True)
class VectorOutcome:
    """The outcome of a program for one vector.

    Attributes:
        tensors: tensors by name, such as "loss.total" or "assignment.scores".
        raised: message of the error that the program raised; "" if it did not raise.
        unsupported: the reason why the program does not support the vector; "" if it does.
    """

    tensors: Mapping[str, Tensor]
    raised: str = ""
    unsupported: str = ""


@dataclass(frozen=True)
class Program:
    """The description of a program, in its folder of outcomes.

    Attributes:
        folder: the folder of outcomes.
        name, version: of the program.
        dialect: name of the dialect to judge it by; "" for the dialect of the vectors.
        device: where the outcomes were computed, in words; "" if unknown.
        gives: the parts that every outcome contains: "assignment", "loss", "gradients".
    """

    folder: Path
    name: str
    version: str
    dialect: str
    device: str
    gives: tuple[str, ...]


def programs_in(folder: Path) -> list[Path]:
    """Return the folders of outcomes in a folder of vectors, sorted by name.

    Raises:
        InvalidVectors: there are none.
    """
    outcomes = folder / OUTCOMES
    found = sorted(path for path in outcomes.iterdir() if path.is_dir()) if outcomes.is_dir() else []
    if not found:
        raise InvalidVectors(
            f"no outcomes found in {outcomes}: expected a folder for each program, with {IMPLEMENTATION} and a file"
            f" ID{SUFFIX} for each vector"
        )
    return found


def read_program(folder: Path) -> Program:
    """Return the description of a program.

    Raises:
        InvalidVectors: the description is missing or invalid, or its outcomes could not be judged.
    """
    fields = read_json(folder / IMPLEMENTATION, "implementation")
    gives = tuple(fields["gives"])
    if "gradients" in gives and "loss" not in gives:
        raise InvalidVectors(
            f"{folder / IMPLEMENTATION}: gives is {list(gives)}: gradients need the loss as well"
        )
    if gives == ("loss",):
        raise InvalidVectors(
            f"{folder / IMPLEMENTATION}: gives is ['loss']: a loss can only be judged with its assignment or its "
            "gradients. Give one of them, or both"
        )
    named = {name: str(fields.get(name, "")) for name in ("name", "version", "dialect", "device")}
    return Program(folder, **named, gives=gives)


def read_outcomes(program: Program, vectors: Sequence[Vector]) -> dict[str, VectorOutcome]:
    """Return the outcome of every vector, by the vector's id.

    Raises:
        InvalidVectors: a file is missing, unexpected, damaged, incomplete, or was computed from other vectors. One
            message counts the files of every kind.
    """
    expected = {vector.id: vector for vector in vectors}
    files = {path.name.removesuffix(SUFFIX): path for path in program.folder.glob(f"*{SUFFIX}")}
    problems = [
        _counted([f"{name}{SUFFIX}" for name in names], what)
        for names, what in (
            (sorted(expected.keys() - files.keys()), "missing"),
            (sorted(files.keys() - expected.keys()), "not an outcome of these vectors"),
        )
        if names
    ]
    outcomes: dict[str, VectorOutcome] = {}
    stale: list[str] = []
    damaged: list[str] = []
    for name in sorted(expected.keys() & files.keys()):
        try:
            outcome, of = _read_outcome(files[name])
            if of != expected[name].batch.sha256:
                stale.append(f"{name}{SUFFIX}")
            else:
                _check_parts(outcome, expected[name], program.gives)
                outcomes[name] = outcome
        except (InvalidVectors, OSError) as error:
            damaged.append(f"{name}{SUFFIX} ({error})")
    if stale:
        problems.append(_counted(stale, "stale: computed from another file than the vector"))
    if damaged:
        problems.append(_counted(damaged, "damaged or incomplete"))
    if problems:
        raise InvalidVectors(
            f"{program.folder}: {'; '.join(problems)}. Expected one outcome file for each of the {len(expected):,} "
            "vectors: compute them again"
        )
    return outcomes


def _counted(names: Sequence[str], what: str) -> str:
    more = ", ..." if len(names) > MOST_NAMED else ""
    return f"{len(names):,} {what}: {', '.join(names[:MOST_NAMED])}{more}"


def _read_outcome(path: Path) -> tuple[VectorOutcome, str]:
    """Return the outcome in a file, and the checksum of the vector that the file names.

    Raises:
        InvalidVectors: the file is damaged, its header does not name a vector, or an error or exclusion has no text, or
            tensors beside it.
        OSError: the file cannot be read.
    """
    tensors, texts = read_tensors(path)
    if VECTOR not in texts:
        raise InvalidVectors(
            f"the header has no text {VECTOR!r}: expected the checksum of the vector's batch, as in vectors.json"
        )
    _check_texts(texts, tensors)
    return VectorOutcome(tensors, texts.get(RAISED, ""), texts.get(UNSUPPORTED, "")), texts[VECTOR]


def _check_texts(texts: Mapping[str, str], tensors: Mapping[str, Tensor]) -> None:
    """Raise unless the header has at most one of `raised` and `unsupported`, which has a text and no tensors beside it.

    Raises:
        InvalidVectors: the texts contradict each other or the tensors, or a text is empty.
    """
    names = [name for name in (RAISED, UNSUPPORTED) if name in texts]
    if len(names) > 1:
        raise InvalidVectors(
            f"the header has the texts {RAISED!r} and {UNSUPPORTED!r}, expected at most one of them: leave out the "
            "other"
        )
    for name in names:
        if not texts[name].strip():
            what = "message of the error" if name == RAISED else "reason"
            raise InvalidVectors(
                f"the header's text {name!r} is {texts[name]!r}, expected the {what}: write it, or leave the text out"
            )
        if tensors:
            raise InvalidVectors(
                f"the header has the text {name!r}, and the file has {len(tensors):,} tensors, {min(tensors)} among "
                "them, expected no tensors: leave out the tensors or the text"
            )


def _check_parts(outcome: VectorOutcome, vector: Vector, gives: Sequence[str]) -> None:
    """Raise unless the outcome has the tensors of all parts that the program gives, and no others.

    Raises:
        InvalidVectors: a tensor is missing or unexpected.
    """
    if outcome.raised or outcome.unsupported:
        return
    parts = [part for part in gives if vector.asks == "loss" or part == "assignment"]
    map_count = len(vector.head["strides"]) + int(vector.head.get("prototypes") is not None)
    names = {
        "assignment": [f"assignment.{name}" for name in ASSIGNMENT],
        "loss": ["loss.total", "loss.items"],
        "gradients": [f"loss.gradients.{level}" for level in range(map_count)],
    }
    optional = {f"assignment.{name}" for name in OPTIONAL} | {"loss.items"}
    wanted = {name for part in parts for name in names[part]}
    known = {name for part in gives for name in names[part]}
    if missing := sorted(wanted - optional - outcome.tensors.keys()):
        raise InvalidVectors(f"missing tensors {', '.join(missing)}")
    if unknown := sorted(outcome.tensors.keys() - known):
        raise InvalidVectors(f"unexpected tensors {', '.join(unknown)}")


class OutcomesFolder:
    """An adapter that returns the outcomes of a folder. `select` chooses the vector whose outcome is returned."""

    class_weights = True
    precisions = EVERY

    def __init__(
        self, program: Program, task: str, dialect: Dialect, outcomes: Mapping[str, VectorOutcome]
    ) -> None:
        self.name, self.gives, self.tasks, self.dialect = program.name, program.gives, (task,), dialect
        self.version = f"{program.version} on {program.device}" if program.device else program.version
        self._outcomes, self._selected = outcomes, VectorOutcome({})
        if "assignment" in program.gives:
            self.assign = self._assign
        if "loss" in program.gives:
            self.loss = self._loss

    def select(self, vector: Vector) -> None:
        """Choose the vector whose outcome the next calls return.

        Raises:
            NotSupported: the program does not support the vector, or does not compute what the vector asks.
        """
        self._selected = self._outcomes[vector.id]
        if self._selected.unsupported:
            raise NotSupported(self._selected.unsupported)
        if vector.asks == "assignment" and "assignment" not in self.gives:
            raise NotSupported("the vector asks for an assignment, which the program does not give")

    def _assign(self, inputs: AssignerInputs) -> Assignment:
        """Return the selected assignment.

        Raises:
            ProgramRaised: the program raised.
        """
        self._raise()
        return self._assignment(inputs.scores.dtype)

    def _loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the selected loss, with its assignment and gradients if the program gives them.

        Raises:
            ProgramRaised: the program raised.
        """
        self._raise()
        dtype = feature_maps[0].dtype
        assignment = self._assignment(dtype) if "assignment" in self.gives else None
        gradients: tuple[Tensor, ...] = ()
        if "gradients" in self.gives:
            gradients = tuple(
                self._tensor(f"loss.gradients.{level}", dtype) for level, _ in enumerate(feature_maps)
            )
        items: Any = self._tensor("loss.items", dtype)
        return Loss(self._tensor("loss.total", dtype), items, assignment, gradients=gradients)

    def _raise(self) -> None:
        if self._selected.raised:
            raise ProgramRaised(self._selected.raised)

    def _assignment(self, dtype: torch.dtype) -> Assignment:
        values: dict[str, Any] = {name: self._tensor(f"assignment.{name}", dtype) for name in ASSIGNMENT}
        return Assignment(**values)

    def _tensor(self, name: str, dtype: torch.dtype) -> Any:
        """Return a tensor of the selected outcome, or None if it is missing.

        Numbers of a wider dtype than float32 or the batch's own are rounded to it, and bytes of the mask become bools:
        other languages may have no narrower types.
        """
        value = self._selected.tensors.get(name)
        if value is None:
            return None
        if name == "assignment.foreground" and value.dtype == torch.uint8:
            return value.bool() if bool((value <= 1).all()) else value
        finest = torch.promote_types(dtype, torch.float32)
        return value.to(finest) if value.dtype == torch.float64 else value


def program_as_implementation(
    program: Program,
    vectors: VectorSet,
    outcomes: Mapping[str, VectorOutcome],
    against: Dialect | None = None,
) -> Implementation:
    """Return the outcomes of a program as an implementation.

    Args:
        program: the program.
        vectors: the vectors.
        outcomes: the outcome of every vector.
        against: dialect to judge the program by; None for the dialect that it declares.

    Raises:
        InvalidVectors: the declared dialect is unknown.
    """
    try:
        dialect = against or parse(program.dialect or vectors.dialect)
    except ValueError as error:
        raise InvalidVectors(f"{program.folder / IMPLEMENTATION}: {error}") from error
    dialect = for_task(dialect, vectors.task) or dialect
    adapter = OutcomesFolder(program, vectors.task, dialect, outcomes)
    implementation = implementation_from(adapter, str(program.folder))
    return replace(implementation, values_only="gradients" not in program.gives)
