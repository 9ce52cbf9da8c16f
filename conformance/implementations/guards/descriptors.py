"""Keep file descriptors free for the suite, whatever an implementation in its process opens."""

import errno
import os
import resource
from collections.abc import Iterator
from contextlib import contextmanager, suppress

RESERVED = 32
"""Number of file descriptors that an implementation cannot take: a report needs fewer than ten, a worker five."""


class Descriptors:
    """The file descriptors that a call used up.

    Attributes:
        left: number of descriptors that the call left open and that were closed; 0 if descriptors were still free.
    """

    def __init__(self) -> None:
        self.left = 0


@contextmanager
def reserve_descriptors() -> Iterator[Descriptors]:
    """Lower the limit of file descriptors during the block; if no descriptor is then free, close those left open."""
    result, before = Descriptors(), open_descriptors()
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowered = min(soft, max(soft - RESERVED, len(before) + RESERVED))
    if soft != resource.RLIM_INFINITY:
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowered, hard))
    try:
        yield result
    finally:
        full = is_full()
        with suppress(ValueError, OSError):  # the block lowered the hard limit
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        if full:
            left = open_descriptors() - before
            result.left = len(left)
            for descriptor in left:
                with suppress(OSError):
                    os.close(descriptor)


def open_descriptors() -> set[int]:
    """Return the numbers of the open file descriptors of this process; the empty set where /proc does not exist."""
    try:
        found = set(map(int, os.listdir("/proc/self/fd")))  # noqa: PTH208 (read twice a batch)
        lowest = os.open(os.devnull, os.O_RDONLY)  # the number of the descriptor that listdir had open
        os.close(lowest)
    except OSError:
        return set()
    return found - {lowest}


def is_full() -> bool:
    """Return True if this process can open no further file."""
    try:
        os.close(os.open(os.devnull, os.O_RDONLY))
    except OSError as error:
        return error.errno == errno.EMFILE
    return False
