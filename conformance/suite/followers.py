"""Find for each logged failure the deviation that explains it, so that the report has one card for each deviation.

The behaviour that an implementation declares is called its dialect. A dialect consists of choices, such as CIoU instead
of IoU as the overlap. A deviation is a choice, or the release, in which the implementation differs from its dialect.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.relations.relations import RELATIONS_BY_TASK, NotApplicable, NotObservable
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.dialects.choices import CLAUSES, DEFAULTS
from tal_conformance.dialects.identified import Identification
from tal_conformance.dialects.known_faults import KnownFault, is_explained
from tal_conformance.dialects.observations import Observation
from tal_conformance.dialects.search import judged_differences
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ImplementationFailed, NotSupported
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.on_device import on_device
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.failure import Failure, Subject
from tal_reference import Dialect
from tal_reference.choices import phrase

ASSIGNER_TESTS = ("test_assigner", "test_exponents")
"""Tests that judge `assign` even if the implementation has a loss."""
KEYS = ("test", "parameter", "device", "dtype", "case")
"""Fields that identify the line of a failure in the log of an implementation."""

Line = dict[str, Any]


@dataclass(frozen=True)
class ChosenCause:
    """One deviation: a choice, or the release, in which an implementation differs from its declared dialect.

    Attributes:
        words: the deviation in a few words.
        clause: clause of the specification that the deviation violates.
        values: fields of the dialect with the declared values.
    """

    words: str
    clause: str
    values: dict[str, Any]


def chosen_causes(identification: Identification) -> list[ChosenCause]:
    """Return the deviations from the declared dialect; if the release differs, it is the first of them."""
    found, base = identification.dialect, identification.base
    declared = identification.implementation.dialect
    own = judged_differences(found, base)
    of_release = {
        name: getattr(declared, name) for name in judged_differences(found, declared) if name not in own
    }
    causes = []
    if of_release:
        words = f"the behaviour of {base.name} in place of {declared.name}"
        causes.append(ChosenCause(words, CLAUSES[next(iter(of_release))], of_release))
    for name, value in own.items():
        if getattr(declared, name) != value:
            causes.append(ChosenCause(phrase(name, value), CLAUSES[name], {name: getattr(declared, name)}))
    return causes


def fault_cause(identification: Identification) -> ChosenCause:
    """Return the deviation of an implementation that a planted fault explains."""
    (choice,) = identification.choices
    return ChosenCause(choice.words, choice.clause, {})


def followers(
    folder: Path, identification: Identification, lines: Sequence[Line], deadline: float
) -> list[Line]:
    """Return, for every deviation from the declared dialect, the logged failures that it explains, as log fields.

    Args:
        folder: folder of the run, with the case files.
        identification: the dialect that was found.
        lines: `divergence` lines of the implementation.
        deadline: reading of the clock of processor time after which no more failures are judged.
    """
    causes = [fault_cause(identification)] if identification.fault else chosen_causes(identification)
    explained: dict[int, list[Line]] = {number: [] for number in range(len(causes))}
    judge = CaseJudge(identification.implementation, identification.dialect, identification.fault)
    for line in lines if causes else ():
        if line.get("verdict") == "error" and identification.missing:
            continue  # a dialect that raises on some batches does not explain code that raises on others, too
        batch = _batch_of(folder, line)
        if batch is None or time.process_time() > deadline or not judge.explains(line, batch):
            continue
        needed = [
            number
            for number, cause in enumerate(causes)
            if len(causes) == 1 or not judge.conforms(line, batch, replace(judge.found, **cause.values))
        ]
        explained[needed[0] if needed else 0].append({name: line.get(name) for name in KEYS})
    return [
        {"words": cause.words, "clause": cause.clause, "lines": explained[number]}
        for number, cause in enumerate(causes)
    ]


def _batch_of(folder: Path, line: Line) -> Batch | None:
    """Return the batch of a failure; None if it has no case file."""
    try:
        return Batch.load(folder / "cases" / f"{line['case']}.safetensors")
    except (InvalidCase, OSError):
        return None


class CaseJudge:
    """Judge of logged failures by two dialects: the dialect that the implementation declares, and `found`.

    Args:
        implementation: the implementation under test.
        found: the dialect that was found.
        fault: the planted fault that explains the implementation; None if a dialect does.
    """

    def __init__(
        self, implementation: Implementation, found: Dialect, fault: KnownFault | None = None
    ) -> None:
        self.implementation, self.found, self.fault = implementation, found, fault

    def explains(self, line: Line, batch: Batch) -> bool:
        """Return True if the dialect that was found explains a failure on a batch.

        The dialect explains a failure if the implementation conforms to it on the batch, but not to the declared
        dialect. It also explains the failure of a metamorphic relation, if the relation holds with the bounds of the
        found dialect, or if the reference in the found dialect violates the relation too.

        A planted fault explains a failure if the results on the batch equal the faulty reference's, but not the
        unchanged reference's.
        """
        if self.fault is not None:
            return self._has_fault(batch, self.fault)
        if not self.conforms(line, batch, self.found):
            return False
        if not self.conforms(line, batch, self.implementation.dialect):
            return True
        of_task = RELATIONS_BY_TASK[batch.task] if line.get("test") == "test_relation" else {}
        relation = of_task.get(str(line.get("parameter")))
        if relation is None:
            return False
        reference = implementation_from(ReferenceAdapter(self.found), "reference")
        tested = replace(self.implementation, dialect=self.found)
        return _passes(relation, tested, batch) or not _passes(relation, reference, batch)

    def _has_fault(self, batch: Batch, fault: KnownFault) -> bool:
        try:
            observation = Observation(execute(self.implementation, batch))
        except ImplementationFailed as error:
            observation = Observation(None, error)
        except NotSupported:
            return False
        return is_explained(batch, observation, self.implementation.dialect, fault)

    def conforms(self, line: Line, batch: Batch, dialect: Dialect) -> bool:
        """Return True if the implementation conforms to a dialect on the batch of a failure, in an ordinary call."""
        numbers = batch.hyperparameters
        other_exponents = (numbers.alpha, numbers.beta) != (DEFAULTS.alpha, DEFAULTS.beta)
        alone = other_exponents or line.get("test") in ASSIGNER_TESTS
        device = line.get("device") or "cpu"
        subject = Subject(on_device(replace(self.implementation, dialect=dialect), device), device)
        try:
            judge_against_reference(
                subject, batch, alone=alone and "assign" in self.implementation.capabilities
            )
        except Failure:
            return False
        except NotSupported:
            return True
        return True


def _passes(relation: Any, implementation: Implementation, batch: Batch) -> bool:
    """Return True if a relation holds for an implementation on a batch, or does not apply to it."""
    try:
        relation(Subject(implementation, "cpu"), batch)
    except Failure:
        return False
    except (NotApplicable, NotObservable, NotSupported):
        return True
    return True
