"""`tal-conformance measure`: measure the rounding errors of correct implementations, to derive their bounds.

The error bound of a quantity is a number of rounding units, `bounds.UNITS`, plus a multiple of the naive error: the
error of the reference when it computes in the dtype of the implementation.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import asdict, dataclass

import torch
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.commands.arguments import CORRECT_IMPLEMENTATIONS
from tal_conformance.commands.program import prepare_judging
from tal_conformance.commands.results import implementation_fields, set_result
from tal_conformance.core.progress import Advance, no_progress, progress
from tal_conformance.core.verdicts import Divergence
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation
from tal_conformance.implementations.registry import find
from tal_conformance.judgement.comparators import observer
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_conformance.judgement.rounding.bounds import NAIVE_FACTOR, ROUNDINGS, SAFETY, UNITS, smallest
from tal_text import say


def run(options: argparse.Namespace) -> int:
    """Print the measured rounding errors of each compared quantity in rounding units, from which `bounds.UNITS` is set.

    Raises:
        UnknownImplementation, ProtocolViolation: an implementation could not be loaded.
    """
    prepare_judging()
    implementations = [find(name) for name in options.implementation or CORRECT_IMPLEMENTATIONS]
    with progress("Measuring", len(STRATEGIES)) as advance:
        measured = measure(implementations, options.examples, advance)
    say(table(measured))
    set_result(
        implementations=[implementation_fields(implementation) for implementation in implementations],
        examples=options.examples,
        quantities={
            quantity: {**asdict(needed), "units": needed.units} for quantity, needed in measured.items()
        },
    )
    return 0


@dataclass(frozen=True)
class Needed:
    """Number of rounding units that cover the measured errors of one quantity, such as the overlap.

    Attributes:
        numbers: number of compared values.
        p999: 99.9th percentile of the units by which an error exceeded `NAIVE_FACTOR` times the naive error.
        largest: maximum of these units.
        whole: largest error in units, without subtracting the naive error.
        looseness: 1 / p, where p is the 99.9th percentile of the errors divided by their present bounds.
    """

    numbers: int
    p999: float
    largest: float
    whole: float
    looseness: float

    @property
    def units(self) -> float:
        """Recommended value for `UNITS`; it suffices even if the naive error is zero by chance."""
        return max(SAFETY * self.largest, self.whole)


def measure(
    implementations: Iterable[Implementation],
    examples: int,
    advance: Advance = no_progress,
) -> dict[str, Needed]:
    """Judge `examples` batches of every strategy, and return the rounding units needed by each quantity.

    Args:
        implementations: the implementations whose errors are measured; they should conform.
        examples: number of batches of each strategy.
        advance: progress display, called once for each strategy.
    """
    needed: dict[str, list[Tensor]] = defaultdict(list)
    whole: dict[str, list[Tensor]] = defaultdict(list)
    shares: dict[str, list[Tensor]] = defaultdict(list)

    def watch(
        quantity: str,
        observed: Tensor,
        expected: Tensor,
        bound: Tensor,
        same_dtype: Tensor | None,
        besides: Tensor | None,
    ) -> None:
        if same_dtype is None or not observed.numel():
            return
        quantity = re.sub(r"gradient of \w+ on", "gradient on", quantity)
        error = (observed.double() - expected).abs()
        if besides is not None:
            error = (error - besides).clamp(min=0)
        error = error.flatten()
        own = NAIVE_FACTOR * (same_dtype.double() - expected).abs().flatten() + smallest(same_dtype.dtype)
        unit = (bound.flatten() - own) / UNITS.get(quantity, ROUNDINGS)
        counts = (unit > 0) & torch.isfinite(error)
        needed[quantity].append(((error - own).clamp(min=0) / unit)[counts])
        whole[quantity].append(((error - smallest(same_dtype.dtype)).clamp(min=0) / unit)[counts])
        shares[quantity].append((error / bound.flatten())[counts])

    token = observer.set(watch)
    try:
        for name, strategy in STRATEGIES.items():
            _judge_all(list(implementations), strategy, examples, advance)
            advance(name)
    finally:
        observer.reset(token)
    return {
        quantity: _summary(*(torch.cat(kept[quantity]) for kept in (needed, whole, shares)))
        for quantity in needed
    }


def _judge_all(
    implementations: list[Implementation],
    strategy: SearchStrategy[Recipe],
    examples: int,
    advance: Advance,
) -> None:
    """Judge the batches of one strategy, without batches that must be rejected or on which a call fails."""
    failed: dict[str, list[str]] = defaultdict(list)

    @settings(
        max_examples=examples,
        derandomize=True,
        database=None,
        deadline=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(recipe=strategy)
    def judged(recipe: Recipe) -> None:
        batch = recipe.build()
        for implementation in implementations:
            expected = Expectation(batch, implementation.dialect)
            if expected.rejection is not None:
                continue
            try:
                judge(execute(implementation, batch, inputs=expected.inputs), expected)
            except Divergence:
                continue
            except ImplementationFailed as error:
                failed[implementation.name].append(error.what)

    judged()
    for name, messages in failed.items():
        advance(f"{name} failed on {len(messages)} batches, which are not measured: {messages[0]}", steps=0)


def _summary(needed: Tensor, whole: Tensor, shares: Tensor) -> Needed:
    ordered, share = needed.sort().values, shares.sort().values
    if not len(ordered):
        return Needed(0, 0.0, 0.0, 0.0, 0.0)

    def rank(values: Tensor, quantile: float) -> float:
        return float(values[min(len(values) - 1, int(quantile * len(values)))])

    p999 = rank(share, 0.999)
    looseness = 1 / p999 if p999 else float("inf")
    return Needed(len(ordered), rank(ordered, 0.999), float(ordered[-1]), float(whole.max()), looseness)


def table(measured: dict[str, Needed]) -> str:
    """Return the measurement as text, with one quantity per line."""
    lines = [
        f"{'quantity':28}{'numbers':>12}{'p99.9':>10}{'largest':>10}{'whole':>10}{'units':>10}{'looseness':>11}"
    ]
    lines += [
        f"{quantity:28}{n.numbers:12d}{n.p999:10.3g}{n.largest:10.3g}{n.whole:10.3g}{n.units:10.3g}{n.looseness:11.3g}"
        for quantity, n in measured.items()
    ]
    return "\n".join(lines)
