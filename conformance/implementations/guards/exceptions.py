"""Treat every exception of an implementation as its failure, except a real Ctrl-C.

`pytest.skip()`, `pytest.xfail()`, `sys.exit()`, `KeyboardInterrupt`, `GeneratorExit` and `asyncio.CancelledError` do
not derive from `Exception`. Raised by an implementation, they would skip a test or end the run; here they count as an
error of the implementation. A real Ctrl-C is recognised by the signal that arrives with it, which the supervisor of the
run receives too.
"""

import os
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tal_conformance.core.interrupts import Interrupts, lost_interrupts
from tal_conformance.core.names import LONGEST_MESSAGE, LONGEST_TRACEBACK, cut
from tal_conformance.implementations.errors import (
    ImplementationFailed,
    ProtocolViolation,
    WorkerError,
    class_names,
)
from tal_conformance.implementations.guards.side_effects import SideEffectError
from tal_conformance.implementations.guards.torch_state import StateChanged

SENT_BY_CODE = (
    "interrupted the run: it sent SIGINT (Ctrl-C) to this process, or changed the record of interrupts"
)
"""Error of an implementation that pretends that the user pressed Ctrl-C."""
TRACEBACK_ELSEWHERE = "; the report has the traceback"
"""Part of the message of a raised exception, which commands without a report leave out."""


@contextmanager
def recorded_interrupts() -> Iterator[Interrupts]:
    """Record SIGINT while the block runs, and also call the previous handler, which is restored afterwards.

    In threads other than the main thread nothing is recorded, because Python delivers signals to the main thread.

    Raises:
        KeyboardInterrupt: the signal arrived, and the block suppressed the interrupt; or it arrived before the block,
            and Python discarded the interrupt.
        ProtocolViolation: code in the block sent the signal, or changed the record of interrupts.
    """
    lost_interrupts.raise_if_arrived()
    interrupts = Interrupts()
    restore = interrupts.record(during_call=True)
    try:
        yield interrupts
    finally:
        restore()
        if lost_interrupts.arrived and not interrupts.arrived:
            lost_interrupts.forget()
            interrupts.sent_by_code = True
    interrupts.raise_if_arrived()
    if interrupts.sent_by_code:
        raise ProtocolViolation(SENT_BY_CODE)


@contextmanager
def exceptions_as_failures() -> Iterator[None]:
    """Convert every exception of the `with` block to `ImplementationFailed`, except a real interrupt.

    Raises:
        ImplementationFailed: the block raised.
        KeyboardInterrupt: the user interrupted the run.
    """
    try:
        with recorded_interrupts() as interrupts:
            try:
                yield
            except BaseException as error:
                interrupts.raise_if_arrived()
                failure = failure_from(error)
                _clear_frames(error)
                raise failure from error
    except ProtocolViolation as violation:
        raise failure_from(violation) from violation


def _clear_frames(error: BaseException) -> None:
    """Release the local variables of an exception's frames, because pytest and Hypothesis keep exceptions for long."""
    seen: set[int] = set()
    links: list[BaseException | None] = [error]
    while links:
        link = links.pop()
        if link is not None and id(link) not in seen:
            seen.add(id(link))
            traceback.clear_frames(link.__traceback__)
            links += [link.__cause__, link.__context__]


def failure_from(error: BaseException) -> ImplementationFailed:
    """Return the failure that corresponds to an exception of an implementation, or of a guard around it."""
    if isinstance(error, ImplementationFailed):
        return error
    if isinstance(error, WorkerError):
        return ImplementationFailed(error.what, error.details, error.types)
    if isinstance(error, (ProtocolViolation, StateChanged, SideEffectError)):
        return ImplementationFailed(str(error))
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, line {place.lineno}"
    return ImplementationFailed(
        f"raised {exception_text(error)} ({where}{TRACEBACK_ELSEWHERE})",
        cut("".join(traceback.format_exception(error)), LONGEST_TRACEBACK),
        class_names(error),
    )


OWN_FRAMES = (
    f"{os.sep}importlib{os.sep}",
    "<frozen importlib",
    str(Path(__file__).parents[1]),
    str(Path(__file__).resolve().parents[1]),  # src/ holds links
)
"""Beginnings or parts of the files whose frames `own_traceback` leaves out: imports, and this package."""


def own_traceback(error: BaseException) -> str:
    """Return the traceback of an exception of an adapter's code, without the frames of the import system and the suite.

    A syntax error has no frames besides these; its message contains its file and line.
    """
    whole = traceback.TracebackException.from_exception(error)
    frames = [frame for frame in whole.stack if not any(part in frame.filename for part in OWN_FRAMES)]
    whole.stack = traceback.StackSummary.from_list(frames)
    whole.__cause__ = whole.__context__ = None
    return cut("".join(whole.format()).rstrip("\n"), LONGEST_TRACEBACK)


def exception_text(error: BaseException) -> str:
    """Return `Type: message` of an exception, even if its message cannot be computed."""
    try:
        message = str(error)
    except BaseException as problem:
        message = f"(its message raised {type(problem).__name__})"
    return f"{cut(type(error).__name__, LONGEST_MESSAGE)}: {cut(message, LONGEST_MESSAGE)}"
