"""The check that images are independent goes on after a batch to which its relation does not apply."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any, Never

import pytest

from tal_conformance.checks.exhaustive.scope import PROFILES
from tal_conformance.checks.relations.relations import NotApplicable
from tal_conformance.suite.test_exhaustive import test_images_are_independent as check_independence


def test_a_batch_without_the_relation_does_not_end_the_check():
    results: Iterator[Exception] = iter((NotApplicable("no gradient of background"), AssertionError("found")))

    def checker(*_: object, **__: object) -> None:
        raise next(results)

    with pytest.raises(AssertionError, match="found"):
        check_independence(checker, PROFILES["dev"][0])  # type: ignore[arg-type] # only called


class Untested(Exception):
    """Error that stands for a skipped test."""


def test_a_scope_without_any_compared_batch_is_logged_as_not_tested():
    class Checker(SimpleNamespace):
        def __call__(self, *_: object, **__: object) -> None:
            raise NotApplicable("no gradient of background")

        def not_tested(self, reason: str) -> Never:
            raise Untested(reason)

    checker: Any = Checker()
    with pytest.raises(Untested, match="META-SPLIT applies to no batch"):
        check_independence(checker, PROFILES["dev"][0])
