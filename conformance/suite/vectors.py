"""Judge the outcomes of test vectors as a run of the suite judges an adapter: same checks, run log and report."""

from collections import Counter
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import tal_conformance.suite.every_check  # noqa: F401 (enters the checks into the registry)
from tal_conformance.batches.hazards.catalogue import MEANINGS_BY_TASK
from tal_conformance.checks.reference import judged_outcome
from tal_conformance.checks.registry import CHECKS
from tal_conformance.checks.rejection import check_rejects
from tal_conformance.core.batch import Batch
from tal_conformance.core.case_file import InvalidCase
from tal_conformance.core.environment import command_line
from tal_conformance.core.outcome import AssignerInputs
from tal_conformance.core.task import TASKS
from tal_conformance.core.vectors import InvalidVectors, Vector, VectorSet, load_inputs
from tal_conformance.core.verdicts import Judgement, Verdict
from tal_conformance.implementations.outcomes_folder import OutcomesFolder
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject, formal_failure
from tal_conformance.suite.checker import Checker
from tal_conformance.suite.run_log import RunLogWriter
from tal_conformance.suite.session import MAX_UNSUPPORTED_SHARE
from tal_reference.choices import title

DEVICE = "cpu"
"""Device on which outcomes are judged, wherever they were computed."""
NOT_GIVEN = {
    "assignment": "the program gives no assignment: stages of the assigner are judged by the loss and its gradients",
    "loss": "the program gives no loss: only its assigner is judged",
    "gradients": "the program gives no gradients: the values of the loss are judged, and its gradients are not",
}
"""Sentence of the run log about each part that a program does not give."""


@dataclass
class VectorRun:
    """The judging of one program's outcomes.

    Attributes:
        recorder: writes the run log.
        folder: the folder of vectors.
        vectors: the list of vectors.
        implementation: the outcomes, as an implementation.
        verdicts: number of vectors by verdict.
        open: number of vectors that are inconclusive although the specification defines their results.
        failures: the smallest failing batch for each pair of check and stage, and for each formal mistake.
    """

    recorder: RunLogWriter
    folder: Path
    vectors: VectorSet
    implementation: Implementation
    verdicts: Counter[Verdict] = field(default_factory=Counter)
    open: int = 0
    failures: dict[tuple[str, str], tuple[Checker, Failure]] = field(default_factory=dict)

    @property
    def fails(self) -> bool:
        """True if a vector fails, or a result has a formal mistake."""
        return bool(self.failures)

    @property
    def is_open(self) -> bool:
        """True if a result that the specification defines was not judged, or too few vectors show a result.

        Vectors on which a program must raise do not count: a program that always raises passes them.
        """
        excluded = self.verdicts[Verdict.NOT_SUPPORTED]
        return bool(self.open) or excluded == self.counted or self.is_too_unsupported

    @property
    def counted(self) -> int:
        """Number of judged and unsupported vectors, without those on which the program correctly raised."""
        return self.verdicts.total() - self.verdicts[Verdict.REJECTED]

    @property
    def is_too_unsupported(self) -> bool:
        """True if the program does not support more vectors than an adapter may exclude batches.

        A set of vectors is the same in every run, so that the limit has no allowance for chance
        (`unsupported_ceiling`).
        """
        return self.verdicts[Verdict.NOT_SUPPORTED] > MAX_UNSUPPORTED_SHARE * self.counted

    def judge(self, vector: Vector) -> None:
        """Judge the outcome of one vector, and log the result.

        Raises:
            InvalidVectors: a file of the vector cannot be read.
        """
        try:
            batch = Batch.load(self.folder / vector.batch.file)
        except (InvalidCase, OSError) as error:
            raise InvalidVectors(str(error)) from error
        inputs = load_inputs(self.folder / vector.inputs.file, batch)
        name = vector.checks[0] if vector.checks else "vector"
        subject = Subject(self.implementation, DEVICE)
        group = CHECKS[name].clauses[0] if name in CHECKS else ""
        checker = Checker(subject, self.recorder, f"test_{name}", group)
        failure = None
        try:
            judgement = checker(batch, by=partial(judge_vector, vector=vector, inputs=inputs))
            verdict = judgement.verdict
            self.open += verdict is Verdict.INCONCLUSIVE and not judgement.undefined
        except Failure as error:
            failure, verdict = error, error.verdict
        self.verdicts[verdict] += 1
        for mistake, formal in checker.formal.items():
            self.failures.setdefault(("", mistake), (checker, formal))
        if failure is not None:
            self._keep_smallest(checker, failure)

    def _keep_smallest(self, checker: Checker, failure: Failure) -> None:
        key = checker.test, failure.stage
        known = self.failures.get(key)
        if known is None or _size(failure.batch) < _size(known[1].batch):
            self.failures[key] = checker, failure

    def log_failures(self) -> None:
        """Log the failures, with their case files and pictures."""
        for checker, failure in self.failures.values():
            self.recorder.failure(checker.test, checker.clause_group, failure)

    def note_untested(self) -> None:
        """Log which parts the program does not give, and which checks of the suite the vectors do not contain."""
        adapter: OutcomesFolder = self.implementation.adapter
        reasons = [NOT_GIVEN[part] for part in ("assignment", "loss") if part not in adapter.gives]
        if "loss" in adapter.gives and "gradients" not in adapter.gives:
            reasons.append(NOT_GIVEN["gradients"])
        for reason in (*reasons, *self.vectors.left_out):
            self.recorder.line("not_tested", implementation=None, device=None, reason=reason)

    def note_unsupported(self) -> None:
        """Log that the program does not support too many vectors, if so."""
        if not self.is_too_unsupported:
            return
        excluded = self.verdicts[Verdict.NOT_SUPPORTED]
        reason = (
            f"{excluded:,} of {self.counted:,} vectors are not supported (vectors on which the program must raise, and "
            f"raised, are not counted), more than {MAX_UNSUPPORTED_SHARE:.0%}: the other vectors show too little about "
            "the program"
        )
        self.recorder.line(
            "inconclusive", implementation=self.implementation.name, device=DEVICE, test="all tests",
            batches=self.counted, inconclusive=excluded, reason=reason,
        )  # fmt: skip


def _size(batch: Batch) -> int:
    return batch.images * batch.anchors * (1 + len(batch.annotations))


def judge_vector(subject: Subject, batch: Batch, vector: Vector, inputs: AssignerInputs) -> Judgement:
    """Judge the outcome of a vector as `judge_against_reference` judges an adapter, with the vector's own inputs.

    Args:
        subject: the outcomes as an implementation.
        batch: the vector's batch.
        vector: the vector.
        inputs: the inputs of the assigner that the program received.

    Raises:
        Failure: the outcome does not conform.
        NotSupported: the program does not support the vector.
    """
    adapter: OutcomesFolder = subject.implementation.adapter
    adapter.select(vector)
    alone = vector.asks == "assignment"
    expected = Expectation(batch, subject.implementation.dialect).with_inputs(inputs)
    if expected.rejection is not None:
        return check_rejects(subject, batch, expected.rejection, alone)
    judgement, outcome = judged_outcome(subject, expected, alone=alone)
    if outcome.formal:
        failure = formal_failure(subject, batch, outcome.formal[0], outcome)
        failure.formal, failure.judgement = outcome.formal, judgement
        raise failure
    return judgement


def run_fields(vectors: VectorSet, implementation: Implementation) -> dict[str, Any]:
    """Return the facts about a run of vectors for the first line of its log."""
    return {
        "profile": vectors.profile,
        "worth": None,
        "seed": "derandomized",
        "command": command_line(),
        "devices": {DEVICE: "tested"},
        "hazards": dict(MEANINGS_BY_TASK[vectors.task]),
        "implementations": [
            {
                "name": implementation.name,
                "version": implementation.version,
                "dialect": title(implementation.dialect),
                "capabilities": implementation.capabilities,
            }
        ],
    }


def begin(recorder: RunLogWriter, vectors: VectorSet, implementation: Implementation) -> None:
    """Write the first line of the log."""
    recorder.begin(run_fields(vectors, implementation), TASKS[vectors.task])
