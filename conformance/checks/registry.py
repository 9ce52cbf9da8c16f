"""The registry of generated checks: a test function with its clauses and its strategy.

`@check` makes a pytest test of a function and enters it into `CHECKS`, where mutation testing finds it:

    @check("TAL-TOPK", batches=STRATEGIES["topk"])
    def test_topk(checker: Checker, recipe: Recipe) -> None:
        checker(recipe)

Importing `tal_conformance.suite.every_check` fills the registry.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import Phase, given, seed, settings
from hypothesis.strategies import SearchStrategy

MIN_EXAMPLES = 4
"""Minimum number of batches of every check. Hypothesis draws the simplest batch first, and few errors affect that."""
NO_SHRINKING = (Phase.explicit, Phase.reuse, Phase.generate)


@dataclass(frozen=True)
class Check:
    """One generated test of the suite.

    Attributes:
        name: name of the test function without `test_`.
        clauses: groups of clauses that the check covers; log and report list the check under the first.
        strategy: draws the batches.
        argument: parameter of `body` that takes a generated batch.
        share: the number of examples is that of the profile divided by `share`.
        least: minimum number of examples of the check.
        parameter: further parameter of `body` with its values, if pytest runs the check once for each of them.
        mutants: when mutation testing uses the check: "first" if it runs the implementation once on a small float32
            batch, "last" if it is slower, "never" if it needs several runs, large batches or fixtures.
        body: the test function itself.
    """

    name: str
    clauses: tuple[str, ...]
    strategy: SearchStrategy[Any]
    argument: str
    share: int
    least: int
    parameter: tuple[str, tuple[str, ...]] | None
    mutants: Literal["first", "last", "never"]
    body: Callable[..., None]

    def examples(self, examples: int) -> int:
        """Return the number of batches that the check generates, given the profile's number of examples."""
        return examples if self.share == 1 else max(self.least, examples // self.share)

    def calls(self) -> Iterator[tuple[str, dict[str, str]]]:
        """Yield the name of every test that pytest makes of the check, with the further arguments of `body`."""
        if self.parameter is None:
            yield f"test_{self.name}", {}
            return
        name, values = self.parameter
        for value in values:
            yield f"test_{self.name}[{value}]", {name: value}

    def generated(self, repeats: bool) -> Callable[..., None]:
        """Return `body` with its batches drawn by Hypothesis.

        Args:
            repeats: draw the same batches in every run, independently of the function's source.
        """
        test = given(**{self.argument: self.strategy})(self.body)
        pinned = self.parameter is None or self.name in SEEDS
        return seed(self.seed)(test) if repeats and pinned else test

    @property
    def seed(self) -> int:
        """Seed of a profile that repeats its batches, from seeds.json or else from the check's name alone.

        Hypothesis' own seed of a derandomized test is a digest of the function's source and of the modules of its
        annotations, so that moving or rephrasing code would change the batches. The digests in seeds.json are fixed
        instead. A check with a parameter keeps Hypothesis' seed, because only that includes the parameter's value,
        unless the check is in seeds.json: then all values of the parameter share their batches.
        """
        digest = SEEDS.get(self.name) or hashlib.sha256(self.name.encode()).hexdigest()
        return int(digest, 16)


SEEDS: dict[str, str] = json.loads(Path(__file__).with_name("seeds.json").read_text(encoding="utf-8"))
"""Hexadecimal seed of each check's batches in the gating profile. With these batches, mutation testing
(`tal-conformance power`) finds every planted fault at its stage."""
CHECKS: dict[str, Check] = {}
"""Every check by its name, in the order in which the test modules were imported."""


def check(
    *clauses: str,
    batches: SearchStrategy[Any],
    argument: str = "recipe",
    share: int = 1,
    least: int = MIN_EXAMPLES,
    parameter: tuple[str, Iterable[str]] | None = None,
    mutants: Literal["first", "last", "never"] = "first",
    shrinks: bool = True,
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Enter the decorated function into `CHECKS`, and return it as a pytest test that Hypothesis feeds.

    The loaded profile decides how many batches the test draws: load it before the test modules are imported.

    Args:
        clauses: groups of clauses that the check covers; log and report list the check under the first.
        batches: draws the batches.
        argument: parameter of the function that takes a generated batch.
        share: the number of examples is that of the profile divided by `share`.
        least: minimum number of examples of the check.
        parameter: further parameter of the function with its values; pytest runs the check once for each.
        mutants: when mutation testing uses the check, see `Check`.
        shrinks: False if a failing batch is reported without shrinking it, because judging it takes too long.
    """

    def register(body: Callable[..., None]) -> Callable[..., None]:
        name = body.__name__.removeprefix("test_")
        values = None if parameter is None else (parameter[0], tuple(parameter[1]))
        CHECKS[name] = entry = Check(name, clauses, batches, argument, share, least, values, mutants, body)
        test = entry.generated(repeats=_draws_repeat())
        own: dict[str, Any] = {} if share == 1 else {"max_examples": share_of_examples(share, least)}
        own |= {} if shrinks else {"phases": NO_SHRINKING}
        if own:
            test = settings(**own)(test)
        if values is not None:
            test = pytest.mark.parametrize(*values)(test)
        return pytest.mark.clauses(clauses[0])(test) if clauses else test

    return register


def _draws_repeat() -> bool:
    """Return True if the loaded profile draws the same batches in every run."""
    current = settings.default
    return current is not None and current.derandomize


def share_of_examples(parts: int, least: int = MIN_EXAMPLES) -> int:
    """Return the number of examples of the loaded profile divided by `parts`, but at least `least`."""
    current = settings.default
    assert current is not None
    return max(least, current.max_examples // parts)


def check_for(clause: str) -> Check:
    """Return the check whose clause group matches the longest part of a clause id; the first if several do.

    Raises:
        LookupError: no check covers the clause.
    """
    lengths = {
        name: max((len(group) for group in entry.clauses if clause.startswith(group)), default=0)
        for name, entry in CHECKS.items()
    }
    name = max(lengths, key=lambda name: lengths[name], default="")
    if not lengths.get(name):
        raise LookupError(f"no check covers the clause {clause!r}")
    return CHECKS[name]
