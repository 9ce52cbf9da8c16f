"""Requirements on an implementation on every device: the clauses DEVICE-1 to DEVICE-3.

- DEVICE-1: on a CUDA device the implementation allocates all tensors there, and moves no tensor to the CPU and back. On
  machines without a CUDA device it runs on the simulated device, and must return the values of a run on the CPU.
- DEVICE-2: the results on a device and on the CPU agree, within the rounding of two correct runs.
- DEVICE-3: the same batch gives the same bits every time.
"""

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from tal_conformance.checks.devices.events import Watch
from tal_conformance.checks.devices.simulate import SimulatedRun, simulate
from tal_conformance.checks.relations.compare_images import Comparison
from tal_conformance.checks.relations.compare_runs import compare
from tal_conformance.checks.relations.runs import NotApplicable, Run
from tal_conformance.checks.relations.transformations import FollowUp, Pair, TransformationPlan
from tal_conformance.checks.relations.views import unchanged
from tal_conformance.core.batch import Batch
from tal_conformance.core.branches import has_branches
from tal_conformance.core.outcome import STAGE_OF_FIELD, Outcome
from tal_conformance.core.outcome_tensors import BRANCHES, equal_bits, map_tensors, named_tensors
from tal_conformance.core.task import DETECT, TASKS, StageName, Task, stage_name
from tal_conformance.core.verdicts import Divergence, Judgement, Value, Verdict
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.on_device import at_home
from tal_conformance.judgement.comparators import place_name
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.failure import Failure, Subject, failure_from
from tal_conformance.judgement.non_finite import judge_any
from tal_reference import Dialect

MEANINGS = {
    "DEVICE-1": "on a CUDA device all tensors are allocated there, and none is moved away and back",
    "DEVICE-2": "results on a CUDA device and on the CPU agree",
    "DEVICE-3": "the same batch gives the same bits every time",
}
"""Text of each clause."""
REPETITIONS = 3
"""Number of runs of the same batch (DEVICE-3)."""


def allocates_on_device(subject: Subject, batch: Batch, watch: Watch | None = None) -> Judgement:
    """Judge DEVICE-1 on the simulated device, for the loss (forward and backward) and for the assigner alone.

    Args:
        subject: the implementation.
        batch: any batch on the CPU.
        watch: receives the synchronisations and transfers of the implementation.

    Returns:
        The judgement, not a failure: EXACT if all results are bitwise those of the run on the CPU.

    Raises:
        Failure: an operation used the wrong device, or a result differs from the run on the CPU.
    """
    judgement = Judgement(batch.family)
    for face in subject.implementation.variants:
        expected, run = _observed(Subject(face, "cpu"), batch), simulate(face, batch, judged=False)
        if run.outcome is None or run.watch.violations:
            raise _wrong_device(subject, batch, run)
        if watch is not None and face is subject.implementation:
            watch.add(run.watch)
        if first_difference([expected, run.outcome], batch.family) is None:
            continue
        how = "on a simulated CUDA device"
        judgement = judged_against(expected, run.outcome, batch, face.dialect, "DEVICE-1", how)
        if judgement.verdict.fails:
            raise _failure(subject, batch, judgement, run.outcome)
    return judgement


def _failure(subject: Subject, batch: Batch, judgement: Judgement, outcome: Outcome) -> Failure:
    failure = failure_from(subject, batch, Divergence(judgement))
    failure.outcome = outcome
    return failure


def _observed(subject: Subject, batch: Batch) -> Outcome:
    """Run an implementation on the subject's device, and return its outcome, moved to the CPU.

    Raises:
        Failure: the implementation raised, or violated the protocol.
    """
    try:
        return map_tensors(execute(subject.implementation, batch.to(subject.batch_device)), _to_cpu)
    except ImplementationFailed as error:
        raise failure_from(subject, batch, error) from error


def _to_cpu(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu()


def _wrong_device(subject: Subject, batch: Batch, run: SimulatedRun) -> Failure:
    failed = [run.failure.what] if run.failure else []
    problems = [str(violation) for violation in run.watch.violations] + failed
    details = "\n".join(dict.fromkeys([*problems, *([run.failure.details or ""] if run.failure else [])]))
    summary = f"on a simulated CUDA device, {problems[0]}"
    return Failure(subject, batch, Verdict.ERROR, "", "DEVICE-1", summary, details=details)


def judged_against(
    expected: Outcome, observed: Outcome, batch: Batch, dialect: Dialect, clause: str, how: str
) -> Judgement:
    """Compare two outcomes of one batch stage by stage, and return the judgement.

    Choices that the specification leaves open may differ; the values in `expected` determine which choices are open.
    Values that depend on a different choice are not compared, and the judgement has `chose_differently` set. If nothing
    tells the N of losses that hide their assignment, the second outcome is judged against the dialect. So is the second
    outcome of an end-to-end loss.

    Args:
        expected: outcome of the implementation on the CPU.
        observed: outcome of the implementation on another device, moved to the CPU.
        batch: the batch, on the CPU.
        dialect: dialect of the implementation.
        clause: clause to report if the outcomes differ.
        how: description of the second run, which begins a sentence such as "`how`, the overlap is ...".
    """
    again, known = replace(batch), Expectation(batch, dialect)
    if has_branches(batch):
        return _judged_by_dialect(observed, known)
    runs = {id(batch): Run(expected, known), id(again): Run(observed, known)}
    pairs = tuple(Pair(0, image, image, unchanged(batch, image)) for image in range(batch.images))
    judgement = Judgement(batch.family)
    plan = TransformationPlan(how, (batch,), (FollowUp(again, pairs),))
    try:
        compare(plan, lambda which: runs[id(which)], Comparison(judgement, clause, how))
    except NotApplicable:  # nothing tells the N of either loss: the dialect prescribes it
        return _judged_by_dialect(observed, known)
    return judgement


def _judged_by_dialect(observed: Outcome, known: Expectation) -> Judgement:
    try:
        return judge_any(observed, known)
    except Divergence as divergence:
        return divergence.judgement


def same_as_cpu(subject: Subject, batch: Batch) -> Judgement:
    """Judge DEVICE-2: compare the outcomes of an implementation on a real device and on the CPU.

    Args:
        subject: the implementation, and the device.
        batch: any batch.

    Returns:
        The judgement, not a failure: ADMISSIBLE if the device resolved an open choice differently.

    Raises:
        Failure: the outcomes differ by more than rounding and open choices.
    """
    batch = batch.to("cpu")
    expected = _observed(Subject(at_home(subject.implementation), "cpu"), batch)
    observed = _observed(subject, batch)
    how = f"on {subject.device} and not on the CPU"
    judgement = judged_against(expected, observed, batch, subject.implementation.dialect, "DEVICE-2", how)
    if judgement.verdict.fails:
        raise _failure(subject, batch, judgement, observed)
    return judgement


def repeatable(subject: Subject, batch: Batch) -> Judgement:
    """Judge DEVICE-3: run an implementation `REPETITIONS` times on a batch and compare the outcomes bitwise.

    Args:
        subject: the implementation, and the device.
        batch: any batch.

    Returns:
        A judgement whose verdict is EXACT.

    Raises:
        Failure: a later run returned different bits; the verdict is NONDETERMINISTIC.
    """
    outcomes = [_observed(subject, batch) for _ in range(REPETITIONS)]
    found = first_difference(outcomes, batch.family)
    if found is None:
        return Judgement(batch.family)
    stage, summary, value = found
    kind, text = Verdict.NONDETERMINISTIC, f"on a repeated run, {summary}"
    raise Failure(subject, batch, kind, stage, "DEVICE-3", text, [value], outcome=outcomes[0])


def first_difference(outcomes: Sequence[Outcome], task: Task = DETECT) -> tuple[str, str, Value] | None:
    """Return the first bitwise difference between outcomes of one batch, or None.

    Undefined values are not compared: labels, boxes and indices of background anchors.

    Returns:
        The stage, a sentence that describes the difference, and the first differing value.
    """
    first, *others = [meaningful(outcome) for outcome in outcomes]
    order = list(task.clauses)
    different = [
        (order.index(stage_of(name, tensor, other.get(name), task)), name, tensor, other.get(name))
        for other in others
        for name, tensor in first.items()
        if name not in other or not equal_bits(tensor, other[name])
    ]
    if any(set(other) != set(first) for other in others):
        return (
            "",
            "the runs returned different sets of tensors",
            Value("the whole batch", "number of returned tensors", str(len(first)), "other tensors", "none"),
        )
    if not different:
        return None
    at, name, before, now = min(different, key=lambda found: found[0])
    assert now is not None
    value = first_place(name, before, now)
    text = f"{name} is {value.implementation} at {value.where}, and was {value.reference} in the first run"
    return order[at], text, value


def meaningful(outcome: Outcome) -> dict[str, Tensor]:
    """Return the tensors of an outcome by name, without the undefined values of background anchors."""
    named = named_tensors(replace(outcome, branches={}))
    foreground = named.get("assignment.foreground")
    for name in ("assignment.labels", "assignment.truth_index", "assignment.boxes"):
        if foreground is not None:
            named[name] = named[name][foreground]
    for branch, part in outcome.branches.items():
        named |= {f"{BRANCHES}.{branch}.{name}": tensor for name, tensor in meaningful(part).items()}
    return named


STAGE_OF = {
    **{f"stages.{field}": stage for field, stage in STAGE_OF_FIELD.items()},
    "assignment.scores": StageName.NORMALISATION,
    "loss.total": StageName.TOTAL,
}
"""Stage of each tensor of an outcome that belongs to a single stage, by the tensor's name."""


def stage_of(name: str, first: Tensor, second: Tensor | None, task: Task = DETECT) -> str:
    """Return the stage of an outcome's tensor `name`; for the loss items, the stage of the first item that differs.

    All items of an end-to-end loss have one stage. Stages of a branch have full names, such as "one2one/top-k".
    """
    if name.startswith(f"{BRANCHES}."):
        _, branch, own = name.split(".", 2)
        return stage_name(stage_of(own, first, second, TASKS[task.branch_task]), branch)
    if name == "loss.items" and task.branch_task:
        return StageName.ITEMS
    if name == "loss.items":
        equal = torch.ones_like(first, dtype=torch.bool) if second is None else first == second
        stages = list(task.item_of)
        return next((stage for stage in stages if not equal[task.item_of[stage]]), stages[0])
    by_part = {
        "inputs": stage_name(StageName.DECODE, task.branches[0]),
        "assignment": StageName.TARGETS,
        "loss": StageName.GRADIENTS,
    }
    return STAGE_OF.get(name) or by_part[name.partition(".")[0]]


def first_place(name: str, before: Tensor, now: Tensor) -> Value:
    """Return the first element that differs bitwise between two tensors, with its place and both values."""
    if before.shape != now.shape or before.dtype != now.dtype:
        was, became = (f"{tuple(tensor.shape)} {tensor.dtype}" for tensor in (before, now))
        return Value("the whole batch", name, was, became, "none")
    differs = (before != now) & ~(before.isnan() & now.isnan())
    places = differs.nonzero() if differs.any() else torch.zeros(1, before.dim(), dtype=torch.long)
    at = tuple(places[0].tolist())
    return Value(place_name(places[0], (), None), name, str(before[at].item()), str(now[at].item()), "0")
