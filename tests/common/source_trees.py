"""Changes of Ultralytics' source code that tests make in a copy of its package."""

EXCHANGED = """

_made = TaskAlignedAssigner.__init__


def _exchanged(self, *arguments, **named):
    _made(self, *arguments, **named)
    self.alpha, self.beta = self.beta, self.alpha


TaskAlignedAssigner.__init__ = _exchanged
"""
"""Code that, appended to the assigner's module, exchanges alpha and beta."""
