"""Worker processes: releases and projects that are not installed here, each in a process and a folder of its own.

`packages` fetches what is named into a cache and verifies it on each use; `process` starts, asks, restarts and kills
the process; `child` is what runs in it; `frames` is what passes between the two; `remote` makes the whole look like any
other adapter.
"""

from conformance.workers.packages import Package, Unavailable, fetched
from conformance.workers.process import Worker, WorkerFailed
from conformance.workers.remote import RemoteAdapter

__all__ = ["Package", "RemoteAdapter", "Unavailable", "Worker", "WorkerFailed", "fetched"]
