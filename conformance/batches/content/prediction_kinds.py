"""The kinds of generated predictions, such as `near` and `saturated`, by name, for every task."""

from tal_conformance.batches.content.predictions import PREDICTION_KINDS
from tal_conformance.batches.content.turned_predictions import TURNED_PREDICTION_KINDS
from tal_conformance.core.task import DETECT, E2E, OBB, POSE, POSE26, SEGMENT, SEGMENT26

PREDICTION_KINDS_BY_TASK = {
    DETECT.name: PREDICTION_KINDS,
    OBB.name: TURNED_PREDICTION_KINDS,
    E2E.name: PREDICTION_KINDS,
    POSE.name: PREDICTION_KINDS,
    POSE26.name: PREDICTION_KINDS,
    SEGMENT.name: PREDICTION_KINDS,
    SEGMENT26.name: PREDICTION_KINDS,
}
"""The kinds of predictions of every task, by name."""
