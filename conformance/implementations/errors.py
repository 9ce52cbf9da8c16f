"""Exceptions about implementations that cannot be found, installed or run."""


class UnknownImplementation(LookupError):
    """Error: no implementation was found under a name. The message states what was expected."""


class PackageUnavailable(LookupError):
    """Error: a package could not be installed, or its adapter not started. The message gives reason and remedy."""


class InvalidSetting(PackageUnavailable, ValueError):
    """An environment variable of the suite has a value without a meaning."""


class ProtocolViolation(TypeError):
    """Error: an adapter, or a value that it returned, does not follow the protocol."""


class ImplementationFailed(Exception):
    """Error: an implementation raised, or violated the protocol, on a batch.

    Attributes:
        what: one sentence.
        details: the traceback if the adapter itself raised; None if its results violated the protocol.
        types: names of the exception's class and its base classes if the adapter itself raised.
    """

    def __init__(self, what: str, details: str | None = None, types: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what, self.details, self.types = what, details, types


class WorkerError(Exception):
    """Error: an implementation failed in a subprocess: it raised there, or the process died or hung.

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
