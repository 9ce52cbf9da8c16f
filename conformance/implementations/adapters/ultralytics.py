"""Ultralytics, every release: the installed one in this process, any other as `ultralytics==X.Y.Z` in a worker.

Releases differ in the module of their loss (`CRITERIA`), and in its inputs and results:

- up to 8.3.253 the loss reads feature maps, from 8.4.0 boxes and scores that are split and flattened;
- up to 8.3.253 the loss of rotated boxes has no angle term;
- from 8.4.104 the logged items have names.
"""

import importlib
import inspect
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from importlib import metadata
from types import ModuleType, SimpleNamespace
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.task import DETECT, E2E, KEYPOINT_COLUMNS, OBB, POSE26, SEGMENT26, TASKS, task_of
from tal_conformance.implementations.adapters.criterion_adapter import CriterionAdapter, model_with
from tal_conformance.implementations.adapters.stage_recorder import (
    RecordingAssigner,
    has_built_in_exponents,
    loss_arguments,
)
from tal_conformance.implementations.adapters.ultralytics_criteria import (
    CriterionOfTasks,
    EndToEndCriterion,
    update_weights,
)
from tal_conformance.implementations.adapters.ultralytics_losses import (
    CLASS_WEIGHTS,
    CLASS_WEIGHTS_OF_DETECTION,
    CRITERIA,
    FIELD_NAMES,
    SIZE_FROM_MAPS,
    SPLIT_PREDICTIONS,
    Version,
    criterion_of,
    leading_numbers,
)
from tal_conformance.implementations.errors import UnknownImplementation
from tal_conformance.implementations.protocol import EVERY
from tal_conformance.implementations.ultralytics_environment import configure_ultralytics
from tal_reference import NEWEST, Head, Hyperparameters, input_size, make_anchors
from tal_reference.end_to_end import BRANCHES, branch_hyperparameters
from tal_reference.masks import split_rows

FIRST_OF_NEWEST_DIALECT: Version = (8, 4, 128)
"""First release of the newest dialect (specification section 8)."""


class UltralyticsAdapter(CriterionAdapter):
    """The losses and the assigners of a release of Ultralytics, one pair for each task.

    The task of a call follows from its head, and from the numbers of columns of its annotation rows and of its feature
    maps; that of an assigner's call from the number of columns of its boxes.

    Args:
        version: version of the release on the import path; by default the version of the installed release.
        exposes_stages: as in `CriterionAdapter`.
        task: key of `CRITERIA`: the task of this adapter's own loss. An adapter of detection has the
            losses of the other tasks too.

    Raises:
        UnknownImplementation: no version is given, and the installed release is missing, fails to import or is too old.
        ImportError: the version on the import path is not the given version.
    """

    name = "ultralytics"
    precisions = EVERY
    dialect = NEWEST

    def __init__(
        self, version: str | None = None, exposes_stages: bool = True, task: str = DETECT.name
    ) -> None:
        if version is None:
            version = installed_release()
            assigner_module, loss_module = load_release()
        else:
            assigner_module, loss_module = import_release(version)
        super().__init__(version, assigner_module, exposes_stages)
        self._split_predictions = leading_numbers(version) >= SPLIT_PREDICTIONS
        self._numbers = leading_numbers(version)
        criterion = criterion_of(version, task)
        self._loss_module, self._loss_class = loss_module, criterion.loss_class
        self._assigner_class = getattr(assigner_module, criterion.assigner_class)
        self._assigner_has_topk2 = "topk2" in inspect.signature(self._assigner_class.__init__).parameters
        self._task = TASKS[task]
        self._others = {
            name: ADAPTERS.get(name, UltralyticsAdapter)(version, exposes_stages, name)
            for name in (CRITERIA if task == DETECT.name else ())
            if name != task and leading_numbers(version) >= CRITERIA[name][-1].first
        }
        self.tasks = (task, *self._others)
        self.class_weights = tuple(
            name
            for name in self.tasks
            if self._numbers >= CLASS_WEIGHTS.get(name, CLASS_WEIGHTS_OF_DETECTION)
        )

    @property
    def precisions_by_task(self) -> dict[str, tuple[str, ...]]:
        """Precisions of tasks that do not accept all: the assigner with masks raises in float64."""
        accepted = tuple(name for name in EVERY if name != "float64")
        return {SEGMENT26.name: accepted} if SEGMENT26.name in self.tasks else {}

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Call the assigner of the task whose boxes the inputs have."""
        rotated = inputs.boxes.shape[-1] == len(OBB.box_columns)
        own = self._others.get(OBB.name, self) if rotated else self
        return super().assign(inputs) if own is self else own.assign(inputs)

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the loss of the task whose annotation rows are given."""
        arguments = feature_maps, annotations, head, hyperparameters
        own = self._others.get(task_of(head, annotations.shape[1], len(feature_maps)).name, self)
        return super().loss(*arguments) if own is self else own.loss(*arguments)

    def make(
        self, head: Head, hyperparameters: Hyperparameters
    ) -> Callable[[tuple[Tensor, ...], Tensor], Loss]:
        """Return a criterion that calls the release's criterion of the task to which its annotation rows belong."""
        others = {name: other.make(head, hyperparameters) for name, other in self._others.items()}
        return CriterionOfTasks(super().make(head, hyperparameters), others, head)

    def _predictions(self, feature_maps: tuple[Tensor, ...], head: Head) -> Any:
        """Return the output that the release's head passes to the loss in training."""
        if not self._split_predictions:
            return list(feature_maps)
        count, of_image = len(head.strides), self._task.image_fields
        fields = [field for field in self._task.fields if field not in of_image]
        flat = torch.cat([level.flatten(2) for level in feature_maps[:count]], 2)  # (B, channels, A)
        parts = (*flat.split([field.width(head) for field in fields], 1), *feature_maps[count:])
        names = (FIELD_NAMES[field.name] for field in (*fields, *of_image))
        return {**dict(zip(names, parts, strict=True)), "feats": list(feature_maps[:count])}

    def _targets(self, annotations: Tensor, head: Head, images: int) -> Any:
        """Return the annotations as the release's data loader passes them, with the masks in the head's encoding."""
        if not self._task.has_masks:
            return super()._targets(annotations, head, images)
        rows, masks = split_rows(annotations, images, head)
        return super()._targets(rows, head, images) | {"masks": masks}

    def _rows(self, annotations: Tensor) -> Any:
        """Return the annotations in the format of the release's data loader; keypoints follow the boxes in a row."""
        if not self._task.has_keypoints:
            return super()._rows(annotations)
        columns = self._task.annotation_columns
        keypoints = annotations[:, columns:].unflatten(1, (-1, KEYPOINT_COLUMNS))  # (N, K, 3)
        return super()._rows(annotations[:, :columns]) | {"keypoints": keypoints}

    def _new_assigner(self, head: Head, hyperparameters: Hyperparameters) -> Any:
        """Return the release's assigner with the given hyperparameters.

        Raises:
            NotImplementedError: topk2 is set, which the release does not support (TAL-CONF-2).
        """
        if not self._assigner_has_topk2:
            return super()._new_assigner(head, hyperparameters)
        return self._assigner_class(
            topk=hyperparameters.topk,
            num_classes=head.classes,
            alpha=hyperparameters.alpha,
            beta=hyperparameters.beta,
            stride=list(head.strides),
            topk2=hyperparameters.topk2,
        )

    def _make_criterion(self, head: Head, hyperparameters: Hyperparameters, device: torch.device) -> Any:
        """Return the release's criterion (loss object), with a new assigner if its own lacks the hyperparameters.

        Raises:
            NotImplementedError: topk2 is set, which the release does not support (TAL-CONF-2).
        """
        model = _model(head, hyperparameters, device)
        loss_class: Any = getattr(self._loss_module, self._loss_class)
        arguments = loss_arguments(hyperparameters)
        if has_built_in_exponents(hyperparameters) and _accepts(loss_class, arguments):
            return loss_class(model, **arguments)
        criterion = loss_class(model)
        criterion.assigner = self._new_assigner(head, hyperparameters)
        return criterion


class EndToEndAdapter(UltralyticsAdapter):
    """The end-to-end loss of a release: two losses of detection, and their sum.

    Inputs, stages and outputs of the assigners, and the losses of the branches, are recorded while the release's own
    object computes.
    """

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the loss of both branches."""
        return CriterionAdapter.loss(self, feature_maps, annotations, head, hyperparameters)

    def make(
        self, head: Head, hyperparameters: Hyperparameters
    ) -> Callable[[tuple[Tensor, ...], Tensor], Loss]:
        """Return the release's criterion, which can be updated after epochs."""
        return EndToEndCriterion(self, head, hyperparameters)

    def _predictions(self, feature_maps: tuple[Tensor, ...], head: Head) -> Any:
        """Return the output that the release's end-to-end head passes to the loss in training."""
        levels = len(head.strides)
        parts = feature_maps[:levels], feature_maps[levels:]
        return {
            name: super(EndToEndAdapter, self)._predictions(maps, head)
            for name, maps in zip(BRANCHES, parts, strict=True)
        }

    def _call(
        self,
        made: tuple[Any, Any],
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        criterion, branch_recorders = made
        loss = super()._call((criterion, None), feature_maps, annotations, head, hyperparameters)
        if branch_recorders is None:
            return loss
        strides = make_anchors(feature_maps[: len(head.strides)], head).strides
        branches = {}
        for name, (branch, recorder) in branch_recorders.items():
            total, items = branch.result
            logged = torch.stack(list(items.values())) if isinstance(items, dict) else items
            inputs = recorder.inputs(strides, head, hyperparameters)
            branches[name] = Loss(total, logged, recorder.assignment(), inputs)
        return Loss(loss.total, loss.items, branches=branches)

    def _new_criterion(
        self, head: Head, hyperparameters: Hyperparameters, device: torch.device
    ) -> tuple[Any, Any]:
        """Return a new criterion after its updates; for each branch, its recorded loss and its assigner's recorder."""
        criterion = self._make_criterion(head, hyperparameters, device)
        if not self.exposes_stages:
            return criterion, None
        branch_recorders = {}
        for name in BRANCHES:
            branch = getattr(criterion, name)
            recorder = self.recorder(self._assigner_module, branch.assigner)
            recorder.attach()
            branch_recorders[name] = RecordedLoss(branch), recorder
            setattr(criterion, name, branch_recorders[name][0])
        return criterion, branch_recorders

    def _make_criterion(self, head: Head, hyperparameters: Hyperparameters, device: torch.device) -> Any:
        """Return the release's criterion, updated as often as the hyperparameters say (E2E-5)."""
        criterion = getattr(self._loss_module, self._loss_class)(_model(head, hyperparameters, device))
        if not has_built_in_exponents(hyperparameters):
            for name, numbers in branch_hyperparameters(hyperparameters).items():
                getattr(criterion, name).assigner = self._new_assigner(head, numbers)
        update_weights(criterion, hyperparameters, times=hyperparameters.updates)
        return criterion


class RotatedRecorder(RecordingAssigner):
    """Recorder of an assigner of rotated boxes, which until 8.4.38 widens small ground truths in place (OBB-CAND-1).

    The recorded ground truths are those with which the assigner computes overlaps and targets.
    """

    def _record(self, function: Callable[..., Any], arguments: tuple[Any, ...], **named: Any) -> Any:
        returned = super()._record(function, arguments, **named)
        self.inputs_read[4] = arguments[4].detach().clone()
        return returned


class RotatedAdapter(UltralyticsAdapter):
    """The loss of rotated boxes of a release, in the form that it had before 8.4.0 and has since."""

    recorder = RotatedRecorder

    def _predictions(self, feature_maps: tuple[Tensor, ...], head: Head) -> Any:
        """Return the output that the release's head passes to the loss in training: until 8.4.0 maps and angles."""
        if self._split_predictions:
            return super()._predictions(feature_maps, head)
        angles = torch.cat([level[:, -1:].flatten(2) for level in feature_maps], 2)  # (B, 1, A)
        return [level[:, :-1] for level in feature_maps], angles

    def _targets(self, annotations: Tensor, head: Head, images: int) -> Any:
        """Return the annotations as the release's data loader passes them, with the size of every image."""
        targets = super()._targets(annotations, head, images)
        if not SPLIT_PREDICTIONS <= self._numbers < SIZE_FROM_MAPS:
            return targets
        return targets | {"resized_shape": [self._size] * images}

    def _call(
        self,
        made: tuple[Any, Any],
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Return the loss; where the release has no angle loss, its item is 0 (OBB-ANG-1)."""
        self._size = input_size(feature_maps, head)
        loss = super()._call(made, feature_maps, annotations, head, hyperparameters)
        if self._split_predictions:
            return loss
        total = loss.total if loss.total.ndim == 0 else with_zero(loss.total)
        return replace(loss, total=total, items=None if loss.items is None else with_zero(loss.items))


class AssigningPartsAdapter(UltralyticsAdapter):
    """The losses of YOLO26 whose keypoints or masks take part in the assignment (P26-3, S26-1).

    Their assigners get keypoints or masks from the loss alone, so that only the loss is called.
    """

    def _make_criterion(self, head: Head, hyperparameters: Hyperparameters, device: torch.device) -> Any:
        """Return the release's criterion, whose own assigner gets the exponents."""
        loss_class: Any = getattr(self._loss_module, self._loss_class)
        criterion = loss_class(_model(head, hyperparameters, device), **loss_arguments(hyperparameters))
        criterion.assigner.alpha, criterion.assigner.beta = hyperparameters.alpha, hyperparameters.beta
        return criterion


def with_zero(terms: Tensor) -> Tensor:
    """Return loss terms (3,) with the angle loss of releases that have none: 0."""
    return torch.cat((terms, terms.new_zeros(1)))


class RecordedLoss:
    """The loss of one branch of an end-to-end criterion, whose latest result is stored.

    Args:
        branch: the release's own loss of the branch.

    Attributes:
        result: total and items of the latest call.
    """

    def __init__(self, branch: Any) -> None:
        self._branch, self.result = branch, (torch.empty(0), torch.empty(0))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._branch, name)

    def __call__(self, *arguments: Any) -> Any:
        """Call the branch's loss, as releases before 8.4.0 do, and store its result."""
        self.result = self._branch(*arguments)
        return self.result

    def loss(self, *arguments: Any) -> Any:
        """Call the method `loss` of the branch's loss, as releases since 8.4.0 do, and store its result."""
        self.result = self._branch.loss(*arguments)
        return self.result


ADAPTERS: dict[str, type[UltralyticsAdapter]] = {
    E2E.name: EndToEndAdapter,
    OBB.name: RotatedAdapter,
    POSE26.name: AssigningPartsAdapter,
    SEGMENT26.name: AssigningPartsAdapter,
}
"""Adapters of the tasks whose criterion is not called as that of detection."""


def _model(head: Head, hyperparameters: Hyperparameters, device: torch.device) -> SimpleNamespace:
    """Return a stub of a model that ends with the given head, and that was configured with the hyperparameters."""
    arguments = SimpleNamespace(
        box=hyperparameters.box_gain,
        cls=hyperparameters.cls_gain,
        dfl=hyperparameters.dfl_gain,
        angle=hyperparameters.angle_gain,
        pose=hyperparameters.pose_gain,
        kobj=hyperparameters.kobj_gain,
        epochs=hyperparameters.epochs,
        min_memory=False,  # read by the first releases
    )
    model = model_with(head, device, args=arguments)
    if head.class_weights is not None:
        model.class_weights = torch.tensor(head.class_weights, device=device)
    if head.overlapping_masks is not None:
        model.args.overlap_mask = head.overlapping_masks
    if head.keypoints is not None:
        model.model[-1].kpt_shape = list(head.keypoints)
    if head.keypoint_sigmas is not None:
        model.kpt_oks_sigmas = torch.tensor(head.keypoint_sigmas, device=device)
    return model


def _accepts(loss_class: Any, arguments: dict[str, int]) -> bool:
    return not arguments or set(arguments) <= set(inspect.signature(loss_class).parameters)


def installed_release() -> str:
    """Return the version of the installed release.

    Raises:
        UnknownImplementation: no release is installed, or the installed release is older than the newest dialect.
    """
    try:
        version = metadata.version("ultralytics")
    except metadata.PackageNotFoundError as error:
        raise UnknownImplementation("ultralytics is not installed: run `pip install ultralytics`") from error
    numbers = tuple(int(part) for part in version.split(".")[:3] if part.isdigit())
    if numbers < FIRST_OF_NEWEST_DIALECT:
        first = ".".join(map(str, FIRST_OF_NEWEST_DIALECT))
        raise UnknownImplementation(
            f"ultralytics {version} is installed; expected {first} or newer: older releases have another dialect. "
            f"Upgrade it, or select the older release with --implementation ultralytics=={version}"
        )
    return version


@cache
def load_release() -> tuple[ModuleType, ModuleType]:
    """Import the installed release's assigner and loss modules, without touching the user's settings or the network.

    Raises:
        UnknownImplementation: the import fails.
    """
    configure_ultralytics()
    try:
        from ultralytics.utils import loss, tal
    except Exception as error:
        raise UnknownImplementation(
            f"importing ultralytics raised {type(error).__name__}: {error}"
        ) from error
    return tal, loss


def import_release(version: str) -> tuple[ModuleType, ModuleType]:
    """Import the assigner and loss modules of the release on the import path.

    Raises:
        ImportError: the release on the import path has another version.
    """
    found = importlib.import_module("ultralytics").__version__
    if found != version:
        raise ImportError(f"expected ultralytics {version}, imported {found}")
    criterion = criterion_of(version)
    return (
        importlib.import_module(criterion.assigner_module),
        importlib.import_module(criterion.loss_module),
    )
