"""Plant every fault, and report the check that finds it, the stage that it reports, and the number of batches."""

import statistics
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

from hypothesis import Phase

from tal_conformance.checks.power import add_figures, write_figures
from tal_conformance.checks.profiles import PROFILES
from tal_conformance.checks.registry import CHECKS
from tal_conformance.core.outcome import Loss
from tal_conformance.core.progress import progress
from tal_conformance.implementations.protocol import MIXED, Implementation, implementation_from
from tal_conformance.mutation.attack import ASSIGNED, GATING, FailedCheck, attack, attack_in_precision, faulty
from tal_conformance.mutation.planted_faults import Fault, FaultyReference
from tal_conformance.suite.run_log import RunLogWriter
from tal_reference import NEWEST
from tal_text import say

STAGES_SHOWN, OUTPUTS_ALONE, HIDDEN = "stages shown", "outputs alone", "loss alone"
MODES = (STAGES_SHOWN, OUTPUTS_ALONE, HIDDEN)
"""Modes of a faulty implementation, which name the visible parts of its result."""
MIXED_MODES = {
    f"{mode}, {precision}": (mode, precision) for precision in MIXED for mode in (STAGES_SHOWN, HIDDEN)
}
"""Modes under mixed precision: by name, the mode of `MODES` with the same visible parts, and a precision."""

INVISIBLE: dict[str, dict[str, str]] = {
    HIDDEN: {
        "truths_in_reverse": "the order of ground truths only decides between equal overlaps (T2)",
        "truths_by_width": "the order of ground truths only decides between equal overlaps (T2)",
        "empty_image_is_foreground": "positives with weight zero contribute to no term of the loss",
        "losing_truth_keeps_its_score": "the reference's loss reads only target scores of positives' own classes",
        "empty_image_scores": "the reference's loss reads only target scores of positives' own classes",
    }
}
"""For each mode the faults without a visible effect, which count as equivalent, with the reason."""
GRADIENT_BOUND = (
    "shows in the gradient on the distance logits alone, by less than its roundings to bfloat16 and the rounding of "
    "the hidden weights, which are read from gradients in bfloat16"
)
CLOSE_OVERLAPS = (
    "needs a contested anchor whose overlaps differ by more than the rounding of hidden boxes to bfloat16"
)
EXPONENTS = (
    "official losses have alpha and beta built in, so that only the check of assigners draws other exponents"
)
OPEN: dict[str, dict[str, str]] = {
    HIDDEN: {
        "zeros_do_not_compete": "seen only where a ground truth whose score underflows to zero wins an anchor from "
        "another by its overlap; no strategy draws that",
        "beta_as_a_whole_number": EXPONENTS,
        "alpha_in_halves": EXPONENTS,
        "only_65536_positives": "so many positives have more admissible assignments than can be tried",
    },
    f"{HIDDEN}, autocast-bfloat16": {
        "alpha_differentiated": GRADIENT_BOUND,
        "shape_penalty_without_gradient": GRADIENT_BOUND,
        "contested_by_metric": CLOSE_OVERLAPS,
        "contested_by_unmasked_overlap": CLOSE_OVERLAPS,
    },
}
"""For each mode the faults that are known to survive, with a description of what would expose them."""


class Hidden:
    """An implementation of the loss that hides its assignment and the assigner's inputs."""

    dialect = NEWEST

    def __init__(self, whole: Any) -> None:
        self.name, self.whole = str(whole.name), whole
        self.class_weights = getattr(whole, "class_weights", False)

    def loss(self, *arguments: Any) -> Loss:
        """Return the loss of the wrapped implementation, without assignment, assigner inputs and branches."""
        loss: Loss = replace(self.whole.loss(*arguments), assignment=None, inputs=None, branches=None)
        return loss


@dataclass(frozen=True)
class Found:
    """The result for one planted fault in one mode; the mode determines which parts of a loss result are visible.

    Attributes:
        fault: the planted fault.
        mode: one of `MODES` or `MIXED_MODES`.
        check: name of the check that found the fault, or else of the check that must find the fault.
        stage: the first diverging stage in the report; None if the fault was not found.
        batches: number of batches that the check generated until it found the fault.
        seconds: time until the fault was found, or until all batches conformed.
        case: description of the failing batch in one line; "" if the fault was not found.
        profile: name of the profile that sets the check's number of batches.
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
        """Stages that the report may name; empty if every stage is allowed, because the assignment is not visible."""
        mode = base_mode(self.mode)
        if mode == HIDDEN and self.fault.implementation is None:
            return ()
        return (self.fault.stage,) if mode == STAGES_SHOWN else self.fault.outputs_stages

    @property
    def is_open(self) -> bool:
        """True if the table `OPEN` says that the suite does not find the fault in `mode`."""
        return self.fault.name in reasons(OPEN, self.mode)

    @property
    def result(self) -> str:
        """The result: "killed", "survived", "equivalent", or "elsewhere" if the fault was found at a wrong stage."""
        argued = self.fault.name in reasons(INVISIBLE, self.mode)
        if self.stage is None:
            return "equivalent" if argued else "survived"
        if argued:
            return "elsewhere"
        return "killed" if not self.expected or self.stage in self.expected else "elsewhere"


def base_mode(mode: str) -> str:
    """Return the mode of `MODES` with the same visible results as a mode of `MODES` or `MIXED_MODES`."""
    return MIXED_MODES[mode][0] if mode in MIXED_MODES else mode


def reasons(table: dict[str, dict[str, str]], mode: str) -> dict[str, str]:
    """Return the reasons why faults need not be found in a mode or its base mode, by fault, from `table`."""
    return table.get(base_mode(mode), {}) | table.get(mode, {})


def implementation_with(fault: Fault, mode: str) -> Implementation:
    """Return the reference with a fault, as an implementation whose visible results are those of the mode."""
    mode = base_mode(mode)
    if fault.implementation is not None:
        return fault.implementation({STAGES_SHOWN: "stages", OUTPUTS_ALONE: "outputs", HIDDEN: "loss"}[mode])
    if mode == STAGES_SHOWN:
        return faulty(fault, assigner_alone=fault.stage in ASSIGNED)
    if mode == OUTPUTS_ALONE:
        return faulty(fault, exposes_stages=False)
    return implementation_from(Hidden(FaultyReference(fault, exposes_stages=False)), fault.name)


def attacks(fault: Fault, mode: str, profile: str) -> Iterator[FailedCheck | None]:
    """Plant a fault in a mode, run each check that must find it, and yield the failure, or None if the check passes.

    In a mode of mixed precision, the check of that precision runs on the batches that these checks generate.
    """
    hidden = base_mode(mode) == HIDDEN and fault.implementation is None
    for check in hidden_checks(fault) if hidden else (fault.check,):
        implementation = implementation_with(fault, mode)
        if mode in MIXED_MODES:
            yield attack_in_precision(implementation, check, MIXED_MODES[mode][1])
        else:
            yield attack(implementation, check, (Phase.generate,), profile)


def hidden_checks(fault: Fault) -> tuple[str, ...]:
    """Return the checks of which one must find a fault of a loss that hides its assignment.

    A fault of mixed precision may show in either dtype of autocast: both are checked in every run.
    """
    precisions = [f"precision[{name}]" for name in MIXED] if fault.check.startswith("precision[") else []
    return tuple(dict.fromkeys((fault.check, *precisions, "metric", "loss")))


def modes_of(fault: Fault, profile: str = GATING) -> tuple[str, ...]:
    """Return the modes in which a fault is planted in a profile.

    Faults in the handling of calls or in state are planted without mixed precision, and so are all faults in profiles
    other than `ci`.
    """
    return MODES if fault.implementation is not None or profile != GATING else (*MODES, *MIXED_MODES)


def search(
    faults: Sequence[Fault], modes: Sequence[str] | None = None, profile: str = GATING
) -> Iterator[Found]:
    """Plant every fault in every mode, run the checks that must find it, and yield the results."""
    for fault in faults:
        for mode in modes_of(fault, profile) if modes is None else modes:
            began = time.perf_counter()
            hit = next((hit for hit in attacks(fault, mode, profile) if hit is not None), None)
            seconds = time.perf_counter() - began
            if hit is None:
                yield Found(fault, mode, fault.check, None, None, seconds, profile=profile)
            else:
                case = hit.failure.batch.describe()
                yield Found(fault, mode, hit.check, hit.failure.stage, hit.batches, seconds, case, profile)


def plant(recorder: RunLogWriter, faults: Sequence[Fault], profile: str = GATING) -> list[Found]:
    """Plant faults one after the other, log and print the results, and return them."""
    found: list[Found] = []
    total = sum(len(modes_of(fault, profile)) for fault in faults)
    with progress("Planting faults", total) as advance:
        for result in search(faults, profile=profile):
            found.append(result)
            record(recorder, result)
            say(str(line(len(found), total, result)))
            advance()
    return found


def missed_by_gate(found: Sequence[Found]) -> bool:
    """Return True if the profile `ci` missed a fault that it should find, or found the fault at a wrong stage.

    The table `OPEN` must be exact: it is a mistake, too, if a fault was found in a mode for which `OPEN` lists it.
    """
    return any(
        fault.profile == GATING
        and (
            fault.fault.name in OPEN.get(fault.mode, {})
            if fault.result == "killed"
            else fault.result in ("survived", "elsewhere") and not fault.is_open
        )
        for fault in found
    )


def store_figures(found: Sequence[Found], profile: str, whole: bool = True) -> None:
    """Store the number of faults that a profile finds, from the results for all faults or, unless `whole`, for some.

    A fault counts as found if its check finds it within the profile's number of batches. Modes of mixed precision are
    not counted, because there the check of that precision runs on batches of other checks.

    Raises:
        OSError: the file of the figures cannot be written.
    """
    names: dict[str, list[str]] = {"found": [], "missed": [], "equivalent": []}
    for result in (result for result in found if result.mode in MODES):
        name = f"{result.fault.name} ({result.mode})"
        check = CHECKS[result.check.partition("[")[0]]
        drawn = check.examples(PROFILES[profile].examples)
        if result.result == "equivalent":
            names["equivalent"].append(name)
        else:
            is_found = result.batches is not None and result.batches <= drawn
            names["found" if is_found else "missed"].append(name)
    (write_figures if whole else add_figures)(profile, names["found"], names["missed"], names["equivalent"])


def record(recorder: RunLogWriter, found: Found) -> None:
    """Append the result of a fault to the run log."""
    argument = (reasons(INVISIBLE, found.mode) | reasons(OPEN, found.mode)).get(found.fault.name, "")
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
