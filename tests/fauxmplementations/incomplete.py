"""Adapters without some of the optional results, and adapters with formal mistakes around right values."""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.implementations.adapters.reference import ReferenceAdapter


class Whole:
    """The reference; subclasses change its assigner's results in `assignment`, and its loss's results in `changed`."""

    name, version = "whole", "1.0"

    def __init__(self) -> None:
        self.right = ReferenceAdapter()

    def assign(self, inputs: AssignerInputs) -> Assignment:
        return self.assignment(replace(self.right.assign(inputs), stages=None))

    def loss(self, feature_maps: tuple[Tensor, ...], annotations: Tensor, head: Any, numbers: Any) -> Loss:
        return self.changed(self.right.loss(feature_maps, annotations, head, numbers))

    def assignment(self, right: Assignment) -> Assignment:
        return right

    def changed(self, right: Loss) -> Loss:
        shown = right.assignment
        return replace(
            right, assignment=None if shown is None else self.assignment(replace(shown, stages=None))
        )


class NoIndex(Whole):
    name = "no-index"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(right, truth_index=None)


class NoLabels(Whole):
    name = "no-labels"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(right, labels=None)


class NeitherWrongOwner(Whole):
    """Returns no index and no labels, and gives every anchor the box of its image's last ground truth."""

    name = "wrong-owner"

    def assign(self, inputs: AssignerInputs) -> Assignment:
        right = self.right.assign(inputs)
        if not inputs.truth_boxes.shape[1]:
            return replace(right, labels=None, truth_index=None, stages=None)
        last = (inputs.truth_mask[..., 0].sum(1).long() - 1).clamp(min=0)  # (B,)
        boxes = inputs.truth_boxes.gather(1, last[:, None, None].expand(-1, 1, 4)).expand_as(right.boxes)
        return replace(right, boxes=boxes.clone(), labels=None, truth_index=None, stages=None)


class Neither(Whole):
    name = "neither"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(right, labels=None, truth_index=None)


class OneNumber(Whole):
    """Returns a loss with a scalar total, without items and assignment."""

    name = "one-number"

    def changed(self, right: Loss) -> Loss:
        return Loss(total=right.total.sum(), items=None)


class OneNumberTooLarge(OneNumber):
    """Adds a thousandth to the total, without an effect on the gradients."""

    name = "one-number-too-large"

    def changed(self, right: Loss) -> Loss:
        return Loss(total=right.total.sum() + 1e-3 * right.total.sum().detach(), items=None)


class TermsAlone(Whole):
    """Returns a total with one value for each term, and no items."""

    name = "terms-alone"

    def changed(self, right: Loss) -> Loss:
        return replace(right, items=None, assignment=None)


class WrongBoxTerm(TermsAlone):
    name = "wrong-box-term"

    def changed(self, right: Loss) -> Loss:
        return Loss(right.total * torch.tensor([1.1, 1.0, 1.0]), None)


class FloatMask(Whole):
    name = "float-mask"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(right, foreground=right.foreground.float())


class FloatMaskAndHalfScores(FloatMask):
    """Returns a foreground mask of floats, and target scores that are half as large as the correct scores."""

    name = "float-mask-half-scores"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(super().assignment(right), scores=right.scores / 2)


class HalfMask(Whole):
    """Returns a foreground mask with numbers other than 0 and 1, which cannot be converted."""

    name = "half-mask"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(right, foreground=right.foreground * 0.5)


class Int32(Whole):
    """Returns labels and indices of 32 bits, which the protocol allows."""

    name = "int32"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(right, labels=right.labels.int(), truth_index=right.truth_index.int())


class FloatLabels(Whole):
    name = "float-labels"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(right, labels=right.labels.double())


class LearningItems(Whole):
    """Returns items that are not detached."""

    name = "learning-items"

    def changed(self, right: Loss) -> Loss:
        return replace(right, items=right.total / 1.0 * (right.items / right.total.detach()), assignment=None)


class NoTruthsCrash(Whole):
    """Raises an IndexError on a batch without ground truths; otherwise its results are correct."""

    name = "no-truths-crash"

    def loss(self, feature_maps: tuple[Tensor, ...], annotations: Tensor, head: Any, numbers: Any) -> Loss:
        if not len(annotations):
            raise IndexError("max(): Expected reduction dim to be specified")
        return super().loss(feature_maps, annotations, head, numbers)

    def assign(self, inputs: AssignerInputs) -> Assignment:
        if not inputs.truth_boxes.shape[1]:
            raise IndexError("max(): Expected reduction dim to be specified")
        return super().assign(inputs)


class NoTruthsCrashAndHalfScores(NoTruthsCrash):
    name = "no-truths-crash-half-scores"

    def assignment(self, right: Assignment) -> Assignment:
        return replace(right, scores=right.scores / 2)
