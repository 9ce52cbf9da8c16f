"""Write the run log: append lines while batches are judged, and store case files in the run's folder."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tal_conformance.checks.checker import JudgedBatch
from tal_conformance.core.batch import Batch
from tal_conformance.core.environment import environment
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.task import DETECT, Task
from tal_conformance.core.verdicts import Uniqueness
from tal_conformance.implementations.outcome_file import StoredOutcome, outcome_path, store
from tal_conformance.judgement.failure import Failure, stage_fields, value_fields
from tal_conformance.pictures.picture import failure_picture
from tal_conformance.suite.reproduce import reproduction_commands
from tal_reference import Dialect
from tal_reports import RunLog, merged_order


class RunLogWriter:
    """Writer of the log of one run.

    Attributes:
        lost: the first error while writing, such as a full disk, after which the run has to stop; else None.
    """

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self.lost: OSError | None = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Store the first OSError of the `with` block in `lost`, and raise it again."""
        try:
            yield
        except OSError as error:
            self.lost = self.lost or error
            raise

    def _append(self, kind: str, **fields: Any) -> None:
        with self._writing():
            self._log.append(kind, **fields)

    @property
    def folder(self) -> Path:
        """The run's folder."""
        return self._log.folder

    def begin(self, facts: dict[str, Any], *tasks: Task) -> None:
        """Append the first line of the log: stages and terms of the tasks (default: detection), and further facts."""
        self._append("run", **run_line_fields(tasks or (DETECT,)), **({"environment": environment()} | facts))

    def end(self, exit_status: int) -> None:
        """Append the last line of the log, with pytest's exit status."""
        with self._writing():
            self._log.finish(exit_status)

    def make_latest(self) -> None:
        """Make the link `latest` point to this run."""
        self._log.set_latest()

    def line(self, kind: str, **fields: Any) -> None:
        """Append a line of the given kind; `batch`, `failure` and `difference` lines have their own methods."""
        self._append(kind, **fields)

    def batch(self, judged: JudgedBatch) -> None:
        """Append the log line of one judged batch."""
        judgement, failure, recipe = judged.judgement, judged.failure, judged.batch.origin
        stages = {} if judgement is None else {name: stage.margin for name, stage in judgement.stages.items()}
        uniqueness = Uniqueness.UNIQUE if judgement is None else judgement.uniqueness
        times = {
            "call_milliseconds": judged.call_milliseconds,
            "drawing_milliseconds": judged.drawing_milliseconds,
        }
        self._append(
            "batch",
            implementation=judged.subject.implementation.name,
            test=judged.test,
            clause_group=judged.clause_group,
            case=judged.batch.id,
            device=judged.subject.device,
            dtype=str(judged.batch.dtype).removeprefix("torch."),
            verdict=judged.verdict.value,
            uniqueness=uniqueness.value,
            stages={
                name: None if margin is None else float(f"{margin:.3g}") for name, margin in stages.items()
            },
            hazards=sorted(judged.batch.hazards),
            phase=judged.phase,
            milliseconds=round(judged.milliseconds, 2),
            **{name: round(time, 2) for name, time in times.items() if time is not None},
            **({"undecided": True} if judgement is not None and judgement.inconclusive else {}),
            **(
                {"undecided_because": judgement.notes}
                if judgement is not None and judgement.inconclusive
                else {}
            ),
            **({"reason": judgement.unsupported} if judgement is not None and judgement.unsupported else {}),
            **({"met": list(judged.known_issues)} if judged.known_issues else {}),
            **({"entry": judged.excused_by} if judged.excused_by else {}),
            **({"autocast": True} if judged.batch.autocast else {}),
            **({"parameter": judged.parameter} if judged.parameter else {}),
            **({"recipe": recipe} if recipe.startswith("Recipe(") and judged.phase == "generate" else {}),
            **({} if failure is None else {"stage": failure.stage, "clause": failure.clause}),
        )

    def failure(self, test: str, clause_group: str, failure: Failure, parameter: str = "") -> None:
        """Append the line of a shrunk failure with its picture, and save its case file and its outcome.

        Args:
            test: name of the test function.
            clause_group: the group of clauses that the test covers, such as `TAL-TOPK`.
            failure: the failure on the batch to which Hypothesis shrank it.
            parameter: value of the test's own parameter; "" if it has none.
        """
        with self._writing():
            case = self.save(failure.batch)
            if failure.outcome is not None:
                store_outcome(case, failure, failure.outcome)
        picture, problem = _draw(failure)
        self._append(
            "divergence",
            implementation=failure.subject.implementation.name,
            test=test,
            clause_group=clause_group,
            case=failure.batch.id,
            device=failure.subject.device,
            dtype=str(failure.batch.dtype).removeprefix("torch."),
            verdict=failure.verdict.value,
            stage=failure.stage,
            clause=failure.clause,
            summary=failure.summary,
            description=failure.batch.describe(),
            recipe=failure.batch.origin,
            stages=stage_fields(failure.judgement),
            values=[value_fields(value) for value in failure.values],
            picture=picture,
            reproduce=reproduction_commands(failure.subject.implementation, failure.batch, case),
            traceback=failure.details or problem,
            **({"parameter": parameter} if parameter else {}),
            **assignment_source(failure.outcome),
        )

    def difference(self, failure: Failure, declared: Dialect, against: Dialect) -> None:
        """Append the line of a declared difference between two dialects, with the smallest batch that shows it."""
        self.save(failure.batch)
        self._append(
            "difference",
            implementation=failure.subject.implementation.name,
            dialect=declared.name,
            against=against.name,
            stage=failure.stage,
            clause=failure.clause,
            case=failure.batch.id,
            summary=failure.summary,
            description=failure.batch.describe(),
            recipe=failure.batch.origin,
            values=[value_fields(value) for value in failure.values],
            picture=failure_picture(failure),
        )

    def save(self, batch: Batch) -> Path:
        """Save a batch as a case file of this run, and return its path."""
        cases = self.folder / "cases"
        cases.mkdir(parents=True, exist_ok=True)
        path = cases / f"{batch.id}.safetensors"
        batch.save(path)
        return path


def run_line_fields(tasks: Sequence[Task]) -> dict[str, Any]:
    """Return the fields of a run log's first line that describe the tasks of the run.

    Stages and terms are those of all tasks. With several tasks, the field `tasks` has the stages and terms of each.
    """
    lines = {task.name: task.as_log_line() for task in tasks}
    fields = {
        "stages": merged_order([line["stages"] for line in lines.values()], key=lambda stage: stage["name"]),
        "terms": merged_order([line["terms"] for line in lines.values()], key=lambda term: term),
    }
    return fields | ({"tasks": lines} if len(lines) > 1 else {})


def assignment_source(outcome: Outcome | None) -> dict[str, str]:
    """Return the source of the assignment that a failure of a loss shows, as fields of its log line.

    The source is "loss" if the loss exposes the assignment that it used, "separate" if `assign` was called in addition,
    and "hidden" if no assignment is exposed. For an implementation without a loss the dict is empty.
    """
    if outcome is None or outcome.loss is None:
        return {}
    if outcome.from_loss:
        return {"assignment": "loss"}
    return {"assignment": "hidden" if outcome.assignment is None else "separate"}


def _draw(failure: Failure) -> tuple[dict[str, Any] | None, str | None]:
    """Return the picture of a failure, or else the reason why it could not be drawn."""
    try:
        return failure_picture(failure), None
    except Exception as error:
        return None, f"cannot draw the picture of this batch: {type(error).__name__}: {error}"


def store_outcome(case: Path, failure: Failure, outcome: Outcome) -> None:
    """Store the outcome of a failing batch beside its case file, so that `replay --offline` can judge it."""
    tested, device = failure.subject.implementation, failure.subject.device
    facts = failure.batch.id, tested.name, tested.version, tested.dialect.name, device
    store(outcome_path(case, tested.name, device), StoredOutcome(*facts, outcome))
