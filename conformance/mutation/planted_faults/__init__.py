"""Planted faults: the reference with one line changed. The index lists the faults; other modules contain their code.

A fault replaces named functions of the reference only while the faulty implementation runs. The judge uses the original
functions. A fault in the handling of calls, or in state that persists between calls, is a function that wraps the
reference's loss.
"""

from tal_conformance.core.task import DETECT, E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26
from tal_conformance.mutation.planted_faults import (  # noqa: F401 (enter faults)
    annotations,
    assignment,
    calling,
    chunks,
    class_weights,
    counters,
    decoding,
    heads,
    loss,
    precision,
    rewrites,
    state,
)
from tal_conformance.mutation.planted_faults.assigning_parts import (
    ASSIGNING_MASK_FAULTS,
    ASSIGNING_POSE_FAULTS,
)
from tal_conformance.mutation.planted_faults.end_to_end import END_TO_END_FAULTS
from tal_conformance.mutation.planted_faults.end_to_end_use import PROGRESS_FAULTS
from tal_conformance.mutation.planted_faults.fault import ENTERED, Fault
from tal_conformance.mutation.planted_faults.faulty_criterion import USAGE_FAULTS
from tal_conformance.mutation.planted_faults.faulty_reference import FaultyAssigner, FaultyReference
from tal_conformance.mutation.planted_faults.index import INDEX
from tal_conformance.mutation.planted_faults.keypoints import POSE_FAULTS
from tal_conformance.mutation.planted_faults.masks import MASK_FAULTS
from tal_conformance.mutation.planted_faults.rotated import ROTATED_FAULTS

FAULTS: dict[str, Fault] = {name: ENTERED[name] for name in INDEX}
"""Every fault of the detection task by name, in the order of the stages."""
FAULTS_OF_USE: dict[str, Fault] = {name: fault.as_fault() for name, fault in USAGE_FAULTS.items()}
"""Every fault in the handling of calls, or in the state between calls, by name."""
FAULTS_BY_TASK = {
    DETECT.name: FAULTS,
    OBB.name: ROTATED_FAULTS,
    E2E.name: END_TO_END_FAULTS,
    POSE.name: POSE_FAULTS,
    SEGMENT.name: MASK_FAULTS,
    POSE26.name: ASSIGNING_POSE_FAULTS,
    SEGMENT26.name: ASSIGNING_MASK_FAULTS,
}
"""The faults of each task: a dictionary of faults by name, by the name of the task."""

__all__ = [
    "FAULTS",
    "FAULTS_BY_TASK",
    "FAULTS_OF_USE",
    "INDEX",
    "PROGRESS_FAULTS",
    "Fault",
    "FaultyAssigner",
    "FaultyReference",
]
