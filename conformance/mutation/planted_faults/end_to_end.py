"""Faults planted in end-to-end losses: faults of detection in one branch, and faults of both branches' sum (E2E-*)."""

from dataclasses import replace
from functools import partial
from typing import Any

from torch import Tensor

from tal_conformance.core.outcome import Loss
from tal_conformance.core.task import E2E, StageName, stage_name
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.mutation.planted_faults.fault import ENTERED, Fault, registering
from tal_conformance.mutation.planted_faults.faulty_reference import FaultyReference
from tal_reference import Head, Hyperparameters
from tal_reference.end_to_end import (
    BRANCHES,
    FIRST_WEIGHT,
    LAST_WEIGHT,
    EndToEndLoss,
    branch_hyperparameters,
    branch_weights,
    end_to_end_loss,
    weights_of,
)

HOME = "tal_reference.end_to_end"
ADAPTER = "tal_conformance.implementations.adapters.reference.end_to_end_loss"
OF_DETECTION = (
    *(
        "columns_before_rows",
        "top_before_left",
        "inclusive_border",
        "no_floor",
        "iou_for_ciou",
        "ciou_unclamped",
    ),
    *("alpha_of_one", "beta_of_five", "nine_for_ten", "eleven_for_ten", "contested_goes_to_the_first"),
    *("contested_by_metric", "label_of_the_first", "widened_target_box", "not_scaled_by_overlap"),
    *("weights_before_conflict", "mean_cross_entropy", "score_sum_an_image", "target_box_in_pixels"),
    *("iou_for_ciou_in_the_loss", "dfl_weights_swapped", "missing_batch_size", "alpha_differentiated"),
    "shape_penalty_without_gradient",
)
"""Faults of detection that are planted in one branch, and not in the other: at least one at every stage."""

END_TO_END_FAULTS: dict[str, Fault] = {}
"""Every fault of end-to-end losses by name."""


class FaultyBranch(ReferenceAdapter):
    """The reference's end-to-end loss with a fault of detection in one branch.

    Args:
        fault: the fault of detection.
        branch: name of the branch.
        exposes: visible part of the result: "stages", "outputs" of the assigners, or the "loss" alone.
    """

    tasks = (E2E.name,)

    def __init__(self, fault: Fault, branch: str, exposes: str) -> None:
        super().__init__()
        self.name, self.exposes_stages = f"{fault.name}_in_{branch}", exposes == "stages"
        self._exposes = exposes
        right = replace(fault, replaces={})
        self._losses = {
            name: FaultyReference(fault if name == branch else right, self.exposes_stages).loss
            for name in BRANCHES
        }

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Compute the losses of both branches, one of them with the fault, and return their sum."""
        numbers, levels = branch_hyperparameters(hyperparameters), len(head.strides)
        parts = feature_maps[:levels], feature_maps[levels:]
        branches = {
            name: self._losses[name](maps, annotations, head, numbers[name])
            for name, maps in zip(BRANCHES, parts, strict=True)
        }
        many, one = branches.values()
        a, b = weights_of(hyperparameters)
        shown = None if self._exposes == "loss" else branches
        return Loss(a * many.total + b * one.total, one.items, branches=shown)

    assign = None  # type: ignore[assignment] # the assigner alone has no branches


def _lifted(name: str, branch: str, exposes: str) -> Implementation:
    return implementation_from(FaultyBranch(ENTERED[name], branch, exposes), f"{name}_in_{branch}")


for _branch in BRANCHES:
    for _name in OF_DETECTION:
        _fault = ENTERED[_name]
        _at, *_others = (stage_name(stage, _branch) for stage in (_fault.stage, *_fault.outputs_stages))
        _all = ("E2E-2", *_fault.clauses)
        END_TO_END_FAULTS[f"{_name}_in_{_branch}"] = Fault(
            f"{_name}_in_{_branch}",
            _all,
            _at,
            {},
            tuple(_others),
            _fault.check,
            partial(_lifted, _name, _branch),
        )


planted = registering(END_TO_END_FAULTS, HOME)


def _numbers(of_branch: str, changes: dict[str, Any], hyperparameters: Hyperparameters, *dialect: Any) -> Any:
    numbers = branch_hyperparameters(hyperparameters, *dialect)
    return numbers | {of_branch: replace(numbers[of_branch], **changes)}


CHOSEN = ("top-k", "conflict", "targets", "normalisation")


def _stages(branch: str) -> tuple[str, ...]:
    """Return the stages that the report may name for a branch's wrong k if only outputs are visible."""
    return tuple(stage_name(stage, branch) for stage in ("candidates", *CHOSEN))


@planted("E2E-2", "one2one/top-k", "branch_hyperparameters", *_stages("one2one"))
def one2one_selects_ten(*arguments: Any) -> Any:
    """Return the branches' hyperparameters with k = 10 in one2one, as in one2many."""
    return _numbers("one2one", {"topk": 10}, *arguments)


@planted("E2E-2 TAL-CONF-2", "one2one/conflict", "branch_hyperparameters", *_stages("one2one"))
def one2one_keeps_all(*arguments: Any) -> Any:
    """Return the branches' hyperparameters without topk2 in one2one."""
    return _numbers("one2one", {"topk2": None}, *arguments)


@planted("E2E-2", "one2one/top-k", "branch_hyperparameters", *_stages("one2one"))
def one2one_selects_one(*arguments: Any) -> Any:
    """Return the branches' hyperparameters with k = 1 in one2one, as before 8.4.0."""
    return _numbers("one2one", {"topk": 1, "topk2": None}, *arguments)


@planted("E2E-2", "one2many/conflict", "branch_hyperparameters", *_stages("one2many"))
def one2many_keeps_one(*arguments: Any) -> Any:
    """Return the branches' hyperparameters with topk2 = 1 in one2many, as in one2one."""
    return _numbers("one2many", {"topk2": 1}, *arguments)


@planted("E2E-2", "one2many/top-k", "branch_hyperparameters", *_stages("one2many"))
def numbers_exchanged(*arguments: Any) -> Any:
    """Return the branches' hyperparameters with those of the other branch."""
    many, one = branch_hyperparameters(*arguments).values()
    return {"one2many": one, "one2one": many}


@planted("E2E-7", "one2one/cls", ADAPTER)
def one2one_reads_one2many(one2many: Any, one2one: Any, *arguments: Any) -> EndToEndLoss:
    """Return the loss with the values of one2many's feature maps in both branches."""
    read = [_valued(level, other) for level, other in zip(one2many, one2one, strict=True)]
    return end_to_end_loss(one2many, read, *arguments)


@planted("E2E-7", "one2many/cls", ADAPTER)
def branches_exchanged(one2many: Any, one2one: Any, *arguments: Any) -> EndToEndLoss:
    """Return the loss with the feature maps of both branches exchanged."""
    return end_to_end_loss(one2one, one2many, *arguments)


def _with(loss: EndToEndLoss, terms: Tensor | None = None, items: Tensor | None = None) -> Any:
    """Return the loss with other terms or items."""

    class Changed(EndToEndLoss):
        @property
        def terms(self) -> Tensor:
            return loss.terms if terms is None else terms

        @property
        def items(self) -> Tensor:
            return loss.items if items is None else items

    return Changed(loss.one2many, loss.one2one, loss.weights)


@planted("E2E-3", StageName.ITEMS, ADAPTER)
def items_of_one2many(*arguments: Any) -> EndToEndLoss:
    """Return the loss with the items of one2many."""
    loss = end_to_end_loss(*arguments)
    return _with(loss, items=loss.one2many.items)


@planted("E2E-3", StageName.ITEMS, ADAPTER)
def items_with_weights(*arguments: Any) -> EndToEndLoss:
    """Return the loss with the weighted sum of both branches' items."""
    loss = end_to_end_loss(*arguments)
    many, one = loss.weights
    return _with(loss, items=many * loss.one2many.items + one * loss.one2one.items)


@planted("E2E-3", StageName.ITEMS, ADAPTER)
def items_of_both(*arguments: Any) -> EndToEndLoss:
    """Return the loss with the sum of both branches' items, as before 8.4.0."""
    loss = end_to_end_loss(*arguments)
    return _with(loss, items=loss.one2many.items + loss.one2one.items)


def _valued(value: Tensor, gradient: Tensor) -> Tensor:
    """Return a tensor with the values of one tensor and the gradients of another."""
    return value.detach() + gradient - gradient.detach()


@planted("E2E-3", StageName.TOTAL, ADAPTER)
def total_without_weights(*arguments: Any) -> EndToEndLoss:
    """Return the loss with a total whose value is the plain sum of both branches, and whose gradient is right."""
    loss = end_to_end_loss(*arguments)
    return _with(loss, terms=_valued(loss.one2many.terms + loss.one2one.terms, loss.terms))


@planted("E2E-3", StageName.TOTAL, ADAPTER)
def total_of_one2one(*arguments: Any) -> EndToEndLoss:
    """Return the loss with a total whose value is that of one2one, and whose gradient is right."""
    loss = end_to_end_loss(*arguments)
    return _with(loss, terms=_valued(loss.one2one.terms, loss.terms))


@planted("E2E-4 E2E-3", StageName.WEIGHTS, "weights_of")
def weights_of_one(*_: Any) -> tuple[float, float]:
    """Return the weights 1 and 1 of a plain sum, as before 8.4.0."""
    return 1.0, 1.0


@planted("E2E-4", StageName.WEIGHTS, "weights_of")
def weights_exchanged(*arguments: Any) -> tuple[float, float]:
    """Return the weights of the branches, exchanged."""
    many, one = weights_of(*arguments)
    return one, many


@planted("E2E-4 E2E-5", StageName.WEIGHTS, "weights_of")
def weights_never_updated(*_: Any) -> tuple[float, float]:
    """Return the first weights, whatever the number of updates."""
    return FIRST_WEIGHT, 1 - FIRST_WEIGHT


@planted("E2E-4 E2E-5", StageName.WEIGHTS, "branch_weights")
def one_update_more(updates: int, epochs: int) -> tuple[float, float]:
    """Return the weights after one more update."""
    return branch_weights(updates + 1, epochs)


@planted("E2E-4", StageName.WEIGHTS, "branch_weights")
def last_weight_after_the_last_epoch(updates: int, epochs: int) -> tuple[float, float]:
    """Return weights that reach the last one after E epochs, not in the last epoch."""
    return branch_weights(updates, epochs + 1)


@planted("E2E-4", StageName.WEIGHTS, "branch_weights")
def weight_below_the_last(updates: int, epochs: int) -> tuple[float, float]:
    """Return weights that decrease further after the last epoch, down to zero."""
    many = FIRST_WEIGHT - (FIRST_WEIGHT - LAST_WEIGHT) * updates / max(epochs - 1, 1)
    return max(many, 0.01), 1 - max(many, 0.01)


@planted("E2E-6", StageName.GRADIENTS, ADAPTER)
def one2one_detached(*arguments: Any) -> EndToEndLoss:
    """Return the loss with a total that has no gradient of one2one."""
    loss = end_to_end_loss(*arguments)
    many, one = loss.weights
    return _with(loss, terms=_valued(loss.terms, many * loss.one2many.terms) + 0 * one * loss.one2one.terms)


@planted("E2E-6", StageName.GRADIENTS, ADAPTER)
def one2many_detached(*arguments: Any) -> EndToEndLoss:
    """Return the loss with a total that has no gradient of one2many."""
    loss = end_to_end_loss(*arguments)
    many, one = loss.weights
    return _with(loss, terms=_valued(loss.terms, one * loss.one2one.terms) + 0 * many * loss.one2many.terms)


@planted("E2E-6", StageName.GRADIENTS, ADAPTER)
def gradients_without_weights(*arguments: Any) -> EndToEndLoss:
    """Return the loss with a right total, and the gradients of the plain sum of both branches."""
    loss = end_to_end_loss(*arguments)
    return _with(loss, terms=_valued(loss.terms, loss.one2many.terms + loss.one2one.terms))


@planted("E2E-6", "one2one/gradients", ADAPTER)
def one2many_leaks(one2many: Any, one2one: Any, *arguments: Any) -> EndToEndLoss:
    """Return the loss with a right total, and gradients of one2many on the feature maps of one2one."""
    loss = end_to_end_loss(one2many, one2one, *arguments)
    shifted = [level + other - other.detach() for level, other in zip(one2many, one2one, strict=True)]
    return _with(loss, terms=_valued(loss.terms, end_to_end_loss(shifted, one2one, *arguments).terms))
