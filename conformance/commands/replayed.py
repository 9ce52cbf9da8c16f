"""Results of `tal-conformance replay`: one judged outcome in one line, in many lines, and as fields."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch

from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import has_branches
from tal_conformance.core.outcome import Outcome
from tal_conformance.core.reference_inputs import reference_loss
from tal_conformance.core.verdicts import Judgement, State, Value, Verdict
from tal_conformance.implementations.guards.exceptions import TRACEBACK_ELSEWHERE
from tal_reference import Dialect

MAX_VALUES = 6
"""Maximum number of differing values that are printed for the first divergence."""
TRACEBACK_LINES = 12
"""Maximum number of lines of a traceback that are printed: its end, where the exception was raised."""


@dataclass(frozen=True)
class Numbers:
    """Loss items and numbers of positives of an outcome and of the reference.

    Attributes:
        items: name of each loss item, with the implementation's value, or None if it is unknown, and the reference's.
        positives: number of positives of the implementation, or None if it is unknown, and of the reference.
    """

    items: dict[str, tuple[float | None, float]]
    positives: tuple[int | None, int]

    def __str__(self) -> str:
        """Return the numbers in words, such as "box 1.2 (reference 1.2), ..., positives 14 (reference 14)"."""
        parts = [f"{name} {_against(*values)}" for name, values in self.items.items()]
        observed, expected = self.positives
        return ", ".join([*parts, f"positives {_against(observed, expected)}"])


def _against(observed: float | None, expected: float) -> str:
    return f"{'not shown' if observed is None else f'{observed:.6g}'} (reference {expected:.6g})"


@torch.no_grad()
def numbers_of(batch: Batch, dialect: Dialect, outcome: Outcome) -> Numbers | None:
    """Return losses and numbers of positives of an outcome and of the reference.

    Returns:
        The numbers; None for end-to-end heads, and for batches on which the reference raises.
    """
    if has_branches(batch):
        return None
    try:
        reference = reference_loss(batch, dialect)
    except ValueError:
        return None
    expected = reference.items.tolist()
    shown = outcome.loss is not None and outcome.loss.shows_items
    observed = outcome.loss.items.tolist() if outcome.loss is not None and shown else [None] * len(expected)
    own = None if outcome.assignment is None else int(outcome.assignment.foreground.sum())
    positives = own, sum(int(image.foreground.sum()) for image in reference.targets)
    names = batch.family.item_names
    return Numbers(dict(zip(names, zip(observed, expected, strict=True), strict=True)), positives)


@dataclass(frozen=True)
class Replayed:
    """Result of judging one outcome (the results or exception of an implementation on a case) again.

    Attributes:
        who: name, version, device and dialect of the implementation, as the beginning of a sentence.
        verdict: verdict of the judgement.
        summary: one sentence about the first divergence; "" without a divergence.
        judgement: judgement of every stage; None if nothing could be judged.
        values: differing values of the first divergence.
        picture: data from which a picture is drawn; None if a prediction is not finite or nothing was judged.
        traceback: traceback of the implementation's exception; "" if it did not raise.
        numbers: losses and numbers of positives; None if nothing was computed, or of end-to-end heads.
    """

    who: str
    verdict: Verdict
    summary: str = ""
    judgement: Judgement | None = None
    values: Sequence[Value] = ()
    picture: dict[str, Any] | None = None
    traceback: str = ""
    numbers: "Numbers | None" = None


def word(verdict: Verdict) -> str:
    """Return the name of a verdict in words."""
    return verdict.value.replace("_", " ")


def format_replay(replayed: Replayed, details: bool = True) -> list[str]:
    """Return the lines of text about one result.

    Args:
        replayed: the result.
        details: add the stages and, of a result that conforms, the notes.
    """
    judgement = replayed.judgement
    unique = (
        f" ({judgement.uniqueness.value.replace('_', ' ')})"
        if judgement and not (judgement.rejected or judgement.unsupported)
        else ""
    )
    lines = [f"{replayed.who}: {word(replayed.verdict).upper()}{unique}"]
    if replayed.numbers is not None:
        lines[0] += f": {replayed.numbers}"
    if replayed.summary:
        lines.append(f"  {replayed.summary}")
    lines += [f"    {line}" for line in replayed.traceback.splitlines()[-TRACEBACK_LINES:]]
    for value in replayed.values[:MAX_VALUES]:
        bound = "" if value.bound in ("", "0", "none") else f" within {value.bound}"
        lines.append(
            f"    {value.where}: {value.quantity} is {value.implementation}, expected {value.reference}{bound}"
        )
    for stage in judgement.stages.values() if judgement and details else ():
        has_margin = stage.margin is not None and stage.state is State.AGREES
        margin = f", largest error {stage.margin:.3g} of its bound" if has_margin else ""
        if stage.state is not State.NOT_SHOWN:
            lines.append(f"  {stage.stage:14}{stage.state.value}{margin}")
    notes = judgement.notes if judgement else []
    if judgement and judgement.unsupported:
        notes = [f"raises, as declared: {judgement.unsupported}", *notes]
    return lines + [f"  {note.replace(TRACEBACK_ELSEWHERE, '')}" for note in notes]


def outcome_fields(replayed: Replayed) -> dict[str, Any]:
    """Return the machine-readable result of one judged outcome."""
    judgement = replayed.judgement
    return {
        "implementation": replayed.who,
        "verdict": replayed.verdict.value,
        "items": None if replayed.numbers is None else replayed.numbers.items,
        "positives": None if replayed.numbers is None else replayed.numbers.positives,
        "summary": replayed.summary or None,
        "stages": {
            stage.stage: {"state": stage.state.value, "margin": stage.margin}
            for stage in (judgement.stages.values() if judgement else ())
        },
        "values": [asdict(value) for value in replayed.values],
        "notes": list(judgement.notes) if judgement else [],
        "traceback": replayed.traceback or None,
    }


def printable(text: str) -> str:
    """Return a text with control characters replaced, because the content of files could control the terminal."""
    return "".join(character if character.isprintable() else "�" for character in text)
