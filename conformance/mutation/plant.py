"""Plant every fault, and report the check that finds it, the reported stage, and the number of batches needed."""

import statistics
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import Phase

from tal_conformance.checks.power import write_figures
from tal_conformance.checks.profiles import PROFILES
from tal_conformance.checks.registry import CHECKS
from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.attack import ASSIGNED, GATING, attack, faulty
from tal_conformance.mutation.planted_faults import Fault, FaultyReference
from tal_conformance.suite.run_log import RunLogWriter
from tal_reference import NEWEST
from tal_text import say

STAGES_SHOWN, OUTPUTS_ALONE, HIDDEN = "stages shown", "outputs alone", "loss alone"
MODES = (STAGES_SHOWN, OUTPUTS_ALONE, HIDDEN)
"""Modes of a faulty implementation: which parts of its result it exposes."""

INVISIBLE: dict[str, dict[str, str]] = {
    HIDDEN: {
        "truths_in_reverse": "the order of ground truths only decides between equal overlaps (T2)",
        "truths_by_width": "the order of ground truths only decides between equal overlaps (T2)",
        "empty_image_is_foreground": "positives with weight zero contribute to no term of the loss",
        "losing_truth_keeps_its_score": "the reference's loss reads only target scores of positives' own classes",
        "empty_image_scores": "the reference's loss reads only target scores of positives' own classes",
    }
}
"""Faults that have no visible effect in a mode, and are therefore equivalent there, with the reason."""
OPEN: dict[str, dict[str, str]] = {
    HIDDEN: {
        "zeros_do_not_compete": "seen only where a ground truth whose score underflows to zero wins an anchor from "
        "another by its overlap; no strategy draws that",
    }
}
"""Faults that are known to survive in a mode, with a description of a batch that would expose them."""


class Hidden:
    """A loss that exposes only its values, neither its assignment nor its inputs."""

    dialect = NEWEST

    def __init__(self, whole: Any) -> None:
        self.name, self.whole = str(whole.name), whole

    def loss(self, *arguments: Any) -> Loss:
        """Run the loss of the wrapped implementation."""
        loss: Loss = replace(self.whole.loss(*arguments), assignment=None, inputs=None)
        return loss


@dataclass(frozen=True)
class Found:
    """The result for one fault in one mode.

    Attributes:
        fault: the fault.
        mode: one of `MODES`.
        check: name of the check that found the fault; the fault's own check if none did.
        stage: the first diverging stage; None if the fault was not found.
        batches: number of batches that the check drew until it found the fault.
        seconds: time of the search.
        case: the failing batch in one line.
        profile: name of the profile whose batches the check drew.
    """

    fault: Fault
    mode: str
    check: str
    stage: str | None
    batches: int | None
    seconds: float
    case: str = ""
    profile: str = GATING

    @property
    def expected(self) -> tuple[str, ...]:
        """Acceptable stages of the report; empty if any stage is, because the assignment is not exposed."""
        if self.mode == HIDDEN and self.fault.implementation is None:
            return ()
        return (self.fault.stage,) if self.mode == STAGES_SHOWN else self.fault.outputs_stages

    @property
    def is_open(self) -> bool:
        """True if the fault is known to survive in this mode."""
        return self.fault.name in OPEN.get(self.mode, {})

    @property
    def result(self) -> str:
        """One of "killed", "survived", "equivalent", and "elsewhere" for a fault that was found at a wrong stage."""
        argued = self.fault.name in INVISIBLE.get(self.mode, {})
        if self.stage is None:
            return "equivalent" if argued else "survived"
        if argued:
            return "elsewhere"
        return "killed" if not self.expected or self.stage in self.expected else "elsewhere"


def implementation_with(fault: Fault, mode: str) -> Implementation:
    """Return the reference with a fault, as an implementation that exposes the parts of its result named by `mode`."""
    if fault.implementation is not None:
        return fault.implementation({STAGES_SHOWN: "stages", OUTPUTS_ALONE: "outputs", HIDDEN: "loss"}[mode])
    if mode == STAGES_SHOWN:
        return faulty(fault, assigner_alone=fault.stage in ASSIGNED)
    if mode == OUTPUTS_ALONE:
        return faulty(fault, exposes_stages=False)
    return implementation_from(Hidden(FaultyReference(fault, exposes_stages=False)), fault.name)


def search(faults: Sequence[Fault], modes: Sequence[str] = MODES, profile: str = GATING) -> Iterator[Found]:
    """Plant every fault in every mode, run the checks that must find it, and yield the results."""
    for fault in faults:
        for mode in modes:
            began = time.perf_counter()
            checks = checks_that_find(fault, mode)
            hits = (
                attack(implementation_with(fault, mode), check, (Phase.generate,), profile)
                for check in checks
            )
            hit = next((hit for hit in hits if hit is not None), None)
            seconds = time.perf_counter() - began
            if hit is None:
                yield Found(fault, mode, fault.check, None, None, seconds, profile=profile)
            else:
                case = hit.failure.batch.describe()
                yield Found(fault, mode, hit.check, hit.failure.stage, hit.batches, seconds, case, profile)


def checks_that_find(fault: Fault, mode: str) -> Iterable[str]:
    """Return the names of the checks of which one must find a fault in a mode."""
    if fault.implementation is not None:
        return (fault.check,)
    return dict.fromkeys((fault.check, "metric", "loss") if mode == HIDDEN else (fault.check,))


def plant(recorder: RunLogWriter, faults: Sequence[Fault], profile: str = GATING) -> list[Found]:
    """Plant faults one after the other, log and print the results, and return them."""
    found: list[Found] = []
    for result in search(faults, profile=profile):
        found.append(result)
        record(recorder, result)
        say(str(line(len(found), len(faults) * len(MODES), result)))
    return found


def missed_by_gate(found: Sequence[Found]) -> bool:
    """Return True if the gating profile did not find a fault at its stage that is not known to survive."""
    return any(
        fault.profile == GATING and fault.result in ("survived", "elsewhere") and not fault.is_open
        for fault in found
    )


def store_figures(found: Sequence[Found], profile: str) -> None:
    """Store the number of faults that a profile finds, from the results for all faults.

    A fault counts as found if its check draws that many batches in the profile.

    Raises:
        OSError: the file of the figures cannot be written.
    """
    names: dict[str, list[str]] = {"found": [], "missed": [], "equivalent": []}
    for result in found:
        name = f"{result.fault.name} ({result.mode})"
        check = CHECKS[result.check.partition("[")[0]]
        drawn = check.examples(PROFILES[profile].examples)
        if result.result == "equivalent":
            names["equivalent"].append(name)
        else:
            names["found" if result.batches is not None and result.batches <= drawn else "missed"].append(
                name
            )
    write_figures(profile, names["found"], names["missed"], names["equivalent"])


def record(recorder: RunLogWriter, found: Found) -> None:
    """Append the result of a fault to the run log."""
    argument = (INVISIBLE.get(found.mode, {}) | OPEN.get(found.mode, {})).get(found.fault.name, "")
    recorder.line(
        "power", profile=found.profile, fault=found.fault.name, clauses=list(found.fault.clauses), mode=found.mode,
        test=f"test_{found.check}", expected=list(found.expected), stage=found.stage, batches=found.batches,
        seconds=round(found.seconds, 2), result=found.result, case_in_words=found.case,
        argument=argument, limit=PROFILES[found.profile].examples,
    )  # fmt: skip


def line(number: int, total: int, found: Found) -> str:
    """Return the result of a fault as one line for the terminal."""
    where = f"at {found.stage} after {found.batches} batches" if found.stage else "not found"
    return f"{number:4}/{total} {found.result:10} {found.fault.name} ({found.mode}): {where}"


def summary(found: Sequence[Found]) -> str:
    """Return the number of faults by result, in one line."""
    batches = [result.batches for result in found if result.batches is not None]
    counts = Counter(result.result for result in found)
    median = f"; median {statistics.median(batches):g} batches" if batches else ""
    results = ("killed", "equivalent", "elsewhere", "survived")
    return ", ".join(f"{counts[result]} {result}" for result in results) + median
