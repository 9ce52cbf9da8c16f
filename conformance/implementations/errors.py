"""Exceptions about implementations: those that cannot be found or installed, and those that fail."""


class UnknownImplementation(LookupError):
    """No implementation was found under a name; the message says what was expected."""


class PackageUnavailable(LookupError):
    """A package could not be installed, or its adapter not be started; the message says why, and what to do."""


class ProtocolViolation(TypeError):
    """An adapter, or a value that it returned, does not follow the protocol."""


class ImplementationFailed(Exception):
    """An implementation raised, or broke the protocol, on a batch.

    Attributes:
        what: one sentence.
        details: the traceback if the adapter itself raised; None if its results were refused.
        types: names of the exception's class and its base classes if the adapter itself raised.
    """

    def __init__(self, what: str, details: str | None = None, types: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what, self.details, self.types = what, details, types


class WorkerError(Exception):
    """An implementation failed in a subprocess: it raised there, or the process died or hung.

    Attributes:
        what: one sentence.
        details: the traceback in the subprocess if it raised.
        types: names of the exception's class and its base classes if it raised.
    """

    def __init__(self, what: str, details: str | None = None, types: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what, self.details, self.types = what, details, types


def class_names(error: BaseException) -> tuple[str, ...]:
    """Return the names of an exception's class and of its base classes, the most specific first."""
    return tuple(kind.__name__ for kind in type(error).__mro__ if kind is not object)
