"""Batches out of other people's trainings: listening to the official loss, and what of it is kept as case files.

    from conformance.recorder import recording

    with recording("recorded"):
        YOLO("yolov8n.yaml").train(data="my.yaml")

The same from a shell: `python -m conformance record -- yolo detect train data=my.yaml`.
"""

from conformance.recorder.calls import Call, CannotRecord, feature_maps_of, listening
from conformance.recorder.training import Recording, recording

__all__ = ["Call", "CannotRecord", "Recording", "feature_maps_of", "listening", "recording"]
