"""A run: the folder that it leaves, and what is written into its log while batches are judged."""

import json
import os
import platform
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from conformance.batches import Batch
from conformance.devices.arithmetic import arithmetic
from conformance.implementations import Implementation, ImplementationFailed, Outcome
from conformance.implementations.stored import StoredOutcome, outcome_path, store
from conformance.judgement import STAGES, Diverges, Judgement, State, Uniqueness, Value, Verdict
from reference import Dialect
from reports import RunLog


@dataclass(frozen=True)
class Subject:
    """One implementation on one device."""

    implementation: Implementation
    device: str

    @property
    def id(self) -> str:
        """What pytest shows in brackets."""
        return f"{self.implementation.name}-{self.device}"


@dataclass
class Failure(Exception):
    """A batch that an implementation failed, raised by a test so that Hypothesis shrinks it.

    Attributes:
        subject: who failed, and where.
        batch: the batch, as shrunk as it is.
        verdict: divergent, error or nondeterministic.
        stage: first diverging stage; "" where the implementation failed as a whole.
        clause: the clause that is broken.
        summary: one sentence.
        values: the worst places.
        judgement: if there was something to judge.
        details: traceback of an implementation that raised.
        picture: what the report draws.
        outcome: what the implementation made of the batch, if it made something.
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
    picture: dict[str, Any] | None = None
    outcome: Outcome | None = None

    @property
    def stages(self) -> set[str]:
        """All stages that diverge; none where the implementation failed as a whole."""
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


def failure_of(subject: Subject, batch: Batch, error: Diverges | ImplementationFailed, drawn: Any) -> Failure:
    """The failure behind what the judge or the implementation raised.

    Its class differs by stage, because Hypothesis takes errors of one class at one line for one bug: so a batch that
    fails at the metric is not shrunk into one that fails at the gradient.
    """
    if isinstance(error, ImplementationFailed):
        return _type("error")(
            subject, batch, Verdict.ERROR, "", "", error.what, details=error.details, picture=drawn
        )
    judgement = error.judgement
    first = judgement.first
    assert first is not None
    assert first.mismatch is not None
    return _type(first.stage)(
        subject, batch, judgement.verdict, first.stage, first.clause, first.mismatch.summary, first.mismatch.values,
        judgement, picture=drawn,
    )  # fmt: skip


def _type(stage: str) -> type[Failure]:
    name = "".join(part.capitalize() for part in stage.replace("-", " ").split())
    return _TYPES.setdefault(stage, type(f"{name}Failure", (Failure,), {"__module__": __name__}))


class Recorder:
    """Writes a run's log.

    Attributes:
        lost: why something could not be written, for example because the disk is full; the run then has to stop.
    """

    def __init__(self, log: RunLog) -> None:
        self._log = log
        self.lost: OSError | None = None

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """Note what could not be written, and let it pass."""
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

    def begin(self, facts: dict[str, Any]) -> None:
        """The log's first line."""
        self._append("run", environment=environment(), **facts)

    def end(self, exit_status: int) -> None:
        """The log's last line."""
        with self._writing():
            self._log.finish(exit_status)

    def make_latest(self) -> None:
        """Let `latest` point at this run."""
        self._log.set_latest()

    def line(self, kind: str, **fields: Any) -> None:
        """Any other line."""
        self._append(kind, **fields)

    def batch(
        self,
        subject: Subject,
        test: str,
        clause_group: str,
        batch: Batch,
        verdict: Verdict,
        judgement: Judgement | None,
        phase: str,
        milliseconds: float,
        failure: Failure | None = None,
        met: tuple[str, ...] = (),
        entry: str | None = None,
        shares: tuple[float, float] | None = None,
    ) -> None:
        """One judged batch.

        `met`: entries of the ledger that it fulfils; `entry`: the one that excused it; `shares`: milliseconds of the
        implementation's own call, and of drawing before it.
        """
        cause = {} if failure is None else {"stage": failure.stage, "clause": failure.clause}
        stages = {} if judgement is None else {name: stage.margin for name, stage in judgement.stages.items()}
        uniqueness = Uniqueness.UNIQUE if judgement is None else judgement.uniqueness
        self._append(
            "batch",
            implementation=subject.implementation.name,
            test=test,
            clause_group=clause_group,
            case=batch.id,
            device=subject.device,
            dtype=str(batch.dtype).removeprefix("torch."),
            verdict=verdict.value,
            uniqueness=uniqueness.value,
            stages={
                name: None if margin is None else float(f"{margin:.3g}") for name, margin in stages.items()
            },
            hazards=sorted(batch.hazards),
            phase=phase,
            milliseconds=round(milliseconds, 2),
            **_shares(shares),
            **({"undecided": True} if judgement is not None and judgement.undecided else {}),
            **({"met": list(met)} if met else {}),
            **({"entry": entry} if entry else {}),
            **cause,
        )

    def failure(self, test: str, node: str, clause_group: str, failure: Failure) -> None:
        """One failing batch, shrunk, with its case file and what the implementation made of it."""
        with self._writing():
            case = self.save(failure.batch)
            if failure.outcome is not None:
                keep_outcome(case, failure, failure.outcome)
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
            stages=strip(failure.judgement),
            values=[value_fields(value) for value in failure.values],
            picture=failure.picture,
            reproduce=reproduction(failure.subject.implementation, failure.batch, case),
            traceback=failure.details,
        )

    def difference(self, failure: Failure, declared: Dialect, against: Dialect) -> None:
        """What a declared dialect makes different from another, on its smallest batch; no failure."""
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
            picture=failure.picture,
        )

    def save(self, batch: Batch) -> Path:
        """Keep a batch as a case file of this run."""
        cases = self.folder / "cases"
        cases.mkdir(parents=True, exist_ok=True)
        path = cases / f"{batch.id}.safetensors"
        batch.save(path)
        return path


def _shares(shares: tuple[float, float] | None) -> dict[str, float]:
    names = ("call_milliseconds", "drawing_milliseconds")
    return (
        {} if shares is None else {name: round(share, 2) for name, share in zip(names, shares, strict=True)}
    )


def keep_outcome(case: Path, failure: Failure, outcome: Outcome) -> None:
    """Store what an implementation made of a failing batch beside its case file: to judge it again elsewhere."""
    who = failure.subject.implementation
    facts = failure.batch.id, who.name, who.version, who.dialect.name, failure.subject.device
    store(outcome_path(case, who.name, failure.subject.device), StoredOutcome(*facts, outcome))


def value_fields(value: Value) -> dict[str, str]:
    """A place where two numbers differ, for the log."""
    return {
        "where": value.where,
        "quantity": value.quantity,
        "reference": value.reference,
        "implementation": value.implementation,
        "bound": value.bound,
    }


def strip(judgement: Judgement | None) -> list[dict[str, Any]]:
    """Every stage with its state, in order."""
    if judgement is None:
        return [
            {"stage": s, "clause": c, "state": State.NOT_SHOWN.value, "margin": None}
            for s, c in STAGES.items()
        ]
    return [
        {"stage": stage.stage, "clause": stage.clause, "state": stage.state.value, "margin": stage.margin}
        for stage in judgement.stages.values()
    ]


def reproduction(implementation: Implementation, batch: Batch, case: Path) -> dict[str, str]:
    """Three ways to judge a batch again."""
    name = implementation.asked_as
    isolated = implementation.elsewhere and ":" in name
    try:
        shown = case.relative_to(Path.cwd())
    except ValueError:
        shown = case
    ours = Path(__file__).parents[1] == Path.cwd()
    pytest_target = "pytest conformance" if ours else "pytest --pyargs conformance"
    return {
        "pytest": f"{pytest_target} --implementation {shlex.quote(name)} --case {shlex.quote(str(shown))}"
        + " --isolate" * isolated,
        "python": f"from conformance import check\n\ncheck({_quoted(name)}, {_quoted(str(shown))}"
        + ", isolate=True" * isolated
        + ")",
        "example": _example(batch.origin) if batch.origin.startswith("Recipe(") else "",
    }


def _example(recipe: str) -> str:
    """What stands above `@given` of a test, and in a comment what the names in it are imported from."""
    names = dict.fromkeys(re.findall(r"\b[A-Z]\w+(?=\()", recipe))
    ours = ", ".join(name for name in names if name != "Hyperparameters")
    imports = ["from hypothesis import example", f"from conformance.batches import {ours}"]
    imports += ["from reference import Hyperparameters"] * ("Hyperparameters" in names)
    return f"# above @given of a test; needs: {'; '.join(imports)}\n@example(recipe={recipe})"


def _quoted(text: str) -> str:
    """Text as Python writes it, between double quotes."""
    return json.dumps(text, ensure_ascii=False)


def environment() -> dict[str, Any]:
    """What a reader must know of this machine to compare two runs."""
    return {
        "python": platform.python_version(),
        "torch": torch.__version__,
        "ultralytics": _version("ultralytics"),
        "hypothesis": _version("hypothesis"),
        "platform": platform.platform(),
        "cpu": _processor(),
        "cuda": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "threads": torch.get_num_threads(),
        "git": _commit(),
        "flags": arithmetic(),
    }


def _version(distribution: str) -> str | None:
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return None


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{names[0]} ({os.cpu_count()} cores)" if names else platform.processor()


def _commit() -> str | None:
    """Commit of this repository, with a mark where files are changed; None where the suite is installed elsewhere."""
    repository = Path(__file__).parents[1]
    if not (repository / ".git").exists():
        return None
    git = ["git", "-C", str(repository), "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(git, capture_output=True, text=True, check=True, timeout=10)  # noqa: S603 - our own words
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None


def command_line() -> list[str]:
    """How this run was started."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]
