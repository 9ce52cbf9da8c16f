"""The result of an identification: a dialect, the evidence for its choices, and the unexplained batches.

A dialect is the complete behaviour of an implementation, such as a release of Ultralytics. A choice is one property of
a dialect, such as CIoU instead of IoU as the overlap.
"""

from dataclasses import dataclass, field
from typing import Any

from tal_conformance.batches.recipe import Recipe
from tal_conformance.dialects.known_faults import KnownFault
from tal_conformance.dialects.observations import key_of
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.judgement.failure import Failure
from tal_reference import Dialect

TRIED = ("", "No single choice", "No choice or pair of choices", "No combination of up to three choices")
"""Beginning of the sentence about a search without a result, by the largest number of choices that it combined."""


@dataclass(frozen=True)
class DialectFit:
    """Result of judging an implementation by one official dialect.

    Attributes:
        dialect: the official dialect.
        refuting: the smallest batch on which the implementation does not conform; None if it always conforms.
        batches: number of batches judged, up to the first on which the implementation does not conform.
    """

    dialect: Dialect
    refuting: Recipe | None = None
    batches: int = 0


@dataclass(frozen=True)
class ChoiceEvidence:
    """One choice of the dialect that explains an implementation, and the evidence for the choice.

    Attributes:
        name: field of `Dialect`.
        clause: clause of the specification.
        words: the choice in a few words.
        alone: number of the `SMALLER` smallest batches that the base dialect does not explain, but would explain with
            this choice.
        smallest: the smallest batch that is explained only with the choice; None without such a batch.
    """

    name: str
    clause: str
    words: str
    alone: int
    smallest: Recipe | None


@dataclass(frozen=True)
class Tie:
    """Another dialect that explains an implementation equally well, and differs in one choice.

    Attributes:
        words: the differing choice of this other dialect in a few words.
        deciding: a batch on which the reference's results in the two dialects differ; None if no generated batch
            shows a difference.
    """

    words: str
    deciding: Recipe | None


@dataclass(frozen=True)
class Identification:
    """The dialect that explains an implementation, and the proof.

    A dialect explains a batch if the implementation conforms to it on the batch.

    Attributes:
        implementation: the implementation under test.
        base: the official dialect that differs from `dialect` in the fewest choices.
        dialect: the dialect that explains the most batches.
        batches: number of judged batches.
        left: for each violated clause the number of batches that `dialect` does not explain, and the smallest
            failure.
        choices: the choices in which `dialect` differs from `base`.
        unexplained_by_base: two numbers: how many of the smallest batches `base` does not explain, and how many
            smallest batches were judged (at most `SMALLER`).
        fits: results of judging by each official dialect.
        ties: other dialects that explain as many batches.
        complete: False if the budget of seconds was used up before the search and its proof ended.
        unjudged: number of batches that were not judged by `dialect`, because the budget was used up, or on which no
            results could be compared with those of `fault`.
        undecided: number of judged batches on which results differ from those of `fault`, and several assignments are
            admissible, so that another one may explain the results.
        fault: the planted fault that explains the implementation, which no choice does; None without such a fault.
        tried: largest number n for which all combinations of n further changed choices were tried without finding a
            better dialect.
    """

    implementation: Implementation
    base: Dialect
    dialect: Dialect
    batches: int
    left: dict[str, tuple[int, Failure]]
    choices: list[ChoiceEvidence] = field(default_factory=list)
    unexplained_by_base: tuple[int, int] = (0, 0)
    fits: list[DialectFit] = field(default_factory=list)
    ties: list[Tie] = field(default_factory=list)
    complete: bool = True
    unjudged: int = 0
    tried: int = 0
    fault: KnownFault | None = None
    undecided: int = 0

    @property
    def explained(self) -> bool:
        """True if `dialect` or `fault` explains every batch, and the search ended within its budget."""
        return self.complete and not (self.left or self.undecided or self.unjudged)

    @property
    def missing(self) -> int:
        """Number of judged batches that `dialect` does not explain."""
        return sum(count for count, _ in self.left.values())

    @property
    def as_declared(self) -> bool:
        """True if no dialect or fault explains more batches than the dialect that the implementation declares."""
        return self.fault is None and key_of(self.dialect) == key_of(self.implementation.dialect)

    @property
    def sentence(self) -> str:
        """The dialect and the number of explained batches, in one or two sentences."""
        if self.as_declared and not self.complete:
            tried = f" {TRIED[self.tried]} explains half of the failures." if self.tried else ""
            return (
                "The budget of seconds ended the search before it found what explains the difference from "
                f"{self.dialect.name}.{tried}"
            )
        if self.as_declared and self.missing:
            return (
                f"No known choice explains the difference from {self.dialect.name}: {self.missing} of {self.batches} "
                "batches are left."
            )
        *words, last = [choice.words for choice in self.choices] or [""]
        choices = f" with {', '.join(words)}{', and ' if words else ''}{last}" if last else ""
        verb = "it is most similar to" if self.missing else "it computes"
        found = f"{verb} {self.base.name}{choices}. {self._share}"
        if not self.complete and (self.missing or self.unjudged > self.batches):
            return f"The budget of seconds ended the search: so far, {found}."
        if not self.complete and not self.unjudged:
            return f"{_capitalised(found)}; the budget of seconds ended the search for other explanations."
        return f"{_capitalised(found)}."

    @property
    def _share(self) -> str:
        """The number of explained, unexplained and undecided batches, and of batches that were not judged."""
        rest = [f"{self.missing} are left"] if self.missing else []
        if self.undecided:
            verb = "differs" if self.undecided == 1 else "differ"
            rest.append(f"{self.undecided} {verb} where several assignments are admissible")
        if self.unjudged:
            verb = "was" if self.unjudged == 1 else "were"
            reason = "because no results could be compared" if self.fault else "for lack of time"
            rest.append(f"{self.unjudged} {verb} not judged {reason}")
        explained = self.batches - self.missing - self.undecided
        batches = self.batches + self.unjudged
        return f"That explains {explained} of {batches} batches; {', '.join(rest) or 'nothing is left'}"


def _capitalised(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def choice_fields(identification: Identification) -> list[dict[str, Any]]:
    """Return the choices of an identification, each with its evidence, as fields of the run log and of `--json`."""
    return [
        {
            "name": choice.name,
            "clause": choice.clause,
            "words": choice.words,
            "alone": choice.alone,
            "smallest": None if choice.smallest is None else repr(choice.smallest),
        }
        for choice in identification.choices
    ]


def tie_fields(identification: Identification) -> list[dict[str, Any]]:
    """Return the ties of an identification, as fields of the run log and of `--json`."""
    return [
        {"words": tie.words, "deciding": None if tie.deciding is None else repr(tie.deciding)}
        for tie in identification.ties
    ]
