"""The check that images are independent goes on after a batch to which its relation does not apply."""

from collections.abc import Iterator

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
