"""Outcome files: outcomes on disk, so that they can be judged on machines where the implementation cannot run.

An outcome file is a safetensors file beside the case file: the tensors by name, and the rest as JSON text in the
header. Reading it executes nothing, and a checksum over its whole content detects damage.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import branch_batches, has_branches
from tal_conformance.core.case_file import (
    CHECKSUM,
    as_json,
    check_schema,
    digest,
    format_error,
    parse_json,
    save_atomically,
)
from tal_conformance.core.files import check_regular
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.outcome_tensors import branch_tensors, named_tensors, outcome_from
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.validation import check_assignment, check_inputs

SCHEMA = 1
"""Version of the files that `store` writes. `tal_conformance.core.case_file` states when it is increased."""
METADATA = "tal-conformance-outcome"
"""Key of the JSON text in the file's header."""
SUFFIX = ".outcome"
"""Suffix of outcome files. It differs from that of case files, so that `*.safetensors` matches only case files."""
FACTS = ("case", "implementation", "version", "dialect", "device")
"""Texts in the header: id of the batch, name and version of the implementation, its dialect, and the device."""


class CorruptOutcome(ValueError):
    """Error: a file does not hold an outcome of the batch. The message names the file and the reason."""


@dataclass(frozen=True)
class StoredOutcome:
    """An outcome (the results of an implementation on a batch) with its origin.

    Attributes:
        case: id of the batch.
        implementation, version: the implementation that computed it.
        dialect: name of the dialect that the implementation is judged by.
        device: device of the computation: "cpu", "cuda".
        outcome: the outcome, on the CPU.
    """

    case: str
    implementation: str
    version: str
    dialect: str
    device: str
    outcome: Outcome


def outcome_path(case: Path, implementation: str, device: str) -> Path:
    """Return the path of an outcome file, beside the case file of its batch."""
    safe = re.sub(r"[^\w.=-]+", "_", implementation)[:80]
    return case.with_name(f"{case.stem}.{safe}-{device}{SUFFIX}")


def outcomes_beside(case: Path) -> list[Path]:
    """Return all outcome files beside a case file, sorted by name."""
    if not case.parent.is_dir():
        return []
    named = (path for path in case.parent.iterdir() if path.name.startswith(f"{case.stem}."))
    return sorted(path for path in named if path.suffix == SUFFIX and path.is_file())


def store(path: Path, stored: StoredOutcome) -> None:
    """Write an outcome file atomically."""
    named = named_tensors(stored.outcome)
    tensors = {name: tensor.detach().cpu().contiguous().clone() for name, tensor in named.items()}
    facts: dict[str, Any] = {name: getattr(stored, name) for name in FACTS}
    facts |= {"schema": SCHEMA} | _flags(stored.outcome)
    if stored.outcome.branches:
        facts["branches"] = {name: _flags(part) for name, part in stored.outcome.branches.items()}
    save_atomically(path, tensors, {METADATA: as_json(facts | {CHECKSUM: digest(facts, tensors)})})


def _flags(outcome: Outcome) -> dict[str, bool]:
    """Return the properties of an outcome that its tensors do not show; `knows_total` only if it is not the default."""
    loss = outcome.loss
    return {
        "own_inputs": outcome.exposes_inputs,
        "of_loss": outcome.from_loss,
        "shows_items": loss is None or loss.shows_items,
        **({} if loss is None or loss.knows_total else {"knows_total": False}),
    }


def load(path: Path, batch: Batch) -> StoredOutcome:
    """Return the outcome (on the CPU) in a file that `store` wrote for `batch`. Nothing in the file is executed.

    Raises:
        CorruptOutcome: the file does not hold an outcome, or an outcome of another batch.
        OSError: the file cannot be read.
    """
    try:
        facts, tensors = _read(path)
        if facts["case"] != batch.id:
            raise ValueError(f"the outcome is of batch {facts['case']}, expected {batch.id}")
        outcome = _outcome(facts, tensors, batch)
    except (ValueError, TypeError, ProtocolViolation, OverflowError, RecursionError) as error:
        raise CorruptOutcome(f"cannot read outcome file {path}: {format_error(error)}") from error
    return StoredOutcome(**{name: facts[name] for name in FACTS}, outcome=outcome)


def declared_dialect(path: Path) -> str:
    """Return the name of the dialect that an outcome file declares.

    Raises:
        ValueError: the file is not an outcome file.
        OSError: the file cannot be read.
    """
    return str(_read(path)[0].get("dialect", ""))


def _outcome(facts: dict[str, Any], tensors: dict[str, Tensor], batch: Batch) -> Outcome:
    """Return the outcome of a batch, after checking its tensors, with the outcomes of its branches.

    Raises:
        ValueError, ProtocolViolation: the header or a tensor is wrong, or a branch is missing.
    """
    _check_flags(facts)
    parts, flags = branch_batches(batch) if has_branches(batch) else {}, facts.get("branches", {})
    if not isinstance(flags, dict) or set(flags) != set(parts):
        raise ValueError(f"the outcome has the branches {flags!r:.100}, expected {sorted(parts) or 'none'}")
    branches = {
        name: _outcome(flags[name], branch_tensors(tensors, name), part) for name, part in parts.items()
    }
    outcome = outcome_from(
        tensors,
        batch.head,
        batch.hyperparameters,
        exposes_inputs=facts["own_inputs"],
        from_loss=facts.get("of_loss", "loss.total" in tensors and "assignment.foreground" in tensors),
        task=batch.family,
        shows_items=facts.get("shows_items", True),
        knows_total=facts.get("knows_total", True),
        branches=branches,
    )
    _check(outcome, batch)
    return outcome


def _check_flags(facts: Any) -> None:
    """Raise ValueError unless the properties in a header are booleans; older files lack some of them."""
    if not isinstance(facts, dict):
        raise ValueError(f"missing or invalid values in the header: expected an object, got {facts!r:.100}")
    wrong = [name for name in ("own_inputs",) if not isinstance(facts.get(name), bool)]
    wrong += [
        name
        for name in ("of_loss", "shows_items", "knows_total")
        if not isinstance(facts.get(name, False), bool)
    ]
    if wrong:
        raise ValueError(f"missing or invalid values in the header: {', '.join(wrong)}")


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Return the header's fields and the tensors, copied so that a later change of the file does not affect them.

    Raises:
        ValueError: the file is not an outcome file.
        OSError: the file cannot be read.
    """
    check_regular(path)
    with path.open("rb"):
        pass  # an OSError here is about the file; an OSError of safe_open may be about the file's content
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ValueError(str(error)) from error
    if METADATA not in header:
        raise ValueError(f"the header has no entry {METADATA!r}")
    facts = parse_json(header[METADATA])
    check_schema(facts, SCHEMA)
    checksum = facts.pop(CHECKSUM, None)
    if checksum != digest(facts, tensors):
        raise ValueError("the checksum does not match the content: the file is damaged or was edited")
    wrong = [name for name in FACTS if not isinstance(facts.get(name), str)]
    if wrong:
        raise ValueError(f"missing or invalid values in the header: {', '.join(wrong)}")
    return facts, tensors


def _by_level(gradients: Sequence[Tensor], batch: Batch) -> Iterator[tuple[Tensor, Tensor]]:
    """Return pairs of a gradient and its feature map; none if the loss has only values."""
    return zip(gradients, batch.feature_maps if gradients else (), strict=True)


def _check(outcome: Outcome, batch: Batch) -> None:
    """Raise unless the tensors have the shapes and dtypes that the protocol requires for the batch.

    Raises:
        ProtocolViolation: an input or the assignment is wrong.
        ValueError: a tensor of the loss is wrong.
    """
    own = assigner_inputs(batch)
    check_inputs(outcome.inputs, own)
    if outcome.assignment is not None:
        check_assignment(outcome.assignment, outcome.inputs, outcome.assignment.stages is not None)
    if outcome.loss is None:
        return
    expected = [
        ("loss.items", outcome.loss.items, (len(batch.family.terms),)),
        ("loss.total", outcome.loss.total, ()),
    ]
    expected += [
        (f"loss.gradients.{level}", gradient, tuple(of.shape))
        for level, (gradient, of) in enumerate(_by_level(outcome.loss.gradients, batch))
    ]
    expected += [
        (f"loss.term_gradients.{term}.{level}", gradient, tuple(of.shape))
        for term, gradients in enumerate(outcome.loss.term_gradients)
        for level, (gradient, of) in enumerate(zip(gradients, batch.feature_maps, strict=True))
    ]
    for name, tensor, shape in expected:
        if tuple(tensor.shape) != shape or not tensor.is_floating_point():
            raise ValueError(f"{name} is {tuple(tensor.shape)} {tensor.dtype}, expected {shape} of floats")
