"""Record the intermediate stages of an official assigner, for any release, by wrapping its own functions while it runs.

No stage is recomputed. The names of the assigner's functions have been stable since 8.0.0, but the functions have moved
from module functions to static methods to methods; a function is wrapped where the release defines it.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Stages
from tal_reference import Head, Hyperparameters

STAGE_FUNCTIONS = ("select_candidates_in_gts", "get_box_metrics", "get_pos_mask", "select_highest_overlaps")
"""The official functions between the stages."""
DEFAULTS = Hyperparameters()
"""Hyperparameters that an official loss gives to its assigner by itself (TAL-MET-1, TAL-TOPK-1)."""
INPUT_COUNT = 6
"""Number of tensors that an assigner reads: those of `AssignerInputs` without the strides. Forks append arguments."""
METRIC_ARGUMENTS = 5
"""Arguments of `get_box_metrics`, the last of which is the mask of candidates; the first releases lack the mask."""


class RecordingAssigner:
    """Wrap an official assigner and store copies of the inputs, intermediate values and outputs of its last call.

    Args:
        module: the release's module that defines the assigner.
        assigner: the assigner.

    Attributes:
        stage_results: results of all calls of `STAGE_FUNCTIONS`, by name.
        stage_arguments: positional arguments of these calls, by name.
        inputs_read: the first `INPUT_COUNT` arguments of the last call.
        returned: the outputs of the last call.
    """

    def __init__(self, module: ModuleType, assigner: Any) -> None:
        self._module, self._assigner = module, assigner
        self.stage_results: dict[str, list[Any]] = {}
        self.stage_arguments: dict[str, list[tuple[Any, ...]]] = {}
        self.inputs_read: list[Tensor] = []
        self.returned: list[Tensor] = []

    def __call__(self, *arguments: Any, **named: Any) -> Any:
        """Call the assigner and record the call."""
        return self._record(self._assigner, arguments, **named)

    def attach(self) -> None:
        """Record every later call of the assigner, including calls by the official loss."""
        forward = self._assigner.forward
        self._assigner.forward = lambda *arguments, **named: self._record(forward, arguments, **named)

    def _record(self, function: Callable[..., Any], arguments: tuple[Any, ...], **named: Any) -> Any:
        self.stage_results, self.stage_arguments = {}, {}
        self.inputs_read = [argument.detach().clone() for argument in arguments[:INPUT_COUNT]]
        with ExitStack() as stack:
            for name in STAGE_FUNCTIONS:
                owner = self._assigner if hasattr(self._assigner, name) else self._module
                if hasattr(owner, name):
                    stack.enter_context(recorded_calls(owner, name, self.stage_results, self.stage_arguments))
            returned = function(*arguments, **named)
        # some losses change the boxes in place
        self.returned = [output.detach().clone() for output in returned]
        return returned

    def assignment(self) -> Assignment:
        """Return the outputs of the last call, with the stages of that call."""
        labels, boxes, scores, foreground, index = self.returned
        return Assignment(labels, boxes, scores, self._as_mask(foreground), index, self.stages())

    def _as_mask(self, foreground: Tensor) -> Tensor:
        """Return the foreground as booleans: without ground truths most releases return numeric zeros."""
        truths = self.inputs_read[4].shape[1]
        return foreground if truths else foreground.bool()

    def stages(self) -> Stages | None:
        """Return the stages of the last call; None for a batch without ground truths, which has no stages."""
        if set(STAGE_FUNCTIONS) - set(self.stage_results):
            return None
        return Stages(
            candidates=self._candidates(),
            overlap=self._whole([overlap for _, overlap in self.stage_results["get_box_metrics"]]),
            metric=self._whole([metric for metric, _ in self.stage_results["get_box_metrics"]]),
            selected=self._whole([result[0] for result in self.stage_results["get_pos_mask"]]).bool(),
            positives=self._whole(
                [result[2] for result in self.stage_results["select_highest_overlaps"]]
            ).bool(),
        )

    def _whole(self, parts: list[Tensor]) -> Tensor:
        """Return a stage of the whole batch (B, M, A) from the calls that computed it.

        Usually one call computes the stage of all images. After an out-of-memory error the assigner may compute the
        stage once more, image by image, with rows only for the ground truths of that image. Then the last calls that
        together cover all images are used, and results from before the error are ignored.
        """
        images, rows = self.inputs_read[4].shape[:2]
        latest, left = [], images
        for part in reversed(parts):
            if left == 0:
                break
            latest.append(torch.nn.functional.pad(part, (0, 0, 0, rows - part.shape[1])))
            left -= len(part)
        return latest[0] if len(latest) == 1 else torch.cat(latest[::-1])

    def _candidates(self) -> Tensor:
        """Return the mask (B, M, A) of the candidates, which the first releases do not pass to their metric."""
        calls = self.stage_arguments["get_box_metrics"]
        if len(calls[-1]) >= METRIC_ARGUMENTS:
            return self._whole([arguments[METRIC_ARGUMENTS - 1] for arguments in calls]).bool()
        return self._whole(self.stage_results["select_candidates_in_gts"]).bool() & self.inputs_read[5].bool()

    def inputs(self, strides: Tensor, head: Head, hyperparameters: Hyperparameters) -> AssignerInputs:
        """Return the inputs of the last call.

        Args:
            strides: (A, 1) strides of the anchors, which are not among the assigner's arguments.
            head: head of the batch.
            hyperparameters: hyperparameters of the batch.
        """
        scores, boxes, anchors, labels, truth_boxes, truth_mask = self.inputs_read
        return AssignerInputs(
            scores, boxes, anchors, strides, labels, truth_boxes, truth_mask, head, hyperparameters
        )


def loss_arguments(hyperparameters: Hyperparameters) -> dict[str, int]:
    """Return keyword arguments for an official loss, with the hyperparameters that differ from the loss's defaults."""
    arguments = {}
    if hyperparameters.topk != DEFAULTS.topk:
        arguments["tal_topk"] = hyperparameters.topk
    if hyperparameters.topk2 is not None:
        arguments["tal_topk2"] = hyperparameters.topk2
    return arguments


def has_built_in_exponents(hyperparameters: Hyperparameters) -> bool:
    """Return True if alpha and beta are the built-in, and only, values of official losses (TAL-MET-1)."""
    return (hyperparameters.alpha, hyperparameters.beta) == (DEFAULTS.alpha, DEFAULTS.beta)


@contextmanager
def recorded_calls(
    owner: Any, name: str, results: dict[str, list[Any]], arguments_of: dict[str, list[tuple[Any, ...]]]
) -> Iterator[None]:
    """Record every call of the function `name` of `owner` while the block runs.

    Args:
        owner: the assigner or its module.
        name: name of the function.
        results: receives a copy of every result under the function's name.
        arguments_of: receives the positional arguments of every call under the function's name.
    """
    has_own = name in vars(owner)
    function: Callable[..., Any] = getattr(owner, name)

    def wrapper(*arguments: Any, **named: Any) -> Any:
        arguments_of.setdefault(name, []).append(arguments)
        result = function(*arguments, **named)
        copied = result.clone() if isinstance(result, Tensor) else tuple(part.clone() for part in result)
        results.setdefault(name, []).append(copied)
        return result

    setattr(owner, name, wrapper)
    try:
        yield
    finally:
        if has_own:
            setattr(owner, name, function)
        else:
            delattr(owner, name)
