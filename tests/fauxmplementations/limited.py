"""Adapters that declare not to support some heads or hyperparameters, and which raise on these, or return results."""

from dataclasses import replace
from typing import Any

from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_reference import Head, Hyperparameters


class SixteenBins:
    """Raises a ValueError unless the head has 16 bins, as its `supports` says."""

    name, version = "sixteen-bins", "1.0"
    precisions = ("float64",)

    def __init__(self) -> None:
        self.right = ReferenceAdapter()

    def supports(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        return head.reg_max == 16 or "only 16 bins"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        self.refuse(inputs.head, inputs.hyperparameters)
        return replace(self.right.assign(inputs), stages=None)

    def loss(
        self, feature_maps: tuple[Tensor, ...], annotations: Tensor, head: Head, hyperparameters: Any
    ) -> Loss:
        self.refuse(head, hyperparameters)
        return replace(self.right.loss(feature_maps, annotations, head, hyperparameters), assignment=None)

    def refuse(self, head: Head, hyperparameters: Hyperparameters) -> None:
        if self.supports(head, hyperparameters) is not True:
            raise ValueError(f"this head is not supported: {head}")


class AnswersAnyway(SixteenBins):
    """Returns results for every head."""

    name = "answers-anyway"

    def refuse(self, head: Head, hyperparameters: Hyperparameters) -> None:
        pass


class NoTopk2(SixteenBins):
    """Declares not to support a second top-k (topk2), and raises for it."""

    name = "no-topk2"

    def supports(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        return hyperparameters.topk2 is None or "no topk2"

    def refuse(self, head: Head, hyperparameters: Hyperparameters) -> None:
        if hyperparameters.effective_topk2 is not None:
            raise NotImplementedError("topk2")


class Nothing(SixteenBins):
    """Declares not to support any head."""

    name = "nothing"

    def supports(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        return "nothing is supported"


class NeedsTruths(SixteenBins):
    """Does not support a batch without ground truths."""

    name = "needs-truths"
    supports_no_truths = False

    def supports(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        return True

    def loss(
        self, feature_maps: tuple[Tensor, ...], annotations: Tensor, head: Head, hyperparameters: Any
    ) -> Loss:
        if not len(annotations):
            raise IndexError("index 0 is out of bounds")
        return super().loss(feature_maps, annotations, head, hyperparameters)


class ReturnsFalse(SixteenBins):
    """Declares by False, without a reason, that it supports no head."""

    def supports(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        return False


class RaisesLater(SixteenBins):
    """Returns None from `supports`, neither True nor a reason, unless the head has 16 bins."""

    name = "raises-later"

    def supports(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        return True if head.reg_max == 16 else None


class EvenMaps(SixteenBins):
    """Does not support feature maps of odd height, which only the third parameter of `supports` tells."""

    name = "even-maps"

    def supports(self, head: Head, hyperparameters: Hyperparameters, shapes: Any) -> Any:
        return shapes[0][2] % 2 == 0 or f"only maps of even height, not {shapes[0][2]}"

    def refuse(self, head: Head, hyperparameters: Hyperparameters) -> None:
        pass

    def loss(
        self, feature_maps: tuple[Tensor, ...], annotations: Tensor, head: Head, hyperparameters: Any
    ) -> Loss:
        if feature_maps[0].shape[2] % 2:
            raise ValueError("odd height")
        return super().loss(feature_maps, annotations, head, hyperparameters)
