"""Validation of the results of adapters: types, shapes, dtypes and devices.

A formal mistake with an unambiguous meaning (a mask of floats that are 0 or 1) is converted and recorded, so that the
values are judged too. Results that an implementation does not return are derived from its other results.
"""

from dataclasses import dataclass, field, fields, replace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, CheckedAssignment, Loss, Stages
from tal_conformance.core.task import DETECT, Task
from tal_conformance.implementations.errors import ProtocolViolation
from tal_conformance.implementations.guards.arrays import is_tensor

MASKS = ("candidates", "selected", "positives")
"""Fields of `Stages` that are masks."""


@dataclass
class Findings:
    """Formal mistakes and missing fields that the validation found in the results of one call.

    Attributes:
        mistakes: formal mistakes that were converted, as sentences.
        absent: names of the fields that the implementation left None.
    """

    mistakes: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)


def raise_mistake(findings: Findings) -> None:
    """Raise if the validation found a formal mistake.

    Raises:
        ProtocolViolation: there is a mistake; the message is the first mistake.
    """
    if findings.mistakes:
        raise ProtocolViolation(findings.mistakes[0])


def check_assignment(
    assignment: Any, inputs: AssignerInputs, exposes_stages: bool, findings: Findings | None = None
) -> CheckedAssignment:
    """Return the assignment with the types, shapes, dtypes and device of the protocol.

    Args:
        assignment: the value that the adapter returned.
        inputs: inputs of the assigner.
        exposes_stages: True if the adapter declares that its assignments carry `Stages`.
        findings: takes formal mistakes, which are converted, and absent fields; None to raise on both.

    Raises:
        ProtocolViolation: a field is wrong; the message has the field, the expected and the actual value.
    """
    if not isinstance(assignment, Assignment):
        raise ProtocolViolation(f"assign returned {_kind(assignment)}, expected an Assignment")
    images, anchors, classes = inputs.scores.shape
    truths, device = inputs.truth_boxes.shape[1], inputs.scores.device
    real = inputs.scores.dtype, inputs.truth_boxes.dtype
    finest = torch.promote_types(inputs.truth_boxes.dtype, inputs.scores.dtype)
    check = _Check(device, findings)
    boxes = check(
        "Assignment.boxes", assignment.boxes, tuple(inputs.boxes.shape), (inputs.truth_boxes.dtype, finest)
    )
    scores = check("Assignment.scores", assignment.scores, (images, anchors, classes), real)
    foreground = check("Assignment.foreground", assignment.foreground, (images, anchors), (torch.bool,))
    values: dict[str, Tensor | None] = {}
    for name in ("labels", "truth_index"):
        value = getattr(assignment, name)
        if value is None and findings is not None:
            findings.absent.append(f"Assignment.{name}")
            values[name] = None
        else:
            # TAL-EMPTY-1: without any ground truth no anchor is a positive, and labels and indices have no meaning.
            values[name] = check.integers(
                f"Assignment.{name}", value, (images, anchors), foreground, loose=not truths
            )
    if exposes_stages and truths and not isinstance(assignment.stages, Stages):
        raise ProtocolViolation(
            f"the adapter declares exposes_stages, but Assignment.stages is {_kind(assignment.stages)}, "
            "expected Stages"
        )
    stages = None
    if assignment.stages is not None:
        if not isinstance(assignment.stages, Stages):
            raise ProtocolViolation(f"Assignment.stages is {_kind(assignment.stages)}, expected Stages")
        stages = Stages(
            **{
                part.name: check(
                    f"Stages.{part.name}",
                    getattr(assignment.stages, part.name),
                    (images, truths, anchors),
                    (torch.bool,) if part.name in MASKS else real,
                )
                for part in fields(Stages)
            }
        )
    index = values["truth_index"]
    if index is None:
        index = owners_by_box(boxes, scores, foreground, values["labels"], inputs)
    labels = values["labels"]
    if labels is None:
        labels = _labels_of(index, inputs)
    return CheckedAssignment(labels, boxes, scores, foreground, index, stages)


def owners_by_box(
    boxes: Tensor, scores: Tensor, foreground: Tensor, labels: Tensor | None, inputs: AssignerInputs
) -> Tensor:
    """Return the index (B, A) of the ground truth that each anchor's target box belongs to; 0 on background.

    Of several ground truths with this box, the ground truth with the anchor's class is chosen; of several with this
    class, the ground truth with the largest predicted score. Equal ground truths are tied: any may own the anchor.

    Args:
        boxes: (B, A, 4) target boxes.
        scores: (B, A, C) target scores.
        foreground: (B, A) positives.
        labels: (B, A) target classes; None: the class of each anchor's target score, unless the score is 0.
        inputs: inputs of the assigner.
    """
    index = torch.zeros_like(foreground, dtype=torch.long)  # (B, A)
    truths = inputs.truth_boxes.shape[1]
    if not truths or not bool(foreground.any()):
        return index
    image, anchor = foreground.nonzero(as_tuple=True)  # (P,), (P,)
    classes = inputs.labels[image, :, 0].long()  # (P, M)
    distance = (
        (boxes[image, anchor][:, None].double() - inputs.truth_boxes[image].double()).abs().sum(-1)
    )  # (P, M)
    distance = distance.masked_fill(inputs.truth_mask[image, :, 0] == 0, torch.inf)
    if labels is None:
        best, own = scores[image, anchor].max(-1)  # (P,), (P,)
        same = (classes == own[:, None]) & (best > 0)[:, None]  # (P, M)
    else:
        same = classes == labels[image, anchor][:, None]
    valid = classes.clamp(0, inputs.scores.shape[2] - 1)
    predicted = inputs.scores[image, anchor].double().gather(1, valid).nan_to_num()  # (P, M)
    preference = 2.0 * same + predicted.clamp(0, 1)
    nearest = distance <= distance.amin(1, keepdim=True)
    index[image, anchor] = preference.masked_fill(~nearest, -1).argmax(1)
    return index


def _labels_of(index: Tensor, inputs: AssignerInputs) -> Tensor:
    """Return the class (B, A) of the ground truth with each index; 0 without ground truths."""
    truths = inputs.labels.shape[1]
    if not truths:
        return torch.zeros_like(index)
    return inputs.labels[..., 0].long().gather(1, index.long().clamp(0, truths - 1))


def check_inputs(seen: Any, own: AssignerInputs, findings: Findings | None = None) -> AssignerInputs:
    """Return the assigner's inputs `seen` that a loss exposes, with the shapes of the expected inputs `own`.

    Raises:
        ProtocolViolation: a field is wrong; the message has the field, the expected and the actual value.
    """
    if not isinstance(seen, AssignerInputs):
        raise ProtocolViolation(f"Loss.inputs is {_kind(seen)}, expected AssignerInputs")
    values: dict[str, Any] = {}
    for name in ("scores", "boxes", "anchors", "strides", "labels", "truth_boxes", "truth_mask"):
        expected = getattr(own, name)
        dtypes = expected.dtype, own.scores.dtype, own.truth_boxes.dtype
        check = _Check(expected.device, findings, counts=name in ("labels", "truth_mask"))
        values[name] = check(f"AssignerInputs.{name}", getattr(seen, name), tuple(expected.shape), dtypes)
    return AssignerInputs(**values, head=own.head, hyperparameters=own.hyperparameters)  # not the adapter's


def check_loss(
    loss: Any,
    feature_maps: tuple[Tensor, ...],
    task: Task = DETECT,
    differentiable: bool = True,
    findings: Findings | None = None,
    values_only: bool = False,
) -> Loss:
    """Return the loss with the type, shapes and device of the protocol.

    Args:
        loss: the copy of the value that the adapter returned, in which gradients have become a graph (`PlainCopies`).
        feature_maps: feature maps of the call.
        task: the loss family.
        differentiable: False if no feature map requires gradients, or gradients are disabled.
        findings: takes formal mistakes, which are converted, and absent fields; None to raise on both.
        values_only: True if the loss may have empty gradients, so that its values alone are judged.

    Raises:
        ProtocolViolation: a field is wrong; the message has the field, the expected and the actual value.
    """
    if not isinstance(loss, Loss):
        raise ProtocolViolation(f"loss returned {_kind(loss)}, expected a Loss")
    terms = (len(task.terms),)
    items: Any = loss.items
    total: Any = loss.total
    dtypes = feature_maps[0].dtype, torch.float32  # float32 is official code's choice, whatever the input
    check = _Check(feature_maps[0].device, findings)
    whole = is_tensor(total) and (total.ndim == 0 or tuple(total.shape) == (1,) != terms)
    total = check("Loss.total", total, () if whole or not is_tensor(total) else terms, dtypes)
    if items is None and findings is not None:
        findings.absent.append("Loss.items")
    else:
        items = check("Loss.items", items, terms, dtypes)
        if items.requires_grad:
            check.mistake("Loss.items require gradients (LOSS-GAIN-1): return items.detach()")
            items = items.detach()
    if loss.inputs is not None and loss.assignment is None:
        raise ProtocolViolation(
            "Loss.inputs is set, but Loss.assignment is None: return the assignment of these inputs as well"
        )
    if values_only and loss.gradients is not None:
        if findings is not None:
            findings.absent.append("Loss.gradients")
    elif differentiable and loss.gradients is not None:
        raise ProtocolViolation(
            f"Loss.gradients is {loss.gradients!r:.80}, expected one array for each of the {len(feature_maps)} feature "
            "maps, or None if Loss.total has a torch graph, which the suite differentiates"
        )
    elif differentiable and not total.requires_grad:
        raise ProtocolViolation(
            "Loss.total does not require gradients: it is detached from the feature maps. A loss without a torch graph "
            "returns its gradients, Loss(..., gradients=(...)): one array for each feature map"
        )
    return replace(loss, total=total, items=items)


@dataclass
class _Check:
    """Check of tensors of one device.

    Attributes:
        device: the expected device.
        findings: takes formal mistakes; None to raise on them.
        counts: True if integers and bools are accepted for floats, as formal mistakes.
    """

    device: torch.device
    findings: Findings | None
    counts: bool = False

    def mistake(self, text: str) -> None:
        """Record a formal mistake.

        Raises:
            ProtocolViolation: `findings` is None, so that mistakes are not recorded.
        """
        if self.findings is None:
            raise ProtocolViolation(text)
        if text not in self.findings.mistakes:
            self.findings.mistakes.append(text)

    def shaped(self, name: str, value: Any, shape: tuple[int, ...]) -> Tensor:
        """Return the value as a tensor of the shape; a further dimension of size 1 at the end is a formal mistake.

        Raises:
            ProtocolViolation: the value is not a tensor, or has another shape or device.
        """
        if not is_tensor(value):
            raise ProtocolViolation(f"{name} is {_kind(value)}, expected a tensor of shape {shape}")
        tensor: Tensor = value
        if tuple(tensor.shape) != shape:
            text = f"{name} has shape {tuple(tensor.shape)}, expected {shape}"
            if tuple(tensor.shape) != (*shape, 1):
                raise ProtocolViolation(text)
            self.mistake(text)
            tensor = tensor.squeeze(-1)
        if tensor.device != self.device:
            raise ProtocolViolation(f"{name} is on {tensor.device}, expected {self.device}")
        return tensor

    def __call__(
        self, name: str, value: Any, shape: tuple[int, ...], dtypes: tuple[torch.dtype, ...]
    ) -> Tensor:
        """Return the value as a tensor of the shape and of one of the dtypes.

        Args:
            name: name of the field, for the message.
            value: the field's value.
            shape: expected shape.
            dtypes: expected dtypes: bool, or floats of which the first is the usual one.

        Raises:
            ProtocolViolation: the value is wrong, and cannot be converted without ambiguity.
        """
        tensor = self.shaped(name, value, shape)
        if tensor.dtype in dtypes:
            return tensor
        text = f"{name} has dtype {tensor.dtype}, expected {dtypes[0]}"
        if dtypes[0] == torch.bool:
            clear = not tensor.is_complex() and bool(((tensor == 0) | (tensor == 1)).all())
        else:
            clear = tensor.is_floating_point() or (self.counts and not tensor.is_complex())
        if not clear:
            raise ProtocolViolation(text)
        self.mistake(text)
        return tensor.to(dtypes[0])

    def integers(
        self, name: str, value: Any, shape: tuple[int, ...], foreground: Tensor, loose: bool
    ) -> Tensor:
        """Return the value as a tensor of integers.

        Args:
            name: name of the field, for the message.
            value: the field's value.
            shape: expected shape.
            foreground: mask, of the same shape, of the anchors at which the value has a meaning.
            loose: accept any dtype.

        Raises:
            ProtocolViolation: the value is wrong, and cannot be converted without ambiguity.
        """
        tensor = self.shaped(name, value, shape)
        wrong = tensor.is_floating_point() or tensor.is_complex() or tensor.dtype == torch.bool
        if loose or not wrong:
            return tensor
        text = f"{name} has dtype {tensor.dtype}, expected an integer dtype"
        if not tensor.is_floating_point() or bool((tensor.round() != tensor)[foreground].any()):
            raise ProtocolViolation(text)
        self.mistake(text)
        return tensor.where(foreground, 0).long()


def _kind(value: Any) -> str:
    return "None" if value is None else f"a {type(value).__name__}"
