"""The effect of a change on case files of one's own: batches that it meets, and how far the loss moves on them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tal_conformance.core.batch import Batch
from tal_conformance.dialects.choices import Choice, choices_between
from tal_conformance.dialects.comparison import exercises_choice
from tal_conformance.implementations.errors import ImplementationFailed, NotSupported
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.guards.exceptions import TRACEBACK_ELSEWHERE
from tal_conformance.implementations.protocol import Implementation


@dataclass(frozen=True)
class CaseEffect:
    """The effect of a change on one case.

    Attributes:
        path: path of the case file.
        choices: choices of the two dialects that make a difference on the batch.
        before, after: the differentiated loss of the first and the second implementation; None without a loss.
        problem: reason why an implementation has no loss on the batch; "" if both have one.
    """

    path: Path
    choices: tuple[Choice, ...]
    before: float | None
    after: float | None
    problem: str = ""

    @property
    def change(self) -> float | None:
        """Relative change of the loss; infinite from a loss of 0, and None if a loss is missing."""
        if self.before is None or self.after is None:
            return None
        moved = self.after - self.before
        return moved / abs(self.before) if self.before else float("inf") * moved if moved else 0.0


def effect_on(first: Implementation, second: Implementation, path: Path, batch: Batch) -> CaseEffect:
    """Return the effect of the change from one implementation to another on a case."""
    if batch.task != first.task:
        return CaseEffect(
            path, (), None, None, f"a batch of the task {batch.task}: compare with --task {batch.task}"
        )
    choices = choices_between(first.dialect, second.dialect, batch.task)
    met = tuple(choice for choice in choices if exercises_choice(batch, choice))
    before, problem = loss_of(first, batch)
    after, later_problem = loss_of(second, batch)
    return CaseEffect(path, met, before, after, problem or later_problem)


def loss_of(implementation: Implementation, batch: Batch) -> tuple[float | None, str]:
    """Return the differentiated loss of an implementation on a batch, or None and the reason."""
    try:
        loss = execute(implementation, batch).loss
    except ImplementationFailed as error:
        return None, f"{implementation.name} {error.what.replace(TRACEBACK_ELSEWHERE, '')}"
    except NotSupported as error:
        return None, f"{implementation.name} does not support it: {error.reason}"
    return (None, f"{implementation.name} has no loss") if loss is None else (float(loss.total), "")


def format_effects(effects: Sequence[CaseEffect], first: str, second: str) -> list[str]:
    """Return the effect of a change on cases as lines of text.

    Args:
        effects: effect on every case.
        first: name of the first implementation.
        second: name of the second implementation.
    """
    met = [effect for effect in effects if effect.choices]
    lines = [f"On your own batches: a change meets {len(met)} of {len(effects)}."]
    for choice in dict.fromkeys(choice for effect in met for choice in effect.choices):
        count = sum(choice in effect.choices for effect in met)
        lines.append(f"  {choice.clause}, {choice.name}: {count} of {len(effects)}")
    moved = sorted(
        (effect for effect in effects if effect.change), key=lambda effect: -abs(effect.change or 0)
    )
    lines.append(f"  the loss moves on {len(moved)} of {len(effects)}{':' if moved else ''}")
    for effect in moved:
        reason = (
            ", ".join(choice.clause for choice in effect.choices) or "no change of the dialect, or rounding"
        )
        lines.append(
            f"    {effect.path.name}: {effect.before:.6g} with {first}, {effect.after:.6g} with {second} "
            f"({effect.change:+.2%}; {reason})"
        )
    return lines + [f"    {effect.path.name}: {effect.problem}" for effect in effects if effect.problem]
