"""Results of adapters as arrays of other frameworks, and losses without a torch graph."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from tal_conformance import Assignment, Loss
from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.checks.everything import run_every_check
from tal_conformance.checks.reference import judge_against_reference
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.guards.arrays import as_tensor
from tal_conformance.implementations.protocol import implementation_from
from tal_conformance.judgement.failure import Failure, Subject

BATCH = Recipe(((Truth("ordinary"), Truth("tiny")), ()), classes=2, predictions="near").build()
FIELDS = ("labels", "boxes", "scores", "foreground", "truth_index")


class Capsule:
    """An array of a framework that torch does not know: it has nothing but `__dlpack__`."""

    def __init__(self, tensor: Tensor) -> None:
        self._tensor = tensor

    def __dlpack__(self, **options: Any) -> Any:
        return self._tensor.__dlpack__(**options)

    def __dlpack_device__(self) -> Any:
        return self._tensor.__dlpack_device__()


class WithoutGraph:
    """The reference as a loss of another framework: arrays, and gradients that it computes itself."""

    name, version = "without-graph", "1"

    def __init__(self, array: Any = Tensor.numpy, factor: float = 1.0, **changes: Any) -> None:
        self._array, self._factor, self._changes = array, factor, changes

    def assign(self, inputs: Any) -> Assignment:
        return self._arrays(ReferenceAdapter().assign(inputs))

    def loss(self, maps: Any, rows: Any, head: Any, numbers: Any) -> Loss:
        with torch.inference_mode(False), torch.enable_grad():
            own = tuple(level.detach().clone().requires_grad_() for level in maps)
            loss = ReferenceAdapter().loss(own, rows.clone(), head, numbers)
            total = loss.total.sum()
            gradients = torch.autograd.grad(total, own)
        given = tuple(self._array((gradient * self._factor).cpu()) for gradient in gradients)
        arrays = Loss(
            self._array(total.detach().cpu()),
            self._array(loss.items.cpu()),
            self._arrays(loss.assignment),
            gradients=given,
        )
        return replace(arrays, **self._changes)

    def _arrays(self, assignment: Any) -> Assignment:
        return Assignment(**{name: self._array(getattr(assignment, name).detach().cpu()) for name in FIELDS})


def judged(adapter: Any) -> Any:
    return run_every_check(Subject(implementation_from(adapter, "mine"), "cpu"), BATCH)


@pytest.mark.parametrize("array", [Tensor.numpy, Capsule], ids=["numpy", "dlpack"])
def test_arrays_and_given_gradients_pass_every_check(array: Any):
    """Relations, devices and ways of calling too: the given gradients are scaled, added and retained."""
    assert not judged(WithoutGraph(array)).verdict.fails


def test_wrong_given_gradients_are_found():
    with pytest.raises(Failure, match="at stage gradients"):
        judged(WithoutGraph(factor=1.01))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"gradients": None}, r"does not require gradients.*gradients="),
        ({"gradients": ()}, r"Loss.gradients is \(\), expected one array for each of the 1 feature maps"),
        ({"gradients": []}, r"Loss.gradients is \[\], expected one array"),
        (
            {"gradients": (np.zeros(3, np.float32),) * 2},
            "has 2 elements, expected 1: one for each feature map",
        ),
        (
            {"gradients": (np.zeros(3, np.float32),)},
            r"Loss.gradients\[0\] is \(3,\) torch.float32, expected \(",
        ),
        ({"gradients": (None,)}, r"Loss.gradients\[0\] is None, expected"),
        ({"total": torch.zeros((), requires_grad=True)}, "return one of the two"),
        ({"items": np.array(["a", "b", "c"])}, "Loss.items is a ndarray that torch cannot read"),
    ],
)
def test_what_is_wrong_with_given_gradients_is_said(changes: dict[str, Any], message: str):
    with pytest.raises(Failure, match=message):
        judged(WithoutGraph(**changes))


@pytest.mark.parametrize(
    ("gradients", "message"),
    [
        ((), r"Loss.gradients is \(\), expected one array for each of the 1 feature maps, or None"),
        ([], r"Loss.gradients is \[\], expected"),
        ({}, r"Loss.gradients is \{\}, expected"),
        (np.zeros(0), r"Loss.gradients is array\(\[\], dtype=float64\), expected"),
        ((None,), "return one of the two"),
        ((None, None), "return one of the two"),
    ],
    ids=["tuple", "list", "dict", "array", "None", "wrong length"],
)
def test_gradients_beside_a_graph_do_not_switch_its_judging_off(gradients: Any, message: str):
    """The total has a graph, whose gradients would be found wrong: whatever else is given, it is an error."""

    class Detaches(ReferenceAdapter):
        def loss(self, *arguments: Any) -> Loss:
            loss = super().loss(*arguments)
            return replace(loss, total=loss.total * 2 - loss.total.detach(), gradients=gradients)

    with pytest.raises(Failure, match=message):
        judge_against_reference(Subject(implementation_from(Detaches(), "mine"), "cpu"), BATCH)


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.float32).reshape(2, 3)[::-1],
        np.arange(6, dtype=">f4").reshape(2, 3),
        np.broadcast_to(np.float32(3), (2, 3)),
        np.float32(2.5),
        np.array([True, False]),
        np.zeros((0, 4), np.float32),
    ],
    ids=["reversed", "byte-swapped", "read-only", "scalar", "mask", "empty"],
)
def test_an_array_becomes_a_tensor_of_its_numbers(array: Any):
    tensor = as_tensor("x", array)
    assert torch.equal(
        tensor, torch.tensor(np.ascontiguousarray(array).tolist()).reshape(np.shape(array)).to(tensor.dtype)
    )


def test_other_values_are_left_alone():
    for value in (None, 1.5, [1.0], "text"):
        assert as_tensor("x", value) is value


def test_a_framework_that_fails_to_export_is_named():
    class Broken:
        def __dlpack__(self, **options: Any) -> Any:
            raise BufferError("out of memory")

        def __dlpack_device__(self) -> Any:
            return (1, 0)

    with pytest.raises(ProtocolViolation, match=r"x is a Broken that torch cannot read .*out of memory"):
        as_tensor("x", Broken())
