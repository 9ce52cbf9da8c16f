"""TODO tal_conformance.implementations.errors."""


class ProtocolViolation(TypeError):
    """An adapter, or what it returned, is not what the protocol asks for."""


class WorkerError(Exception):
    """An implementation failed in a process of its own: it raised there, or the process died or hung.

    Attributes:
        what: one sentence.
        details: its traceback there, if it raised.
    """

    def __init__(self, what: str, details: str | None = None) -> None:
        super().__init__(what)
        self.what, self.details = what, details


class UnknownImplementation(LookupError):
    """No implementation can be had under this name; the message says what was expected."""


class PackageUnavailable(LookupError):
    """A package that cannot be had here; the message says why, and what to do."""
