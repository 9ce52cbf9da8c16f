"""The reference with a planted fault, as an implementation under test."""

from dataclasses import replace

from torch import Tensor

from tal_conformance.core.batch import Batch
from tal_conformance.core.outcome import AssignerInputs, Assignment, Loss
from tal_conformance.core.reference_inputs import assigner_inputs
from tal_conformance.core.task import StageName, task_of
from tal_conformance.implementations.adapters.reference import ReferenceAdapter
from tal_conformance.mutation.planted_faults.fault import Fault
from tal_reference import Head, Hyperparameters


class FaultyReference(ReferenceAdapter):
    """The reference with a planted fault.

    Attributes:
        fault: the fault that is planted during every call.
        exposes_stages: True if results contain the stages of the assigner, not only its outputs.
    """

    def __init__(self, fault: Fault, exposes_stages: bool = True) -> None:
        super().__init__()
        self.fault = fault
        self.name = fault.name
        self.exposes_stages = exposes_stages

    def assign(self, inputs: AssignerInputs) -> Assignment:
        """Run the reference's assigner with the fault planted."""
        with self.fault.planted():
            return self._visible(super().assign(inputs))

    def loss(
        self,
        feature_maps: tuple[Tensor, ...],
        annotations: Tensor,
        head: Head,
        hyperparameters: Hyperparameters,
    ) -> Loss:
        """Run the reference's loss with the fault planted. Expose the assigner's inputs if the fault changes them."""
        inputs = None
        with self.fault.planted():
            loss = super().loss(feature_maps, annotations, head, hyperparameters)
            if self.exposes_stages and self.fault.stage == StageName.DECODE:
                task = task_of(head, annotations.shape[1]).name  # of a branch, detection
                inputs = assigner_inputs(Batch(feature_maps, annotations, head, hyperparameters, task=task))
        assignment = None if loss.assignment is None else self._visible(loss.assignment)
        branches = None if loss.branches is None else dict(map(self._visible_branch, loss.branches.items()))
        return Loss(loss.total, loss.items, assignment, inputs, branches=branches)

    def _visible_branch(self, named: tuple[str, Loss]) -> tuple[str, Loss]:
        """Return the name and the loss of a branch, whose assignment is made visible as `exposes_stages` says."""
        name, loss = named
        return name, replace(loss, assignment=self._visible(loss.assignment) if loss.assignment else None)

    def _visible(self, assignment: Assignment) -> Assignment:
        """Return a detached copy of an assignment, with its stages only if `exposes_stages` is True."""
        stages = assignment.stages if self.exposes_stages else None
        fields = {
            name: getattr(assignment, name)
            for name in ("labels", "boxes", "scores", "foreground", "truth_index")
        }
        return Assignment(**{name: value.detach() for name, value in fields.items()}, stages=stages)


class FaultyAssigner:
    """An implementation with only the assigner of a faulty reference, so that its loss is not tested."""

    def __init__(self, whole: FaultyReference) -> None:
        self.name, self.version, self.dialect = whole.name, whole.version, whole.dialect
        self.exposes_stages = whole.exposes_stages
        self.assign = whole.assign
