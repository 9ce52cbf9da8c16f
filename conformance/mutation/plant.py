"""Every planted fault against the gating profile: which test finds it, at which stage, after how many batches."""

import statistics
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import Phase

from tal_conformance.checks.profiles import PROFILES
from tal_conformance.core.outcome import Loss
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.attack import ASSIGNED, attack, faulty
from tal_conformance.mutation.planted_faults import Fault, FaultyReference
from tal_conformance.suite.run_log import RunLogWriter
from tal_reference import NEWEST

STAGES_SHOWN, OUTPUTS_ALONE, HIDDEN = "stages shown", "outputs alone", "loss alone"
MODES = (STAGES_SHOWN, OUTPUTS_ALONE, HIDDEN)
"""What the faulty implementation shows."""

INVISIBLE: dict[str, dict[str, str]] = {
    HIDDEN: {
        "truths_in_reverse": "the order of ground truths decides nothing but which of equals wins (T2)",
        "truths_by_width": "the order of ground truths decides nothing but which of equals wins (T2)",
        "empty_image_is_foreground": "positives of weight zero add nothing to any term",
        "losing_truth_keeps_its_score": "the reference's loss reads the scores of positives' own classes alone",
        "empty_image_scores": "the reference's loss reads the scores of positives' own classes alone",
    }
}
"""By mode, faults that nothing shows: they are equivalent there, each with the argument."""
OPEN: dict[str, dict[str, str]] = {
    HIDDEN: {
        "zeros_do_not_compete": "seen only where a ground truth whose score underflows to zero wins an anchor from "
        "another by its overlap; no strategy draws that",
    }
}
"""By mode, faults that are known to survive, each with what would show it."""


class Hidden:
    """A loss of which nothing but its numbers is shown."""

    dialect = NEWEST

    def __init__(self, whole: Any) -> None:
        self.name, self.whole = str(whole.name), whole

    def loss(self, *arguments: Any) -> Loss:
        """The loss of the implementation within."""
        loss: Loss = replace(self.whole.loss(*arguments), assignment=None, inputs=None)
        return loss


@dataclass(frozen=True)
class Found:
    """What came of one fault in one mode.

    Attributes:
        fault: which one.
        mode: one of `MODES`.
        check: the test that found it, or its own.
        stage: the first stage that diverged; None if it was not found.
        batches: how many that test drew until then.
        seconds: how long that took.
        case: the batch in one line.
    """

    fault: Fault
    mode: str
    check: str
    stage: str | None
    batches: int | None
    seconds: float
    case: str = ""

    @property
    def expected(self) -> tuple[str, ...]:
        """The stages of which one must be reported; any, where nothing of the assignment is shown."""
        if self.mode == HIDDEN:
            return ()
        return (self.fault.stage,) if self.mode == STAGES_SHOWN else self.fault.outputs_stages

    @property
    def is_open(self) -> bool:
        """Known to survive."""
        return self.fault.name in OPEN.get(self.mode, {})

    @property
    def result(self) -> str:
        """One of killed, survived, equivalent, and elsewhere: found at a stage that is not its own."""
        argued = self.fault.name in INVISIBLE.get(self.mode, {})
        if self.stage is None:
            return "equivalent" if argued else "survived"
        if argued:
            return "elsewhere"
        return "killed" if not self.expected or self.stage in self.expected else "elsewhere"


def implementation_with(fault: Fault, mode: str) -> Implementation:
    """The reference with the fault, showing as much as the mode says."""
    if mode == STAGES_SHOWN:
        return faulty(fault, assigner_alone=fault.stage in ASSIGNED)
    if mode == OUTPUTS_ALONE:
        return faulty(fault, exposes_stages=False)
    return implementation_from(Hidden(FaultyReference(fault, exposes_stages=False)), fault.name)


def search(faults: Sequence[Fault], modes: Sequence[str] = MODES) -> Iterator[Found]:
    """Plant every fault in every mode, one after the other; the suite's own tests look for it."""
    for fault in faults:
        for mode in modes:
            began = time.perf_counter()
            checks = (fault.check,) if mode != HIDDEN else dict.fromkeys((fault.check, "metric", "loss"))
            tried = (attack(implementation_with(fault, mode), check, (Phase.generate,)) for check in checks)
            hit = next((hit for hit in tried if hit is not None), None)
            seconds = time.perf_counter() - began
            if hit is None:
                yield Found(fault, mode, fault.check, None, None, seconds)
            else:
                yield Found(
                    fault,
                    mode,
                    hit.check,
                    hit.failure.stage,
                    hit.batches,
                    seconds,
                    hit.failure.batch.describe(),
                )


def plant(recorder: RunLogWriter, faults: Sequence[Fault]) -> tuple[bool, str]:
    """Search for these faults, and write down what was found.

    Returns:
        Whether one was not found, or not at its own stage, though it is neither argued to be equivalent nor known to
        survive; and how many were found, in one line.
    """
    found: list[Found] = []
    for result in search(faults):
        found.append(result)
        record(recorder, result)
        print(line(len(found), len(faults) * len(MODES), result), flush=True)
    failed = any(one.result in ("survived", "elsewhere") and not one.is_open for one in found)
    return failed, f"planted faults: {summary(found)}"


def record(recorder: RunLogWriter, found: Found) -> None:
    """One line of the log."""
    argument = (INVISIBLE.get(found.mode, {}) | OPEN.get(found.mode, {})).get(found.fault.name, "")
    recorder.line(
        "power", profile="ci", fault=found.fault.name, clauses=list(found.fault.clauses), mode=found.mode,
        test=f"test_{found.check}", expected=list(found.expected), stage=found.stage, batches=found.batches,
        seconds=round(found.seconds, 2), result=found.result, case_in_words=found.case,
        argument=argument, limit=PROFILES["ci"].examples,
    )  # fmt: skip


def line(number: int, total: int, found: Found) -> str:
    """One line of the terminal."""
    where = f"at {found.stage} after {found.batches} batches" if found.stage else "not found"
    return f"{number:4}/{total} {found.result:10} {found.fault.name} ({found.mode}): {where}"


def summary(found: Sequence[Found]) -> str:
    """How many were found, in one line."""
    batches = [one.batches for one in found if one.batches is not None]
    counts = {result: sum(one.result == result for one in found) for result in
              ("killed", "equivalent", "elsewhere", "survived")}  # fmt: skip
    median = f"; median {statistics.median(batches):g} batches" if batches else ""
    return ", ".join(f"{count} {result}" for result, count in counts.items()) + median
