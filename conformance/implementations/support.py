"""Batches that an adapter declares not to support: no result is expected, and a returned result is an error."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tal_conformance.core.batch import Batch
from tal_conformance.core.names import LONGEST_MESSAGE, cut
from tal_conformance.core.task import TASKS
from tal_conformance.implementations.errors import ProtocolViolation
from tal_reference import Head, Hyperparameters

Shapes = Sequence[tuple[int, ...]]
"""Shape (B, channels, H, W) of each level's feature map."""
TRIAL_SIZE = 640
"""Side in pixels of the image with which `supports` is called when an adapter is loaded, before any batch is drawn."""
CLASS_WEIGHTS = "class weights (attribute `class_weights`)"
"""Reason of an adapter that does not declare `class_weights = True`."""
NO_TRUTHS = "a batch without ground truths"
"""Reason of an adapter that declares `supports_no_truths = False`."""


@dataclass(frozen=True)
class Support:
    """Declaration of an adapter about the batches that it supports.

    Attributes:
        supports: function that returns True for a supported head with hyperparameters, and else the reason as a
            text; with a third parameter it gets the shapes of the feature maps. None if everything is supported.
        no_truths: False if a batch without ground truths is not supported.
        class_weights: names of the tasks whose loss reads `head.class_weights` (COR-7).
    """

    supports: Callable[[Head, Hyperparameters], Any] | None = None
    no_truths: bool = True
    class_weights: tuple[str, ...] = ()

    def reason_not_to_call(self, batch: Batch) -> str | None:
        """Return the reason why the adapter must not even be called with a batch, or None if it may be called.

        An adapter written before heads had class weights would silently ignore them.
        """
        unread = batch.head.class_weights is not None and batch.task not in self.class_weights
        return CLASS_WEIGHTS if unread else None

    def reason(self, batch: Batch) -> str | None:
        """Return the reason why the adapter does not support a batch, as one line, or None if the batch is supported.

        Raises:
            ProtocolViolation: `supports` returned neither True nor a reason.
        """
        shapes = [tuple(level.shape) for level in batch.feature_maps]
        reason = self.reason_against(batch.head, batch.hyperparameters, shapes)
        if reason is not None or self.no_truths or len(batch.annotations):
            return reason
        return NO_TRUTHS

    def reason_against(self, head: Head, hyperparameters: Hyperparameters, shapes: Shapes = ()) -> str | None:
        """Return the reason why the adapter does not support a head with hyperparameters, or None if supported.

        Args:
            head: the head.
            hyperparameters: the hyperparameters.
            shapes: of the feature maps; by default those of one square image of `TRIAL_SIZE`.

        Raises:
            ProtocolViolation: as `reason`.
        """
        answer = (
            True if self.supports is None else asked_support(self.supports, head, hyperparameters, shapes)
        )
        return answer if isinstance(answer, str) else None


def asked_support(
    supports: Callable[..., Any], head: Head, hyperparameters: Hyperparameters, shapes: Shapes = ()
) -> bool | str:
    """Return True if the adapter supports the head with the hyperparameters, or else its reason, as one line.

    A `topk2` that equals `topk` changes nothing (COR-3), and is passed as None.

    Args:
        supports: the adapter's function, with two parameters, or with three, of which the last gets the shapes.
        head: the head.
        hyperparameters: the hyperparameters.
        shapes: of the feature maps; by default those of one square image of `TRIAL_SIZE`.

    Raises:
        ProtocolViolation: `supports` returned neither True nor a text that contains a word.
    """
    numbers = replace(hyperparameters, topk2=hyperparameters.effective_topk2)
    sizes = (tuple(tuple(shape) for shape in shapes or trial_shapes(head)),) if takes_shapes(supports) else ()
    answer = supports(head, numbers, *sizes)
    if answer is True:
        return True
    if not isinstance(answer, str) or not answer.strip():
        raise ProtocolViolation(
            f"supports(head, hyperparameters) returned {cut(repr(answer), 80)}, expected True or the reason as a text "
            "that is not empty"
        )
    return cut(" ".join(str.split(answer)), LONGEST_MESSAGE)


def trial_shapes(head: Head) -> Shapes:
    """Return the shapes of the feature maps of one square image of `TRIAL_SIZE`."""
    return [(1, head.channels, -(-TRIAL_SIZE // stride), -(-TRIAL_SIZE // stride)) for stride in head.strides]


def takes_shapes(supports: Callable[..., Any]) -> bool:
    """Return True if a function can be called with three positional arguments; False if that is not known."""
    try:
        inspect.signature(supports).bind(None, None, None)
    except (TypeError, ValueError):
        return False
    return True


def support_of(adapter: Any, name: str) -> Support:
    """Return an adapter's declaration of support, after a trial call of its `supports` with default arguments.

    Raises:
        ProtocolViolation: an attribute has the wrong type, or `supports` returned neither True nor a reason.
    """
    supports = getattr(adapter, "supports", None)
    no_truths = getattr(adapter, "supports_no_truths", True)
    if supports is not None and not callable(supports):
        raise ProtocolViolation(
            f"{name} declares supports = {cut(repr(supports), 80)}: expected a method supports(head, hyperparameters)"
        )
    if not isinstance(no_truths, bool):
        raise ProtocolViolation(
            f"{name} declares supports_no_truths = {cut(repr(no_truths), 80)}: expected True or False"
        )
    if supports is not None:
        try:
            asked_support(supports, Head((8, 16, 32), 80), Hyperparameters())
        except ProtocolViolation as error:
            raise ProtocolViolation(f"{name}: {error}") from error
    return Support(supports, no_truths, tasks_with_class_weights(adapter, name))


def tasks_with_class_weights(adapter: Any, name: str) -> tuple[str, ...]:
    """Return the names of the tasks whose loss reads class weights.

    The attribute `class_weights` is True for all tasks, False for none, or a tuple of the names of some.

    Raises:
        ProtocolViolation: the attribute is something else.
    """
    declared = getattr(adapter, "class_weights", False)
    if isinstance(declared, bool):
        return tuple(TASKS) * declared
    if isinstance(declared, (tuple, list)) and all(
        isinstance(task, str) and task in TASKS for task in declared
    ):
        return tuple(declared)
    raise ProtocolViolation(
        f"{name} declares class_weights = {cut(repr(declared), 80)}: expected True, False, or a tuple of the names of "
        f"the tasks whose loss reads class weights, of {', '.join(TASKS)}"
    )
