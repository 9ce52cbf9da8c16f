"""`tal-conformance init my_adapter.py --from my_pkg.loss:MyLoss`: write an adapter, try it, and say what is missing."""

import argparse
import ast
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.trial_recipes import NUMBER as BATCHES
from tal_conformance.batches.strategies.trial_recipes import trial_recipes
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.commands.adapter_text import AdapterText, adapter_texts
from tal_conformance.commands.program import CommandError, prepare_judging
from tal_conformance.commands.results import failure_fields, set_result
from tal_conformance.core.files import write_atomically
from tal_conformance.core.progress import Advance, progress
from tal_conformance.core.task import DETECT
from tal_conformance.core.verdicts import Verdict
from tal_conformance.dialects.identification import simple_cause
from tal_conformance.dialects.observations import Observations
from tal_conformance.implementations.errors import ProtocolViolation, UnknownImplementation
from tal_conformance.implementations.inspection import inspected
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.failure import Failure, Subject
from tal_conformance.judgement.non_finite import judge_any
from tal_reference import Dialect
from tal_reference.choices import differences, nearest_official, phrase, spelling
from tal_reports import visible
from tal_text import say

SEARCH_SECONDS = 20.0
"""Budget of processor time of the search for the cause of a difference."""
LONGEST_RECIPE = 300
"""Length of the longest batch that is printed as a line of Python."""


@dataclass(frozen=True)
class Trial:
    """The result of trying an adapter.

    Attributes:
        differing: the first failure of a batch on which the adapter returned a result, or None.
        failing: the first failure of a batch on which the adapter raised, or the reason why it could not be loaded.
        failing_batch: the batch of `failing` in words, or None.
        raised: number of batches on which the adapter raised.
        passed: recipes of the batches on which the adapter conforms.
        differed: recipes of the batches on which the adapter differed.
        cause: what the adapter computes instead, and how that is declared, as lines; "" if it is not known.
    """

    differing: Failure | None = None
    failing: str | None = None
    failing_batch: str | None = None
    raised: int = 0
    passed: tuple[Recipe, ...] = ()
    differed: tuple[Recipe, ...] = ()
    cause: str = ""

    @property
    def conforming(self) -> int:
        """Number of batches on which the adapter conforms."""
        return len(self.passed)


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
    text, trial = _best(texts, file, options.task)
    trial = replace(trial, cause=_cause(text, file, options.task, trial))
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
        cause=trial.cause or None,
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
        lines += _difference(trial.differing)
    if trial.cause:
        lines += f"cause: {trial.cause}".splitlines()
    lines.append(f"{trial.conforming} of {BATCHES} batches conform")
    name = f"{file}:{text.adapter}"
    if text.missing or trial.failing is not None:
        some = 0 < trial.raised < BATCHES
        limits = ", or declare in `supports` what your code does not do" if some else ""
        lines += [
            f"next: edit {file} where it says TODO or where the failure above points{limits}, then",
            _command(name),
        ]
    elif shared := _shared_settings(trial):
        lines += [
            f"differs only with {shared}: mend it, or declare in `supports` that your code is not meant for it, then",
            _command(name),
        ]
    elif trial.differing is not None and not trial.cause:
        lines += ["next: look for the cause for longer, with", f"  tal-conformance identify {name}"]
    else:
        lines += ["next:", _command(name)]
    return [visible(line) for line in lines]


def _difference(failure: Failure) -> list[str]:
    """Return a failure as lines; the line of Python that repeats its batch is left out where it is long."""
    first, *rest = str(failure).splitlines()
    return [f"differs: {first}", *(line for line in rest if len(line) <= LONGEST_RECIPE)]


def _shared_settings(trial: Trial) -> str:
    """Return the settings that the differing batches share and no conforming batch has, as words; "" without any."""
    if trial.cause or not trial.differed or not trial.passed:
        return ""
    differed = [_settings(recipe) for recipe in trial.differed]
    passed = [_settings(recipe) for recipe in trial.passed]
    shared = []
    for name, value in differed[0].items():
        others = {settings[name] for settings in passed}
        if value not in others and all(settings[name] == value for settings in differed):
            shared.append(
                f"{name} {value} (the other batches have {', '.join(map(str, sorted(others, key=str)))})"
            )
    return " and ".join(shared)


def _settings(recipe: Recipe) -> dict[str, object]:
    """Return the numbers of a batch's head and its k, by name."""
    numbers = recipe.hyperparameters
    return {
        "reg_max": recipe.reg_max,
        "classes": recipe.classes,
        "strides": recipe.strides,
        "topk": numbers.topk,
        "topk2": numbers.topk2,
    }


def _command(name: str) -> str:
    return f"  pytest --pyargs tal_conformance --implementation {name}"


def _best(texts: Sequence[AdapterText], file: Path, task: str) -> tuple[AdapterText, Trial]:
    """Try the adapters; return the adapter with most conforming batches (on a tie, fewest errors), and its trial."""
    best: tuple[AdapterText, Trial] | None = None
    with progress("Trying the adapter", BATCHES * len(texts)) as advance:
        for text in texts:
            ast.parse(text.source)
            trial = _tried(text, file, task, advance)
            if best is None or _rank(trial) > _rank(best[1]):
                best = text, trial
            if trial.conforming == BATCHES:
                break
    assert best is not None
    return best


def _rank(trial: Trial) -> tuple[int, int]:
    return trial.conforming, -trial.raised if trial.failing is None or trial.raised else -BATCHES - 1


@contextmanager
def _loaded(text: AdapterText, file: Path) -> Iterator[Implementation]:
    """Load an adapter in a worker process, from a temporary file beside `file`.

    Raises:
        UnknownImplementation, ProtocolViolation: the adapter cannot be loaded.
    """
    with TemporaryDirectory(prefix=".tal-conformance-", dir=file.resolve().parent) as folder:
        draft = Path(folder) / file.name
        source = f"import sys\nsys.path.append({str(file.resolve().parent)!r})\n{text.source}"
        draft.write_text(source, encoding="utf-8")
        try:
            implementation = find(f"{draft}:{text.adapter}", isolate=True)
        except (UnknownImplementation, ProtocolViolation) as error:
            raise type(error)(" ".join(str(error).replace(str(draft), str(file)).split())) from error
        try:
            yield implementation
        finally:
            implementation.adapter.worker.close()


def _tried(text: AdapterText, file: Path, task: str, advance: Advance) -> Trial:
    """Judge an adapter on the batches of the trial, and return the result without its cause."""
    try:
        with _loaded(text, file) as implementation:
            return _judged(Subject(implementation, "cpu"), advance, task)
    except (UnknownImplementation, ProtocolViolation) as error:
        return Trial(failing=str(error))


def _judged(subject: Subject, advance: Advance, task: str) -> Trial:
    """Judge an adapter on the batches of the trial, and return the result without its cause."""
    trial = Trial()
    for recipe in trial_recipes(task):
        try:
            judge_against_reference(subject, recipe.build(), judge=judge_any)
            trial = replace(trial, passed=(*trial.passed, recipe))
        except Failure as failure:
            trial = _with_failure(trial, failure, recipe)
        advance()
    return trial


def _with_failure(trial: Trial, failure: Failure, recipe: Recipe) -> Trial:
    if failure.verdict is not Verdict.ERROR:
        differed = (*trial.differed, recipe)
        return replace(trial, differing=trial.differing or failure, differed=differed)
    if trial.failing is not None:
        return replace(trial, raised=trial.raised + 1)
    batch = f"{failure.batch.id}: {failure.batch.describe()}"
    return replace(trial, failing=failure.summary, failing_batch=batch, raised=1)


def _cause(text: AdapterText, file: Path, task: str, trial: Trial) -> str:
    """Return what an adapter that differs computes instead, as lines; "" if no simple cause explains it."""
    if trial.differing is None or task != DETECT.name:
        return ""
    title = f"Looking for the cause (at most {SEARCH_SECONDS:g} s of processor time)"
    with progress(title), _loaded(text, file) as implementation:
        observations = Observations(implementation)
        for differed, passed, which in _groups(trial):
            found = simple_cause(observations, differed, passed, SEARCH_SECONDS)
            if found is not None:
                return _cause_lines(found, f"{len(differed) + len(passed)} batches{which}")
    return ""


def _groups(trial: Trial) -> Iterator[tuple[Sequence[Recipe], Sequence[Recipe], str]]:
    """Yield groups of batches that one cause may explain: differing batches, conforming batches, and their name.

    The batches with the usual number of bins are a group of their own: code that is not meant for other numbers differs
    with them for another reason, which would hide the cause.
    """
    yield trial.differed, trial.passed, ""
    usual = Recipe().reg_max
    differed = [recipe for recipe in trial.differed if recipe.reg_max == usual]
    if 0 < len(differed) < len(trial.differed):
        passed = [recipe for recipe in trial.passed if recipe.reg_max == usual]
        yield differed, passed, f" with reg_max {usual}; with others it differs in another way"


def _cause_lines(found: Dialect, batches: str) -> str:
    """Return what an adapter computes instead on the named batches, and how that is declared, as lines."""
    base = nearest_official(found)
    words = " and ".join(phrase(name, value) for name, value in differences(found, base).items())
    return (
        f"It computes {base.name}{f' with {words}' if words else ''}, on all of {batches}.\n"
        f'  if this is intended, declare it in the adapter: dialect = "{spelling(found)}"'
    )
