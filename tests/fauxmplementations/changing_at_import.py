"""A module that changes global state when imported, as selected by the environment variable `CHANGE`."""

import os
import threading
import time
from importlib import import_module

import torch
from misbehaving import Right


def topk() -> None:
    torch.topk = torch.sort  # type: ignore[assignment]


def official() -> None:
    import_module("ultralytics.utils.tal").TaskAlignedAssigner.get_pos_mask = None


def judge() -> None:
    import_module("tal_conformance.judgement.judge").judge = lambda *_: None  # type: ignore[attr-defined]


CHANGES = {
    "default dtype": lambda: torch.set_default_dtype(torch.float64),
    "default device": lambda: torch.set_default_device("meta"),
    "threads": lambda: torch.set_num_threads(torch.get_num_threads() + 1),
    "denormal numbers flushed": lambda: torch.set_flush_denormal(True),
    "gradients enabled": lambda: torch.set_grad_enabled(False),
    "torch.topk": topk,
    "ultralytics.utils.tal.TaskAlignedAssigner.get_pos_mask": official,
    "tal_conformance.judgement.judge.judge": judge,
    "left a thread running": lambda: threading.Thread(target=time.sleep, args=(600,), daemon=True).start(),
}
CHANGES.get(os.environ.get("CHANGE", ""), lambda: None)()
Adapter = Right
