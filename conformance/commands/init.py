"""`tal-conformance init my_adapter.py --from my_pkg.loss:MyLoss`: write an adapter, try it, and say what is missing."""

import argparse
import ast
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.sample import sample_recipes
from tal_conformance.batches.strategies import recipes
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.commands.adapter_text import AdapterText, adapter_texts
from tal_conformance.commands.program import CommandError, prepare_judging
from tal_conformance.commands.results import failure_fields, set_result
from tal_conformance.core.files import write_atomically
from tal_conformance.core.progress import Advance, progress
from tal_conformance.core.verdicts import Verdict
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.inspection import inspected
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.non_finite import judge_any
from tal_reports import visible
from tal_text import say

BATCHES = 10
"""Number of batches that a new adapter is tried on."""


@dataclass(frozen=True)
class Trial:
    """The result of trying an adapter.

    Attributes:
        conforming: number of batches on which the adapter conforms.
        differing: the first failure of a batch on which the adapter returned a result, or None.
        failing: the first failure of a batch on which the adapter raised, or the reason why it could not be loaded.
        failing_batch: the batch of `failing` in words, or None.
        raised: number of batches on which the adapter raised.
    """

    conforming: int = 0
    differing: Failure | None = None
    failing: str | None = None
    failing_batch: str | None = None
    raised: int = 0


def run(options: argparse.Namespace) -> int:
    """Write the adapter, try it, and print what is missing.

    Returns:
        The exit status: 0 if the adapter conforms on all tried batches, 1 if it is incomplete or differs.

    Raises:
        CommandError: the file exists or cannot be written, or the object is neither an assigner nor a loss.
    """
    file: Path = options.file
    if file.suffix != ".py":
        raise CommandError(f"{file}: expected the name of a Python file, such as my_adapter.py")
    if file.exists() and not options.force:
        raise CommandError(f"{file} exists; choose another name, or replace it with --force")
    target = inspected(options.target)
    if target.adapter_methods:
        methods = " and ".join(f"`{name}`" for name in target.adapter_methods)
        say(f"{target.name} has {methods}: it is an adapter already. Test it:", _command(target.name))
        set_result(file=None, adapter=target.name, next=_command(target.name).strip())
        return 0
    try:
        texts = adapter_texts(target, options.task, file)
    except ValueError as error:
        raise CommandError(str(error)) from error
    prepare_judging()
    text, trial = _best(texts, file)
    try:
        with write_atomically(file) as part:
            part.write_text(text.source, encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {file}: {error.strerror or error}") from error
    say(*report(file, text, trial))
    set_result(
        file=file,
        adapter=f"{file}:{text.adapter}",
        missing=list(text.missing),
        batches=BATCHES,
        conforming=trial.conforming,
        raised=trial.raised,
        failing=trial.failing,
        failing_batch=trial.failing_batch,
        differing=None if trial.differing is None else failure_fields(trial.differing),
        next=_command(f"{file}:{text.adapter}").strip(),
    )
    return int(bool(text.missing) or trial.conforming < BATCHES)


def report(file: Path, text: AdapterText, trial: Trial) -> list[str]:
    """Return what was written, what the trial showed, and what to do next, as lines."""
    lines = [f"{file}: {text.adapter} written"]
    lines += [f"missing: {line}" for line in text.missing]
    if trial.failing is not None:
        batches = f" on {trial.raised} of {BATCHES} batches" if trial.raised else ""
        lines.append(f"failed{batches}: {trial.failing}")
    if trial.failing_batch is not None:
        lines.append(f"  batch {trial.failing_batch}")
    if trial.differing is not None:
        lines += [
            f"differs: {line}" if at == 0 else line
            for at, line in enumerate(str(trial.differing).splitlines())
        ]
    lines.append(f"{trial.conforming} of {BATCHES} batches conform")
    name = f"{file}:{text.adapter}"
    if text.missing or trial.failing is not None:
        lines += [
            f"next: edit {file} where it says TODO or where the failure above points, then",
            _command(name),
        ]
    else:
        lines += ["next:", _command(name)]
    return [visible(line) for line in lines]


def _command(name: str) -> str:
    return f"  pytest --pyargs tal_conformance --implementation {name}"


def _best(texts: Sequence[AdapterText], file: Path) -> tuple[AdapterText, Trial]:
    """Try the adapters; return the adapter with most conforming batches (on a tie, fewest errors), and its trial."""
    best: tuple[AdapterText, Trial] | None = None
    with progress("Trying the adapter", BATCHES * len(texts)) as advance:
        for text in texts:
            ast.parse(text.source)
            trial = _tried(text, file, advance)
            if best is None or _rank(trial) > _rank(best[1]):
                best = text, trial
            if trial.conforming == BATCHES:
                break
    assert best is not None
    return best


def _rank(trial: Trial) -> tuple[int, int]:
    return trial.conforming, -trial.raised if trial.failing is None or trial.raised else -BATCHES - 1


def _tried(text: AdapterText, file: Path, advance: Advance) -> Trial:
    """Judge an adapter in a worker process, from a temporary file beside `file`, and return the result."""
    with TemporaryDirectory(prefix=".tal-conformance-", dir=file.resolve().parent) as folder:
        draft = Path(folder) / file.name
        source = f"import sys\nsys.path.append({str(file.resolve().parent)!r})\n{text.source}"
        draft.write_text(source, encoding="utf-8")
        try:
            implementation = find(f"{draft}:{text.adapter}", isolate=True)
        except (UnknownImplementation, ProtocolViolation) as error:
            return Trial(failing=" ".join(str(error).replace(str(draft), str(file)).split()))
        try:
            return _judged(Subject(implementation, "cpu"), advance)
        finally:
            implementation.adapter.worker.close()


def _judged(subject: Subject, advance: Advance) -> Trial:
    conforming, raised, differing, error = 0, 0, None, None
    for recipe in trial_recipes():
        try:
            judge_against_reference(subject, recipe.build(), judge=judge_any)
            conforming += 1
        except Failure as failure:
            if failure.verdict is Verdict.ERROR:
                raised, error = raised + 1, error or failure
            else:
                differing = differing or failure
        advance()
    if error is None:
        return Trial(conforming, differing)
    return Trial(conforming, differing, error.summary, f"{error.batch.id}: {error.batch.describe()}", raised)


def trial_recipes() -> tuple[Recipe, ...]:
    """Return the recipes of the batches on which a new adapter is tried; every call returns the same recipes."""
    return sample_recipes(recipes(), BATCHES)[:BATCHES]
