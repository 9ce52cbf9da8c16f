"""Batches that come with this project: recorded while Ultralytics' trainer learnt drawn rectangles.

`python -m tal_conformance.training.rectangles FOLDER` draws, trains and records again: the same files on the same
processor.
Seven files: the first step, the one without ground truths, those with the most and the smallest ground truth and the
largest loss; two under automatic mixed precision.
"""

from pathlib import Path

FOLDER = Path(__file__).parent / "data" / "recorded"


def shipped() -> list[Path]:
    """Their case files."""
    return sorted(FOLDER.glob("*.safetensors"))
