"""Other projects' implementations, as they were published on PyPI: `yolo9`, or `yolo9==X.Y.Z`. Each runs in a worker.

`project` makes the adapter that the suite sees. What runs in the worker is in the module of each: it knows where the
project keeps its assigner and loss and what they want, calls them, and computes nothing itself.
"""

from conformance.implementations.projects.table import PROJECTS, project

__all__ = ["PROJECTS", "project"]
