"""The recorded batches of this project: inputs of losses while Ultralytics' trainer trained on drawn rectangles.

The five batches of detection are the first step, a step without ground truths, the step with the most ground truths,
and two steps under automatic mixed precision.
`python -m tal_conformance.training.rectangles FOLDER` trains and records them again, with identical files on the same
processor. The batches of other tasks come from a YOLO26n, a YOLOv8n-OBB and a YOLO26n-OBB, which
`python -m tal_conformance.training.drawn_families FOLDER` trains on upright and turned rectangles. Batches of a
YOLOv8n-seg and a YOLOv8n-pose, which it records too, are too large to ship.
"""

from pathlib import Path

from tal_conformance.core.task import DETECT

FOLDER = Path(__file__).parent / "data" / "recorded"


def recorded_cases(task: str = DETECT.name) -> list[Path]:
    """Return the paths of the case files of a task's recorded batches; none for a task without any."""
    folder = FOLDER if task == DETECT.name else FOLDER / task
    return sorted(folder.glob("*.safetensors"))
