"""Every wrong value in every field that an implementation returns is reported with its name at the right stage.

The correct outcome is the reference's on a batch of two images with contested anchors. Each planted fault changes one
tensor; the tables below have the expected verdict, stage and message.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from tal_conformance.batches.content.truths import Truth
from tal_conformance.batches.recipe import Recipe
from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss, Stages
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.core.verdicts import Divergence, Verdict
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.implementations.errors import ImplementationFailed
from tal_conformance.implementations.execute import execute
from tal_conformance.implementations.protocol import Implementation, implementation_from
from tal_conformance.judgement.expectation import Expectation
from tal_conformance.judgement.judge import judge
from tal_reference import NEWEST, Head, Hyperparameters

RECIPE = Recipe(
    images=((Truth("huge"), Truth("huge", label=1, size=(9, 9))), (Truth("ordinary"),)),
    cells=(5, 5),
    strides=(8, 16),
    classes=2,
)
BATCH: Batch = RECIPE.build()
INPUTS = assigner_inputs(BATCH)
HONEST: Assignment = ReferenceAdapter().assign(INPUTS)
IMAGE, ANCHOR = 0, int(HONEST.foreground[0].nonzero()[0, 0])
OWNER = int(HONEST.truth_index[IMAGE, ANCHOR])
LABEL = int(HONEST.labels[IMAGE, ANCHOR])

Plant = Callable[[Tensor, tuple[int, ...]], Any]


def set_to(value: float) -> Plant:
    def plant(tensor: Tensor, place: tuple[int, ...]) -> Tensor:
        copy = tensor.detach().clone()
        copy[place] = value
        return copy

    return plant


def other_value(tensor: Tensor, place: tuple[int, ...]) -> Tensor:
    """Return a copy with another value at index `place`: 0 and 1 are exchanged, other numbers reduced by 1 %."""
    copy = tensor.detach().clone()
    whole = bool((copy[place] == 0) | (copy[place] == 1))
    copy[place] = 1 - copy[place].float() if whole else copy[place] * 0.99
    return copy


MALFORMED: dict[str, tuple[Plant, str]] = {
    "None": (lambda tensor, _: None, "is None, expected a tensor of shape"),
    "a list": (lambda tensor, _: tensor.tolist(), "is a list, expected a tensor of shape"),
    "fewer": (lambda tensor, _: tensor[..., :-1], "has shape .*, expected"),
    "more": (lambda tensor, _: torch.cat((tensor, tensor[:1])), "has shape .*, expected"),
    "another rank": (lambda tensor, _: tensor[None], "has shape .*, expected"),
    "another device": (lambda tensor, _: tensor.to("meta"), "is on meta, expected cpu"),
    "another dtype": (
        lambda tensor, _: tensor.to(torch.float64 if tensor.is_floating_point() else torch.float32),
        "has dtype torch.float.., expected",
    ),
    "complex": (lambda tensor, _: tensor.to(torch.complex64), "has dtype torch.complex64, expected"),
}
OPTIONAL = ("Assignment.labels", "Assignment.truth_index", "Loss.items")
"""Results that may be None."""
NOT_FINITE = {"NaN": float("nan"), "infinity": float("inf"), "minus infinity": float("-inf")}


@dataclass(frozen=True)
class Field:
    """A returned tensor: the index of the value to change, and the stage that must be reported for the change."""

    name: str
    place: tuple[int, ...]
    stage: str
    floats: bool = False


ASSIGNMENT = (
    Field("labels", (IMAGE, ANCHOR), "targets"),
    Field("boxes", (IMAGE, ANCHOR, 2), "targets", True),
    Field("scores", (IMAGE, ANCHOR, LABEL), "normalisation", True),
    Field("foreground", (IMAGE, ANCHOR), "targets"),
    Field("truth_index", (IMAGE, ANCHOR), "targets"),
)
STAGES = (
    Field("candidates", (IMAGE, OWNER, ANCHOR), "candidates"),
    Field("overlap", (IMAGE, OWNER, ANCHOR), "overlap", True),
    Field("metric", (IMAGE, OWNER, ANCHOR), "metric", True),
    Field("selected", (IMAGE, OWNER, ANCHOR), "top-k"),
    Field("positives", (IMAGE, OWNER, ANCHOR), "conflict"),
)
READ = (
    Field("scores", (IMAGE, ANCHOR, LABEL), "decode", True),
    Field("boxes", (IMAGE, ANCHOR, 2), "decode", True),
    Field("anchors", (ANCHOR, 0), "decode", True),
    Field("strides", (ANCHOR, 0), "decode", True),
    Field("labels", (IMAGE, OWNER, 0), "decode", True),
    Field("truth_boxes", (IMAGE, OWNER, 2), "decode", True),
    Field("truth_mask", (IMAGE, OWNER, 0), "decode", True),
)


class Double:
    """The reference with its assignment, assigner inputs or loss changed by the given functions."""

    name = "double"

    def __init__(
        self,
        assignment: Callable[[Assignment], Any] = lambda honest: honest,
        inputs: Callable[[AssignerInputs], Any] = lambda honest: honest,
        loss: Callable[[Loss, tuple[Tensor, ...]], Any] = lambda honest, maps: honest,
        exposes_stages: bool = True,
    ) -> None:
        self.assignment, self.inputs, self.changed = assignment, inputs, loss
        self.exposes_stages = exposes_stages

    def assign(self, inputs: AssignerInputs) -> Any:
        return self.assignment(ReferenceAdapter().assign(inputs))

    def loss(
        self, feature_maps: tuple[Tensor, ...], annotations: Tensor, head: Head, numbers: Hyperparameters
    ) -> Any:
        honest = ReferenceAdapter().loss(feature_maps, annotations, head, numbers)
        assignment = self.assignment(honest.assignment) if honest.assignment else None
        returned = Loss(honest.total, honest.items, assignment, self.inputs(assigner_inputs(BATCH)))
        return self.changed(returned, feature_maps)


def verdict(double: Any) -> tuple[Verdict, str, str]:
    """Return (verdict, name of the first diverging stage, message) of the adapter `double` on BATCH."""
    try:
        outcome = execute(implementation(double), BATCH)
        if outcome.formal:
            return Verdict.ERROR, "", outcome.formal[0]
        judged = judge(outcome, Expectation(BATCH, NEWEST))
    except Divergence as error:
        first = error.judgement.first
        return error.judgement.verdict, first.stage if first else "none", str(error)
    except ImplementationFailed as error:
        return Verdict.ERROR, "", str(error)
    return judged.verdict, "", ""


def implementation(double: Any) -> Implementation:
    return implementation_from(double, "double")


def in_assignment(field: Field, plant: Plant, **options: bool) -> Double:
    return Double(
        assignment=lambda honest: replace(
            honest, **{field.name: plant(getattr(honest, field.name), field.place)}
        ),
        **options,
    )


def in_stages(field: Field, plant: Plant) -> Double:
    def change(honest: Assignment) -> Assignment:
        assert honest.stages is not None
        spoilt = plant(getattr(honest.stages, field.name), field.place)
        return replace(honest, stages=replace(honest.stages, **{field.name: spoilt}))

    return Double(assignment=change)


def in_inputs(field: Field, plant: Plant) -> Double:
    return Double(
        inputs=lambda honest: replace(honest, **{field.name: plant(getattr(honest, field.name), field.place)})
    )


EVERYWHERE = [
    *[("Assignment", field, in_assignment) for field in ASSIGNMENT],
    *[("Stages", field, in_stages) for field in STAGES],
    *[("AssignerInputs", field, in_inputs) for field in READ],
]
every_field = pytest.mark.parametrize(
    ("owner", "field", "planted_in"),
    EVERYWHERE,
    ids=[f"{owner}.{field.name}" for owner, field, _ in EVERYWHERE],
)


def test_the_batch_has_what_the_tables_need():
    """BATCH has an anchor selected by two ground truths, two classes and padded ground truths."""
    assert HONEST.stages
    assert (HONEST.stages.selected.sum(1) > 1).any()
    assert HONEST.labels.unique().tolist() == [0, 1]
    assert (INPUTS.truth_mask == 0).any()


def test_the_honest_double_conforms():
    assert verdict(Double()) == (Verdict.EXACT, "", "")
    assert not verdict(Double(exposes_stages=False))[0].fails
    assert not verdict(Double(inputs=lambda honest: None))[0].fails


def test_no_field_is_forgotten():
    named = {f"{owner}.{field.name}" for owner, field, _ in EVERYWHERE}
    every = {
        f"{of.__name__}.{field.name}" for of in (Assignment, Stages, AssignerInputs) for field in fields(of)
    }
    assert every - named == {"Assignment.stages", "AssignerInputs.head", "AssignerInputs.hyperparameters"}


@every_field
@pytest.mark.parametrize("planted", MALFORMED)
def test_malformed(owner: str, field: Field, planted_in: Callable[..., Double], planted: str):
    plant, message = MALFORMED[planted]
    found, stage, text = verdict(planted_in(field, plant))
    if planted == "None" and f"{owner}.{field.name}" in OPTIONAL:
        assert not found.fails
        return
    assert (found, stage) == (Verdict.ERROR, "")
    assert text.startswith(f"{owner}.{field.name} {message.split(' ')[0]}"), text
    assert re.search(message, text), text


@every_field
def test_another_value(owner: str, field: Field, planted_in: Callable[..., Double]):
    found, stage, text = verdict(planted_in(field, other_value))
    assert (found, stage) == (Verdict.DIVERGENT, field.stage), text
    assert f"image {IMAGE}" in text or field.name in ("anchors", "strides")


FLOATS = [row for row in EVERYWHERE if row[1].floats]


@pytest.mark.parametrize(
    ("owner", "field", "planted_in"), FLOATS, ids=[f"{owner}.{field.name}" for owner, field, _ in FLOATS]
)
@pytest.mark.parametrize("planted", NOT_FINITE)
def test_not_finite(owner: str, field: Field, planted_in: Callable[..., Double], planted: str):
    found, stage, text = verdict(planted_in(field, set_to(NOT_FINITE[planted])))
    assert (found, stage) == (Verdict.ERROR, field.stage), text


# What a loss returns


def in_loss(**changed: Callable[[Loss, tuple[Tensor, ...]], Any]) -> Double:
    return Double(
        loss=lambda honest, maps: replace(
            honest, **{name: change(honest, maps) for name, change in changed.items()}
        )
    )


def item(number: int, factor: float) -> Double:
    return in_loss(items=lambda honest, _: honest.items * one_hot(number, factor))


def one_hot(number: int, factor: float) -> Tensor:
    return torch.ones(3).index_fill(0, torch.tensor(number), factor)


def nothing(maps: tuple[Tensor, ...]) -> Tensor:
    """Return a scalar 0 whose gradient with respect to the feature maps is NaN."""
    return (maps[0] - maps[0].detach()).abs().sqrt().sum()


LOSSES: dict[str, tuple[Double, Verdict, str, str]] = {
    "box item": (item(0, 1.001), Verdict.DIVERGENT, "box", "box loss is"),
    "cls item": (item(1, 1.001), Verdict.DIVERGENT, "cls", "cls loss is"),
    "dfl item": (item(2, 1.001), Verdict.DIVERGENT, "dfl", "dfl loss is"),
    "box item is NaN": (item(0, float("nan")), Verdict.ERROR, "box", "box loss is nan"),
    "cls item is infinite": (item(1, float("inf")), Verdict.ERROR, "cls", "cls loss is inf"),
    "dfl item is NaN": (item(2, float("nan")), Verdict.ERROR, "dfl", "dfl loss is nan"),
    "total": (in_loss(total=lambda honest, _: honest.total * 1.001), Verdict.DIVERGENT, "total", "total is"),
    "total is NaN": (
        in_loss(total=lambda honest, _: honest.total * torch.nan), Verdict.ERROR, "total", "total is nan",
    ),
    "total is infinite": (
        in_loss(total=lambda honest, _: honest.total * torch.inf), Verdict.ERROR, "total", "total is inf",
    ),
    "total is detached": (
        in_loss(total=lambda honest, _: honest.total.detach()), Verdict.ERROR, "",
        "Loss.total does not require gradients",
    ),
    "gradient of the class logits": (
        in_loss(total=lambda honest, maps: honest.total + 0.01 * (maps[0] - maps[0].detach())[:, -2:].sum()),
        Verdict.DIVERGENT, "gradients", "gradient of total on class logits",
    ),
    "gradient of the distance logits": (
        in_loss(total=lambda honest, maps: honest.total + 0.01 * (maps[0] - maps[0].detach())[:, :-2].sum()),
        Verdict.DIVERGENT, "gradients", "gradient of total on distance logits",
    ),
    "gradient is NaN": (
        in_loss(total=lambda honest, maps: honest.total + nothing(maps)),
        Verdict.ERROR, "gradients", "gradient of total on distance logits is (nan|inf)",
    ),
    "gradient is missing": (
        in_loss(total=lambda honest, maps: maps[0].sum() * 0 + honest.total.sum().item()), Verdict.ERROR, "",
        r"Loss.total has no gradient on feature map 1 \(LOSS-GRAD-1: zero, not None\)",
    ),
    "gradients are given beside a graph": (
        in_loss(gradients=lambda _, maps: tuple(map(torch.zeros_like, maps))), Verdict.ERROR, "",
        "Loss.gradients is set, but Loss.total requires gradients: return one of the two",
    ),
    "total of two": (
        in_loss(total=lambda honest, _: honest.total[:2]), Verdict.ERROR, "", r"Loss.total has shape \(2,\)",
    ),
    "total is a number": (
        in_loss(total=lambda honest, _: float(honest.total.sum().detach())), Verdict.ERROR, "", "Loss.total is a float",
    ),
    "total on another device": (
        in_loss(total=lambda honest, _: honest.total.to("meta")), Verdict.ERROR, "", "Loss.total is on meta",
    ),
    "total of another dtype": (
        in_loss(total=lambda honest, _: honest.total.double()), Verdict.ERROR, "", "Loss.total has dtype",
    ),
    "four items": (
        in_loss(items=lambda honest, _: torch.cat((honest.items, honest.items[:1]))), Verdict.ERROR, "",
        r"Loss.items has shape \(4,\), expected \(3,\)",
    ),
    "items on another device": (
        in_loss(items=lambda honest, _: honest.items.to("meta")), Verdict.ERROR, "", "Loss.items is on meta",
    ),
    "items of another dtype": (
        in_loss(items=lambda honest, _: honest.items.int()), Verdict.ERROR, "", "Loss.items has dtype",
    ),
    "None": (Double(loss=lambda honest, _: None), Verdict.ERROR, "", "loss returned None, expected a Loss"),
    "a tuple": (
        Double(loss=lambda honest, _: (honest.total, honest.items)), Verdict.ERROR, "", "loss returned a tuple",
    ),
    "inputs that are none": (
        Double(inputs=lambda honest: {"scores": honest.scores}), Verdict.ERROR, "",
        "Loss.inputs is a dict, expected AssignerInputs",
    ),
    "an assignment that is none": (
        Double(assignment=lambda honest: (honest.labels, honest.boxes)), Verdict.ERROR, "",
        "assign returned a tuple, expected an Assignment",
    ),
    "stages of another kind": (
        Double(assignment=lambda honest: replace(honest, stages={"overlap": 1}), exposes_stages=False),
        Verdict.ERROR, "",
        "Assignment.stages is a dict, expected Stages",
    ),
    "stages that are none": (
        Double(assignment=lambda honest: replace(honest, stages=None)), Verdict.ERROR, "",
        "the adapter declares exposes_stages, but Assignment.stages is None, expected Stages",
    ),
}  # fmt: skip


@pytest.mark.parametrize("planted", LOSSES)
def test_loss(planted: str):
    double, expected, stage, message = LOSSES[planted]
    found, first, text = verdict(double)
    assert (found, first) == (expected, stage), text
    assert re.search(message, text), text


def in_loss_field(name: str, plant: Plant) -> Double:
    return in_loss(**{name: lambda honest, _: plant(getattr(honest, name), ())})


@pytest.mark.parametrize("name", ["total", "items"])
@pytest.mark.parametrize("planted", MALFORMED)
def test_malformed_loss(name: str, planted: str):
    """A loss whose total or items are None, or of another type, shape, device or dtype, is an error."""
    plant, message = MALFORMED[planted]
    found, stage, text = verdict(in_loss_field(name, plant))
    if planted == "None" and f"Loss.{name}" in OPTIONAL:
        assert not found.fails
        return
    assert (found, stage) == (Verdict.ERROR, ""), text
    assert re.search(f"^Loss.{name} {message}", text), text


@pytest.mark.parametrize("planted", NOT_FINITE)
@pytest.mark.parametrize(("number", "stage"), [(0, "box"), (1, "cls"), (2, "dfl")])
def test_an_item_that_is_no_number(number: int, stage: str, planted: str):
    double = in_loss(items=lambda honest, _: set_to(NOT_FINITE[planted])(honest.items, (number,)))
    found, first, text = verdict(double)
    assert (found, first) == (Verdict.ERROR, stage), text


@pytest.mark.parametrize("planted", NOT_FINITE)
def test_a_total_that_is_no_number(planted: str):
    double = in_loss(total=lambda honest, _: honest.total + NOT_FINITE[planted])
    found, first, text = verdict(double)
    assert (found, first) == (Verdict.ERROR, "total"), text


def test_no_field_of_a_loss_is_forgotten():
    """Every field of `Loss` is covered by a test in this module, and `branches` by those of judgement/test_branches."""
    here = {"total", "items", "assignment", "inputs", "gradients"}
    assert {field.name for field in fields(Loss)} == here | {"branches"}


class LossAlone:
    """The reference's loss without its assignment, with items multiplied by `factors`."""

    def __init__(self, factors: Tensor) -> None:
        self.factors = factors

    def loss(self, *arguments: Any) -> Loss:
        honest = ReferenceAdapter().loss(*arguments)
        return Loss(honest.total, honest.items * self.factors)


@pytest.mark.parametrize("factor", [0.5, 2.0])
def test_a_hidden_assignment_hides_no_wrong_item(factor: float):
    """A loss without exposed assignment and inputs, with one item halved or doubled, diverges at that item."""
    for number, stage in enumerate(("box", "cls", "dfl")):
        assert verdict(LossAlone(one_hot(number, factor)))[:2] == (Verdict.DIVERGENT, stage)


# How an implementation behaves


def test_what_it_raises_is_told_with_its_traceback():
    def raises(honest: Assignment) -> Assignment:
        raise ValueError("no such thing as an anchor")

    with pytest.raises(ImplementationFailed, match="raised ValueError: no such thing as an anchor") as caught:
        execute(implementation(Double(assignment=raises)), BATCH)
    assert "in raises" in (caught.value.details or "")


def test_it_cannot_change_the_batch():
    before = BATCH.id

    class Vandal(Double):
        def assign(self, inputs: AssignerInputs) -> Any:
            honest = super().assign(inputs)
            for tensor in vars(inputs).values():
                if isinstance(tensor, Tensor):
                    tensor.zero_()
            return honest

        loss = None  # type: ignore[assignment]

    assert verdict(Vandal()) == (Verdict.ERROR, "", "changed its input scores")
    assert replace(BATCH).id == before


def test_background_has_neither_label_box_nor_owner():
    """TAL-TGT-1: arbitrary labels, boxes and ground truth indices on background conform."""

    def noise(honest: Assignment) -> Assignment:
        background = ~honest.foreground
        return replace(
            honest,
            labels=honest.labels.masked_fill(background, 1),
            truth_index=honest.truth_index.masked_fill(background, 77),
            boxes=honest.boxes.masked_fill(background[..., None], torch.nan),
        )

    assert verdict(Double(assignment=noise))[0] is Verdict.EXACT
    assert not verdict(Double(assignment=noise, exposes_stages=False))[0].fails
