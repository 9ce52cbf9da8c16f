"""EXHAUSTIVE: judge every image of a scope, a small set of images that is enumerated, instead of a random sample."""

import pytest
import torch

from tal_conformance.checks.exhaustive.check import judge_scope
from tal_conformance.checks.exhaustive.dense_oracle import understands
from tal_conformance.checks.exhaustive.scope import PROFILES, Scope
from tal_conformance.checks.registry import share_of_examples
from tal_conformance.checks.relations.relations import RELATIONS, NotApplicable, NotObservable
from tal_conformance.core.ways import UNSUPPORTED
from tal_conformance.suite.checker import Checker

COMPANY = 8
"""Number of images in a batch that is compared with its images one by one."""


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize the tests over the scopes of the profile; with `--examples`, over the smallest scopes only."""
    config = metafunc.config
    profile = "dev" if config.getoption("--examples") else config.getoption("--conformance-profile")
    metafunc.parametrize(
        "scope", PROFILES[profile], ids=lambda scope: scope.name.replace(",", "").replace(" ", "-")
    )


@pytest.mark.clauses("EXHAUSTIVE")
def test_every_image(checker: Checker, scope: Scope) -> None:
    """The implementation conforms on every image of a scope, a small set of possible images."""
    dialect = checker.subject.implementation.dialect
    if not understands(dialect):
        checker.not_tested(
            f"all images of small scopes: their oracle does not support the dialect {dialect.name}"
        )
    unsupported = checker.subject.implementation.support.reason(scope.image(len(scope) - 1))
    if unsupported is not None:  # one image shows that the implementation raises
        checker(scope.image(len(scope) - 1))
        checker.not_tested(f"{UNSUPPORTED}all images of the scope {scope.name} ({unsupported})")
    judge_scope(checker, scope)


@pytest.mark.clauses("META-SPLIT")
def test_images_are_independent(checker: Checker, scope: Scope) -> None:
    """The assignment of an image does not depend on other images of its batch, as `judge_scope` assumes."""
    source, compared = torch.Generator().manual_seed(len(scope)), 0
    for _ in range(share_of_examples(25)):
        numbers = torch.randint(len(scope), (COMPANY,), generator=source)
        try:
            checker(scope.batch(numbers), by=RELATIONS["META-SPLIT"], relates=True)
            compared += 1
        except NotApplicable:  # such as images whose loss is 0 / 0: other images follow
            continue
        except NotObservable as hidden:
            pytest.skip(str(hidden))
    if not compared:
        checker.not_tested(
            f"independence of the images of the scope {scope.name}: META-SPLIT applies to no batch"
        )
