"""The worker process: reads requests from one pipe, calls an adapter, and writes the results into another pipe.

A request is a message with several questions; a question holds the arguments of one call of the adapter, or of a
sequence of calls. The reply is a message with one answer for each question: results, or a description of an exception.

The pipes are separate from standard output, so that text printed by the adapter goes into the process's log and cannot
damage the replies. The network and package installers are blocked. When the suite ends, in whatever way, the process
group ends too.
"""

import contextlib
import importlib
import importlib.util
import os
import re
import resource
import signal
import sys
import threading
import traceback
from collections.abc import Callable, Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

from tal_conformance.core.cache import damage
from tal_conformance.core.names import LONGEST_MESSAGE, LONGEST_TRACEBACK, cut
from tal_conformance.core.processes import descendants, kill
from tal_conformance.core.task import DETECT
from tal_conformance.implementations.errors import class_names
from tal_conformance.implementations.support import tasks_with_class_weights
from tal_conformance.implementations.workers.confine import HOOKS, NETWORK_VARIABLE
from tal_conformance.implementations.workers.memory import RLIMIT, UNLIMITED
from tal_conformance.implementations.workers.messages import (
    LIMIT_VARIABLE,
    OUT_OF_MEMORY,
    Message,
    decoded,
    encoded,
)
from tal_reference import NEWEST, Dialect, spelling

NETWORK = ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto", "socket.sendmsg")
"""Audit events of network access."""
STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn")
"""Audit events that start another program."""
LONGEST_FILE = 2**28
"""Size limit in bytes of every file that the process writes, its log included."""
INSTALLER = re.compile(r"\bpip3?\b|\buv\b|\bconda\b")


class Blocked(OSError):
    """Error: a worker tried to use the network or to install a package."""


def block(event: str, arguments: tuple[Any, ...]) -> None:
    """Raise if an audit event is network access or the start of an installer; used as an audit hook.

    Raises:
        Blocked: the event is network access, or the start of an installer.
    """
    if event in NETWORK:
        raise Blocked(f"network access is blocked in a worker process ({event})")
    if event in STARTS and INSTALLER.search(str(arguments)):
        raise Blocked(f"installing packages is blocked in a worker process ({event})")


def follow_to_the_end(lifeline: int) -> None:
    """Wait until the suite's end of the pipe is closed, then end the whole process group."""
    os.read(lifeline, 1)
    kill(descendants() - {os.getpid()})
    os.killpg(os.getpgrp(), signal.SIGKILL)


def end_if_out_of_memory(error: BaseException) -> None:
    """End the process if the error means that the memory limit is reached, so that the memory is freed at once."""
    if isinstance(error, MemoryError):
        os._exit(OUT_OF_MEMORY)  # immediately: there may be no memory for a message
    if "can't allocate memory" in str(error):
        print(f"{type(error).__name__}: {str(error).splitlines()[0][:300]}", file=sys.stderr, flush=True)
        os._exit(OUT_OF_MEMORY)


def limit_resources() -> None:
    """Limit the memory and file sizes of this process. `confine` has made it the parent of all orphaned descendants.

    If the machine itself runs out of memory, the system ends this process first, not the suite.
    """
    if not sys.platform.startswith("linux"):
        return
    with contextlib.suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    resource.setrlimit(resource.RLIMIT_FSIZE, (LONGEST_FILE, LONGEST_FILE))
    limit = int(os.environ.get(LIMIT_VARIABLE, "0"))
    if limit:
        resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))


def limited_by() -> str:
    """Return the limit of this process's memory that the system enforces: `RLIMIT` or `UNLIMITED`."""
    limit = int(os.environ.get(LIMIT_VARIABLE, "0"))
    return RLIMIT if limit and resource.getrlimit(resource.RLIMIT_DATA)[1] == limit else UNLIMITED


class Stub(type):
    """Metaclass of a stub for every attribute of a stub module: reading or calling the stub returns the stub itself.

    Using a stub in a computation raises TypeError.
    """

    def __getattr__(cls, name: str) -> "Stub":
        if name.startswith("__"):
            raise AttributeError(name)
        return cls

    def __call__(cls, *_: Any, **__: Any) -> "Stub":
        """Return the stub itself."""
        return cls

    def __iter__(cls) -> Iterator[Any]:
        return iter(())

    def __getitem__(cls, _: Any) -> "Stub":
        return cls


def stub_module(name: str) -> None:
    """Install a stub for a missing module that the package imports but its assigner and loss never use.

    Reading and calling the stub's attributes succeeds; using the result in a computation raises TypeError.
    """
    if name in sys.modules or importlib.util.find_spec(name) is not None:
        return
    nothing = Stub(name, (), {})

    def attribute(wanted: str) -> Stub:
        if wanted.startswith("__"):
            raise AttributeError(wanted)
        return nothing

    module = ModuleType(name)
    module.__path__, module.__spec__ = [], ModuleSpec(name, None)
    module.__dict__["__getattr__"] = attribute
    sys.modules[name] = module


def reader(pipe: int) -> Callable[[int], bytes]:
    """Return a function that reads a given number of bytes from the pipe; the process ends if the pipe is closed."""

    def read(count: int) -> bytes:
        block = bytearray(count)
        left = memoryview(block)
        while left:
            came = os.readv(pipe, [left])
            if not came:
                os._exit(0)
            left = left[came:]
        return bytes(block)

    return read


def write(pipe: int, frame: bytes) -> None:
    """Write all bytes of a message into the pipe."""
    view = memoryview(frame)
    while view:
        view = view[os.write(pipe, view) :]


def made(fields: dict[str, Any]) -> Any:
    """Make the adapter: import the `module:object` of the first message, and call it with the message's arguments."""
    for entry in fields.get("entries", ()):
        problem = damage(Path(entry))
        if problem is not None:
            raise ImportError(f"{entry}: {problem}; the package was changed after its hashes were verified")
    for name in fields["stand_ins"]:
        stub_module(name)
    module, _, attribute = fields["adapter"].partition(":")
    return getattr(importlib.import_module(module), attribute)(**fields["arguments"])


def spelt_dialect(dialect: Any) -> str:
    """Return a dialect as a text that the suite can parse (a list of its choices); return unchanged if it is a text."""
    return spelling(dialect) if isinstance(dialect, Dialect) else str(dialect)


def first_answer(request: Message) -> tuple[Any, bytes]:
    """Make the adapter, and return it with the message that describes the adapter to the suite."""
    from tal_conformance.implementations.protocol import MIXED, exposes_stages_of

    torch.set_num_threads(request.fields["threads"])
    adapter = made(request.fields)
    about = {
        name: cut(str(getattr(adapter, name, "unknown")), LONGEST_MESSAGE) for name in ("name", "version")
    }
    about["dialect"] = spelt_dialect(getattr(adapter, "dialect", NEWEST))
    return adapter, encoded(
        about
        | {
            "shows_stages": exposes_stages_of(adapter),
            "precisions": list(getattr(adapter, "precisions", MIXED)),
            "precisions_by_task": getattr(adapter, "precisions_by_task", {}),
            "tasks": list(getattr(adapter, "tasks", (DETECT.name,))),
            "unsupported_ways": list(getattr(adapter, "unsupported_ways", ())),
            "reduces_over_ranks": getattr(adapter, "reduces_over_ranks", None),
            "supports": callable(getattr(adapter, "supports", None)),
            "supports_no_truths": bool(getattr(adapter, "supports_no_truths", True)),
            "class_weights": list(tasks_with_class_weights(adapter, about["name"])),
            "assigns": callable(getattr(adapter, "assign", None)),
            "computes_loss": callable(getattr(adapter, "loss", None)),
            "network": os.environ.get(NETWORK_VARIABLE, HOOKS),
            "memory": limited_by(),
        }
    )


def failure(error: BaseException) -> bytes:
    """Return the message that describes an exception, sent in place of a result."""
    return encoded(decoded_failure(error))


def serve(requests: int, answers: int) -> None:
    """Read requests and reply to them, one after the other, until the pipe `requests` is closed."""
    from tal_conformance.core.determinism import fixed_arithmetic
    from tal_conformance.implementations.workers.remote import REMAKE, answer

    read = reader(requests)
    first = decoded(read)
    try:
        adapter, reply = first_answer(first)
    except BaseException as error:
        write(answers, failure(error))
        return
    write(answers, reply)
    REMAKE.append(lambda: made(first.fields))
    with fixed_arithmetic():
        while True:
            request = decoded(read)
            write(answers, answered(adapter, request, answer))


Answer = Callable[[Any, dict[str, Any], dict[str, Tensor]], tuple[dict[str, Any], dict[str, Tensor]]]


def answered(adapter: Any, request: Message, answer: Answer) -> bytes:
    """Return one encoded message with the results of all calls of the adapter that a request asks for."""
    replies: list[dict[str, Any]] = []
    tensors: dict[str, Tensor] = {}
    for number, question in enumerate(request.fields["questions"]):
        prefix = f"{number}."
        own = {
            name.removeprefix(prefix): tensor
            for name, tensor in request.tensors.items()
            if name.startswith(prefix)
        }
        try:
            fields, results = answer(adapter, question, own)
        except BaseException as error:  # SystemExit, pytest.skip() and the like are the adapter's errors too
            end_if_out_of_memory(error)
            fields, results = decoded_failure(error), {}
        replies.append(fields)
        tensors |= {prefix + name: tensor for name, tensor in results.items()}
    try:
        return encoded({"answers": replies}, tensors)
    except Exception as error:  # results with tensors that cannot be sent
        return encoded({"answers": [decoded_failure(error) for _ in replies]})


def decoded_failure(error: BaseException) -> dict[str, Any]:
    """Return the fields that describe the exception `error`, which was raised while a request was processed."""
    try:
        message = str(error)
        details = str(getattr(error, "details", "") or traceback.format_exc())
    except BaseException as problem:
        message, details = f"(its message raised {type(problem).__name__})", ""
    return {
        "raised": cut(type(error).__name__, LONGEST_MESSAGE),
        "types": [cut(name, LONGEST_MESSAGE) for name in class_names(error)[:20]],
        "message": cut(message, LONGEST_MESSAGE),
        "traceback": cut(details, LONGEST_TRACEBACK),
    }


def main(requests: int, answers: int, lifeline: int) -> None:
    """Set up this process as a worker, and reply to requests until the pipe `requests` is closed.

    Args:
        requests: file descriptor of the pipe to read from.
        answers: file descriptor of the pipe to write to.
        lifeline: file descriptor of a pipe that is closed when the suite ends.
    """
    for pipe in (requests, answers, lifeline):
        os.set_inheritable(pipe, False)
    threading.Thread(target=follow_to_the_end, args=(lifeline,), daemon=True).start()
    sys.addaudithook(block)
    limit_resources()
    try:
        serve(requests, answers)
    except Exception as error:
        end_if_out_of_memory(error)
        raise
