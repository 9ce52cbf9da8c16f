"""Source lines of the implementation under test: the line of a call, and the origin of a tensor.

Frames of PyTorch, of this package and of run-time type checkers are skipped, so that a message names a line of the
implementation.
"""

import linecache
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

SKIPPED = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    "<@beartype",
    "<@jaxtyped",
    "<string>",
)
"""Prefixes of file names whose frames are skipped."""


@dataclass(frozen=True)
class Line:
    """One line of code.

    Attributes:
        path: path of the file.
        number: line number, from 1.
    """

    path: str
    number: int

    @property
    def code(self) -> str:
        """Text of the line; empty if the file cannot be read."""
        return linecache.getline(self.path, self.number).strip()

    def __str__(self) -> str:
        """Return folder, file, number and text: `adapters/article.py:112: topk_mask = torch.zeros(...)`."""
        path = Path(self.path)
        code = f": {self.code}" if self.code else ""
        return f"{path.parent.name}/{path.name}:{self.number}{code}"


@dataclass(frozen=True)
class Origin:
    """Origin of a CPU tensor: the call that made it or moved it to the CPU.

    Attributes:
        operation: operation that made the tensor, such as `torch.arange`.
        line: line of that call.
        moved: True if values of the tensor were moved from the device to the CPU.
    """

    operation: str
    line: Line
    moved: bool = False

    def __str__(self) -> str:
        event = "moved to the CPU" if self.moved else "made on the CPU"
        return f"{event} by {self.operation} at {self.line}"


def own_frame() -> FrameType | None:
    """Return the innermost frame of the implementation's code, or None."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(SKIPPED):
        frame = frame.f_back
    return frame


def own_line() -> Line:
    """Return the line that is being executed in the innermost frame of the implementation's code."""
    frame = own_frame()
    return Line("?", 0) if frame is None else Line(frame.f_code.co_filename, frame.f_lineno)
