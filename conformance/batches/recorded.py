"""The seven recorded batches of this project: inputs of the loss while Ultralytics' trainer trained on rectangles.

They are the first step, a step without ground truths, the steps with the most and with the smallest ground truths and
with the largest loss, and two steps under automatic mixed precision. `python -m tal_conformance.training.rectangles
FOLDER` trains and records them again, with identical files on the same processor.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "recorded"


def recorded_cases() -> list[Path]:
    """Return the paths of the recorded batches' case files."""
    return sorted(FOLDER.glob("*.safetensors"))
