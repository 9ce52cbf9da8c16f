"""The exception that a check raises if an implementation fails on a batch."""

from dataclasses import dataclass, field
from typing import Any

import torch

from tal_conformance.core.batch import Batch
from tal_conformance.core.devices import lacks_float64
from tal_conformance.core.outcome import CheckedAssignment, Outcome
from tal_conformance.core.task import DETECT
from tal_conformance.core.verdicts import (
    Divergence,
    Judgement,
    State,
    Value,
    Verdict,
)
from tal_conformance.implementations.errors import AnsweredUnsupported, ImplementationFailed
from tal_conformance.implementations.protocol import Implementation


@dataclass(frozen=True)
class Subject:
    """One implementation on one device."""

    implementation: Implementation
    device: str

    @property
    def batch_device(self) -> str:
        """The device of the batches that it receives: the CPU, if its own device lacks float64 (`on_device`)."""
        return "cpu" if lacks_float64(self.device) else self.device

    @property
    def id(self) -> str:
        """The parameter id in pytest's node ids."""
        return f"{self.implementation.name}-{self.device}"


@dataclass
class Failure(Exception):
    """Error: an implementation failed on a batch. A test raises it, so that Hypothesis shrinks the batch.

    Attributes:
        subject: the implementation, and the device it ran on.
        batch: the batch on which the implementation failed.
        verdict: divergent, error or nondeterministic.
        stage: first diverging stage; "" if the implementation failed as a whole.
        clause: the violated clause.
        summary: one sentence.
        values: the worst differences.
        judgement: judgement of the outcome; None if there is no outcome.
        details: traceback, if the implementation raised.
        outcome: what the implementation returned; None if it raised.
        assignment: the implementation's assignment, for a picture that compares it with the reference's.
        pictured: True if a picture of the batch explains the failure; it is drawn when the failure is logged, since
            Hypothesis raises hundreds of failures while it shrinks one.
        formal: mistakes in the form of the results, such as a wrong dtype, as sentences, if the failure consists of
            these alone; each sentence is reported once in a run.
    """

    subject: Subject
    batch: Batch
    verdict: Verdict
    stage: str
    clause: str
    summary: str
    values: list[Value] = field(default_factory=list)
    judgement: Judgement | None = None
    details: str | None = None
    outcome: Outcome | None = None
    assignment: CheckedAssignment | None = None
    pictured: bool = False
    formal: tuple[str, ...] = ()

    @property
    def stages(self) -> set[str]:
        """All diverging stages; empty if the implementation failed as a whole."""
        if self.judgement is None:
            return {self.stage} - {""}
        return {name for name, stage in self.judgement.stages.items() if stage.mismatch}

    def __str__(self) -> str:
        where = f" at stage {self.stage} ({self.clause})" if self.stage else ""
        return (
            f"{self.subject.id} is {self.verdict.value.upper()}{where}: {self.summary}\n"
            f"  batch {self.batch.id}: {self.batch.describe()}\n"
            f"  {self.batch.origin}"
        )


_TYPES: dict[str, type[Failure]] = {}


def failure_from(subject: Subject, batch: Batch, error: Divergence | ImplementationFailed) -> Failure:
    """Return the failure that describes an exception of the judge or of the implementation.

    The failure's class depends on the stage, because Hypothesis treats exceptions of one class raised at one line as
    one bug, and would otherwise shrink a batch that fails at the metric into one that fails at the gradient.
    """
    if isinstance(error, ImplementationFailed):
        verdict = Verdict.DIVERGENT if isinstance(error, AnsweredUnsupported) else Verdict.ERROR
        formal = (error.formal,) if error.formal else ()
        return _type("error")(
            subject, batch, verdict, "", "", error.formal or error.what, details=error.details, formal=formal
        )
    judgement = error.judgement
    first = judgement.first
    assert first is not None
    assert first.mismatch is not None
    summary = first.mismatch.summary + precision_remark(batch)
    return _type(first.stage)(
        subject, batch, judgement.verdict, first.stage, first.clause, summary, first.mismatch.values, judgement,
    )  # fmt: skip


def formal_failure(subject: Subject, batch: Batch, mistake: str, outcome: Outcome | None = None) -> Failure:
    """Return the failure that describes a formal mistake in the results of a batch."""
    summary = f"{mistake}; the values were converted, and judged too"
    return _type("error")(subject, batch, Verdict.ERROR, "", "", summary, outcome=outcome, formal=(mistake,))


def precision_remark(batch: Batch) -> str:
    """Return the batch's dtype and autocast as the end of a message; "" for float32 without autocast."""
    if batch.dtype == torch.float32 and not batch.autocast:
        return ""
    name = str(batch.dtype).removeprefix("torch.")
    return f", under autocast to {name}" if batch.autocast else f", in {name}"


def _type(stage: str) -> type[Failure]:
    name = "".join(part.capitalize() for part in stage.replace("-", " ").split())
    return _TYPES.setdefault(stage, type(f"{name}Failure", (Failure,), {"__module__": __name__}))


def value_fields(value: Value) -> dict[str, str]:
    """Return a differing value as the fields of the run log and the reports."""
    return {
        "where": value.where,
        "quantity": value.quantity,
        "reference": value.reference,
        "implementation": value.implementation,
        "bound": value.bound,
    }


def stage_fields(judgement: Judgement | None) -> list[dict[str, Any]]:
    """Return every stage with its state and margin, in the order of judging, as the fields of the run log."""
    if judgement is None:
        return [
            {"stage": stage, "clause": clause, "state": State.NOT_SHOWN.value, "margin": None}
            for stage, clause in DETECT.clauses.items()
        ]
    return [
        {"stage": stage.stage, "clause": stage.clause, "state": stage.state.value, "margin": stage.margin}
        for stage in judgement.stages.values()
    ]
