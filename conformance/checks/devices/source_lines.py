"""Where something happened: the line of somebody's own code, and what that line made.

Frames of PyTorch, of this package and of the libraries that check types are passed over, so that what is named is the
line that a reader can change.
"""

import linecache
import sys
from dataclasses import dataclass
from pathlib import Path
from types import FrameType

import torch

PASSED_OVER = (
    str(Path(torch.__file__).parent),
    str(Path(__file__).parent),
    "<@beartype",
    "<@jaxtyped",
    "<string>",
)
"""Beginnings of the file names of frames that are nobody's own code."""


@dataclass(frozen=True)
class Line:
    """One line of code.

    Attributes:
        path: of its file.
        number: from 1.
    """

    path: str
    number: int

    @property
    def code(self) -> str:
        """The line itself; empty where its file cannot be read."""
        return linecache.getline(self.path, self.number).strip()

    def __str__(self) -> str:
        """`article.py:112: topk_mask = torch.zeros(...)`, with the file's folder."""
        path = Path(self.path)
        code = f": {self.code}" if self.code else ""
        return f"{path.parent.name}/{path.name}:{self.number}{code}"


@dataclass(frozen=True)
class Origin:
    """How a tensor came to be on the CPU.

    Attributes:
        operation: what made it, as one writes it: `torch.arange`.
        line: where.
        moved: its numbers, or some of them, had been on the device before.
    """

    operation: str
    line: Line
    moved: bool = False

    def __str__(self) -> str:
        what = "moved to the CPU" if self.moved else "made on the CPU"
        return f"{what} by {self.operation} at {self.line}"


def own_frame() -> FrameType | None:
    """The innermost frame that is somebody's own code."""
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code.co_filename.startswith(PASSED_OVER):
        frame = frame.f_back
    return frame


def own_line() -> Line:
    """The line of somebody's own code that is being executed."""
    frame = own_frame()
    return Line("?", 0) if frame is None else Line(frame.f_code.co_filename, frame.f_lineno)
