"""Stages of an official assigner of any release: notes what passes between its own functions; computes nothing.

The functions keep their names from 8.0.0 on, but not their place: some were functions of the module, then static
methods, then methods. They are listened to where they are, while the assigner runs.
"""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import ModuleType
from typing import Any

from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Stages
from tal_reference import Head, Hyperparameters

LISTENED = ("select_candidates_in_gts", "get_box_metrics", "get_pos_mask", "select_highest_overlaps")
"""The official functions between the stages."""
USUAL = Hyperparameters()
"""What a loss must come to by itself (TAL-MET-1, TAL-TOPK-1)."""
READ = 6
"""Tensors that an assigner reads: those of `AssignerInputs`, but for the strides. Forks add arguments behind them."""


class RecordingAssigner:
    """A release's assigner that keeps copies of what its last call read, computed and returned.

    Args:
        tal: the release's module.
        assigner: made by the release's loss, or with numbers that the loss does not take.
    """

    def __init__(self, tal: ModuleType, assigner: Any) -> None:
        self._tal = tal
        self.assigner = assigner
        self._forward = self.assigner.forward
        self.assigner.forward = self.forward
        self.heard: dict[str, Any] = {}
        self.read: list[Tensor] = []
        self.returned: list[Tensor] = []

    def forward(self, *arguments: Any) -> Any:
        """The assigner's own, listened to."""
        self.heard = {}
        self.read = [argument.detach().clone() for argument in arguments[:READ]]
        with ExitStack() as stack:
            for name in LISTENED:
                owner = self.assigner if hasattr(self.assigner, name) else self._tal
                if hasattr(owner, name):
                    stack.enter_context(listening(owner, name, self.heard))
            returned = self._forward(*arguments)
        self.returned = [result.detach().clone() for result in returned]  # some losses change it in place
        return returned

    def assignment(self) -> Assignment:
        """What the last call returned, with its stages. Without ground truths most releases return zeros, not False."""
        labels, boxes, scores, foreground, index = self.returned
        return Assignment(labels, boxes, scores, foreground.bool(), index, self.stages())

    def stages(self) -> Stages | None:
        """The stages of the last call; None of a batch without ground truths, which returns before any."""
        if set(LISTENED) - set(self.heard):
            return None
        metric, overlap = self.heard["get_box_metrics"]
        return Stages(
            candidates=self.heard["select_candidates_in_gts"].bool() & self.read[5].bool(),
            overlap=overlap,
            metric=metric,
            selected=self.heard["get_pos_mask"][0].bool(),
            positives=self.heard["select_highest_overlaps"][2].bool(),
        )

    def inputs(self, strides: Tensor, head: Head, hyperparameters: Hyperparameters) -> AssignerInputs:
        """What the last call read."""
        scores, boxes, anchors, labels, truth_boxes, truth_mask = self.read
        return AssignerInputs(
            scores, boxes, anchors, strides, labels, truth_boxes, truth_mask, head, hyperparameters
        )


def asked_of_loss(hyperparameters: Hyperparameters) -> dict[str, int]:
    """What an official loss must be told: nothing that it must come to by itself."""
    asked = {}
    if hyperparameters.topk != USUAL.topk:
        asked["tal_topk"] = hyperparameters.topk
    if hyperparameters.topk2 is not None:
        asked["tal_topk2"] = hyperparameters.topk2
    return asked


def has_own_exponents(hyperparameters: Hyperparameters) -> bool:
    """Whether alpha and beta are those that official losses have built in (TAL-MET-1); they take no others."""
    return (hyperparameters.alpha, hyperparameters.beta) == (USUAL.alpha, USUAL.beta)


@contextmanager
def listening(owner: Any, name: str, heard: dict[str, Any]) -> Iterator[None]:
    """While this lasts, what the function called `name` returns is copied into `heard`."""
    own = name in vars(owner)
    function: Callable[..., Any] = getattr(owner, name)

    def noting(*arguments: Any, **named: Any) -> Any:
        result = function(*arguments, **named)
        heard[name] = result.clone() if isinstance(result, Tensor) else tuple(part.clone() for part in result)
        return result

    setattr(owner, name, noting)
    try:
        yield
    finally:
        if own:
            setattr(owner, name, function)
        else:
            delattr(owner, name)
