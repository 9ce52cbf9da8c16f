"""Calls in two processes that train together: each process has its own batch, and gloo connects them.

Both processes are forked from this process, so that they start immediately and have the same implementation.
"""

import fcntl
import json
import os
import socket
import struct
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import distributed

from tal_conformance.core.processes import kill
from tal_conformance.implementations.calling.call import Answer, Caller
from tal_conformance.implementations.guards.exceptions import failure_from

RANKS = 2
RANK_THREADS = 1
"""Number of torch's threads in each process: the threads of a process do not survive its fork."""
GET_FLAGS, SET_FLAGS, INTERFACE_UP = 0x8913, 0x8914, 1
"""Linux's numbers for reading and writing the flags of a network interface, and the flag of one that is on."""
INTERFACE = struct.Struct("16sH14x")
"""Name and flags of a network interface."""
PATIENCE = 60
"""Time limit in seconds of both processes together."""


def in_two_processes(caller: Caller) -> Iterator[Answer]:
    """Call the loss in two processes of a process group: call 0 at rank 0, call 1 at rank 1. Yield the results."""
    with tempfile.TemporaryDirectory(prefix="tal-conformance-ranks-") as name:
        folder = Path(name)
        children = [_fork(caller, rank, folder) for rank in range(RANKS)]
        _wait(children)
        for rank in range(RANKS):
            yield _answer(folder, rank)


def _fork(caller: Caller, rank: int, folder: Path) -> int:
    """Fork a process that makes the call whose index is `rank`, and return the id of the new process."""
    child = os.fork()
    if child:
        return child
    try:
        _run(caller, rank, folder)
    finally:
        os._exit(0)  # neither pytest's nor the worker's own clean-up runs twice


def _run(caller: Caller, rank: int, folder: Path) -> None:
    """Make the call whose index is `rank`, in the process of this rank, and store the results in `folder`."""
    fields: dict[str, Any] = {}
    try:
        torch.set_num_threads(RANK_THREADS)
        os.environ |= {"GLOO_SOCKET_IFNAME": "lo", "WORLD_SIZE": str(RANKS)}
        os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}  # as torchrun sets them
        _raise_loopback()
        distributed.init_process_group(
            "gloo",
            init_method=f"file://{folder / 'store'}",
            rank=rank,
            world_size=RANKS,
            timeout=timedelta(seconds=PATIENCE / 2),
        )
        answer = caller.train("", call=rank)
        distributed.barrier()
        save_file(
            {name: tensor.contiguous() for name, tensor in answer.tensors.items()}, folder / f"{rank}.tensors"
        )
    except BaseException as error:
        failed = failure_from(error)
        fields = {"failure": failed.what, "details": failed.details or traceback.format_exc()}
    (folder / f"{rank}.json").write_text(json.dumps(fields), encoding="utf-8")
    with suppress(Exception):
        distributed.destroy_process_group()


def _raise_loopback() -> None:
    """Switch the loopback interface on if it is off, as it is in a worker without network access."""
    with suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as endpoint:
        answer = fcntl.ioctl(endpoint, GET_FLAGS, INTERFACE.pack(b"lo", 0))
        _, flags = INTERFACE.unpack(answer)
        if not flags & INTERFACE_UP:
            fcntl.ioctl(endpoint, SET_FLAGS, INTERFACE.pack(b"lo", flags | INTERFACE_UP))


def _wait(children: list[int]) -> None:
    """Wait for the processes with these ids, and kill processes that hang."""
    deadline, left = time.monotonic() + PATIENCE, set(children)
    while left and time.monotonic() < deadline:
        left -= {child for child in left if os.waitpid(child, os.WNOHANG)[0]}
        time.sleep(0.01)
    kill(left)
    for child in left:
        os.waitpid(child, 0)


def _answer(folder: Path, rank: int) -> Answer:
    """Return the results that the process of a rank stored."""
    how = f"as rank {rank} of {RANKS} processes"
    path = folder / f"{rank}.json"
    if not path.is_file():
        return Answer(rank, how, {}, f"gave no answer within {PATIENCE} s, or its process died")
    fields = json.loads(path.read_text(encoding="utf-8"))
    tensors = {} if fields else load_file(folder / f"{rank}.tensors")
    return Answer(rank, how, tensors, fields.get("failure"), fields.get("details"))
