"""Exceptions about implementations that cannot be found, installed or run."""

from tal_conformance.core.names import LONGEST_MESSAGE, cut


class UnknownImplementation(LookupError):
    """Error: the value of `--implementation` does not name an implementation. The message states what was expected.

    Attributes:
        details: traceback of the exception that an import of the implementation raised; "" without one.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class PackageUnavailable(LookupError):
    """Error: a package could not be installed, or an adapter not be started. The message says why, and what to do.

    Attributes:
        details: traceback of the exception that the adapter raised; "" without one.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(cut(message, LONGEST_MESSAGE))
        self.details = details


class InvalidSetting(PackageUnavailable, ValueError):
    """Error: an environment variable of the suite has an invalid value."""


class ProtocolViolation(TypeError):
    """Error: an adapter, or a value that it returned, does not follow the protocol.

    Attributes:
        details: traceback of the exception that the adapter raised while it was made; "" without one.
    """

    def __init__(self, message: str, details: str = "") -> None:
        super().__init__(message)
        self.details = details


class ImplementationFailed(Exception):
    """Error: an implementation raised, or violated the protocol, on a batch.

    Attributes:
        what: the failure, as a sentence without a subject, such as "raised ValueError: ...".
        details: the traceback if the adapter itself raised; None if its results violated the protocol.
        types: names of the exception's class and its base classes if the adapter itself raised.
        formal: a sentence if the failure is a formal mistake (not a wrong value), which is reported once, while
            other batches are judged further; "" otherwise.
    """

    def __init__(self, what: str, details: str | None = None, types: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what, self.details, self.types = what, details, types
        self.formal = ""


class AnsweredUnsupported(ImplementationFailed):
    """Error: an implementation returned a result for a batch that its adapter declares not to support.

    Args:
        reason: the reason that the adapter gives.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(
            f"returned an answer for what it declares not to support ({reason}): raise an error instead, or support it"
        )
        self.formal = self.what


class NotSupported(Exception):
    """An implementation raised on a batch that its adapter declares not to support; this is not a failure.

    Attributes:
        reason: the reason that the adapter gives, as one line.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class WorkerError(Exception):
    """Error: an implementation failed in a subprocess: it raised there, or the process died or hung.

    Attributes:
        what: the failure, as a sentence without a subject, such as "raised ValueError: ...".
        details: the traceback in the subprocess if it raised.
        types: names of the exception's class and its base classes if it raised.
    """

    def __init__(self, what: str, details: str | None = None, types: tuple[str, ...] = ()) -> None:
        super().__init__(what)
        self.what, self.details, self.types = what, details, types


def class_names(error: BaseException) -> tuple[str, ...]:
    """Return the names of an exception's class and of its base classes, the most specific first."""
    return tuple(kind.__name__ for kind in type(error).__mro__ if kind is not object)
