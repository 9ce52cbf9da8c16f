"""LOSS: the three terms, their sum and its gradient."""

from functools import partial

from tal_conformance.batches.recipe import Recipe
from tal_conformance.batches.strategies.class_weights import class_weights
from tal_conformance.batches.strategies.named import STRATEGIES
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.checks.registry import check
from tal_conformance.core.ways import UNSUPPORTED
from tal_conformance.implementations.support import CLASS_WEIGHTS
from tal_conformance.suite.checker import Checker

each_term = partial(judge_against_reference, each_term=True)


@check("LOSS", "OBB", batches=STRATEGIES["loss"])
def test_loss(checker: Checker, recipe: Recipe) -> None:
    """Judge value and gradient of the loss and of each of its terms on ordinary batches."""
    checker(recipe, by=each_term)


@check("LOSS", batches=STRATEGIES["loss_of_large_boxes"], share=2)
def test_loss_of_large_boxes(checker: Checker, recipe: Recipe) -> None:
    """LOSS-DFL-1: boxes so large that target distances are beyond the last bin."""
    checker(recipe, by=each_term)


@check("LOSS", batches=STRATEGIES["loss_of_small_boxes"], share=2)
def test_loss_of_small_boxes(checker: Checker, recipe: Recipe) -> None:
    """IOU-1, IOU-3: boxes so small in grid units that the eps in CIoU changes the result."""
    checker(recipe, by=each_term)


@check("LOSS", batches=STRATEGIES["loss_of_points"], share=4)
def test_loss_of_points(checker: Checker, recipe: Recipe) -> None:
    """IOU-1: ground truths without area, and predictions so close to these that the eps in CIoU changes the result."""
    checker(recipe, by=each_term)


@check("LOSS", batches=STRATEGIES["hyperparameters"])
def test_hyperparameters(checker: Checker, recipe: Recipe) -> None:
    """TAL-TOPK-1, LOSS-GAIN-1: the loss uses the k and the gains that it receives."""
    checker(recipe)


@check("LOSS", batches=class_weights, share=2)
def test_class_weights(checker: Checker, recipe: Recipe) -> None:
    """COR-7: the cross-entropies of each class are multiplied by the class's weight, and nothing else is."""
    if not checker.subject.implementation.support.class_weights:
        checker.not_tested(f"{UNSUPPORTED}{CLASS_WEIGHTS}")
    checker(recipe, by=each_term)
